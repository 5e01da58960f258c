from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afr_clip.data.disk.listing import TableLayout, TreeLayout, Truth
from afr_clip.data.errors import DataError, MissingDataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


FLAT = TreeLayout(
    marker="images",
    image="images/{stem}",
    masks=("Ground Truth/{stem}_Segmentation",),
    fixed={"category": "skin", "type": "lesion", "split": "test"},
)


def test_masks_of_one_folder_pair_by_name_not_by_order(tmp_path):
    touch(tmp_path, "images/b.jpg", "images/a.jpg", "images/a10.jpg", "images/a2.jpg")
    touch(tmp_path, *(f"Ground Truth/{stem}_Segmentation.PNG" for stem in ("a2", "b", "a10", "a")))
    entries = FLAT.listing(tmp_path, "test").entries
    assert len(entries) == 4
    assert all(entry.mask.stem == f"{entry.image.stem}_Segmentation" for entry in entries)
    assert {(entry.category, entry.defect_type, entry.is_anomalous) for entry in entries} == {("skin", "lesion", True)}


def test_a_fixed_split_is_the_only_one(tmp_path):
    touch(tmp_path, "images/b.jpg")
    assert FLAT.listing(tmp_path, "train").entries == ()


def test_types_outside_the_row_do_not_count(tmp_path):
    touch(tmp_path, "no/1.jpg", "yes/1.jpg", "pred/1.jpg")
    layout = TreeLayout(
        marker="yes", image="{type}/{stem}", normal_types=("no",), types=("no", "yes"), fixed={"category": "brain"}
    )
    listing = layout.listing(tmp_path, "test")
    assert sorted((entry.defect_type, entry.is_anomalous) for entry in listing.entries) == [
        ("no", False),
        ("yes", True),
    ]
    assert not listing.has_masks


def test_an_empty_ground_truth_folder_still_promises_masks(tmp_path):
    touch(tmp_path, "images/b.jpg")
    assert not FLAT.listing(tmp_path, "test").has_masks
    (tmp_path / "Ground Truth").mkdir()
    assert FLAT.listing(tmp_path, "test").has_masks


HEAD_CT = TableLayout(
    table="labels.csv",
    image="head_ct/{id:0>3}.png",
    mask="",
    category="brain",
    split="test",
    type="{hemorrhage}",
    normal_types=("0",),
)


def test_a_table_of_labels_reads_like_any_other(tmp_path):
    (tmp_path / "labels.csv").write_text("\ufeffid, hemorrhage\n7,0\n12,1\n", encoding="utf-8")
    listing = HEAD_CT.listing(tmp_path, "test")
    assert [(entry.image.name, entry.is_anomalous) for entry in listing.entries] == [
        ("007.png", False),
        ("012.png", True),
    ]
    assert not listing.has_masks


@pytest.mark.parametrize("content", ["id,label\n1,0\n", "", "id,hemorrhage\n"])
def test_a_table_without_its_columns_is_refused(tmp_path, content):
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(DataError, match=r"labels\.csv must have rows with the columns \['hemorrhage', 'id'\]"):
        HEAD_CT.listing(tmp_path, "test")


@pytest.mark.parametrize(
    ("columns", "labels"), [("id, hemorrhage", "7,0\n12,1\n"), ("id,hemorrhage,", "7,0,,\n12,1,,\n")]
)
def test_labels_go_by_their_names_and_further_columns_do_no_harm(tmp_path, columns, labels):
    (tmp_path / "labels.csv").write_text(f"{columns}\n{labels}")
    named = replace(HEAD_CT, type_names={"0": "normal", "1": "hemorrhage"}, normal_types=("normal",))
    entries = named.listing(tmp_path, "test").entries
    assert [(entry.defect_type, entry.is_anomalous) for entry in entries] == [("normal", False), ("hemorrhage", True)]


@pytest.mark.parametrize("label", ["", "2", "x"])
def test_a_label_without_a_name_is_not_taken_for_a_defect(tmp_path, label):
    (tmp_path / "labels.csv").write_text(f"id,hemorrhage\n7,0\n12,{label}\n")
    named = replace(HEAD_CT, type_names={"0": "normal", "1": "hemorrhage"})
    with pytest.raises(DataError, match=rf"one of \['0', '1'\], got '{label}' for head_ct/012\.png"):
        named.listing(tmp_path, "test")


def test_a_table_is_its_own_marker_unless_the_layout_has_another():
    assert HEAD_CT.marker == "labels.csv"
    assert replace(HEAD_CT, marker="head_ct/head_ct").marker == "head_ct/head_ct"


def test_a_lost_table_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"labels\.csv must say what the images show"):
        HEAD_CT.listing(tmp_path, "test")


def save(path: Path, *values: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([values], dtype=np.uint8)).save(path)


STRIPS = TreeLayout(
    marker="kos*",
    image="{item:kos[0-9]+}/{stem:Part[0-9]+}",
    masks=("{item}/{stem}_label",),
    fixed={"category": "commutator", "split": "test"},
    truth=Truth.MASK_PIXELS,
)


def test_where_every_image_has_a_mask_its_pixels_tell(tmp_path):
    for item, value in (("kos01", 0), ("kos02", 255)):
        save(tmp_path / item / "Part1.jpg", 9, 9)
        save(tmp_path / item / "Part1_label.bmp", 0, value)
    touch(tmp_path, "kos03/Part1.jpg", "other/Part1.jpg")
    entries = STRIPS.listing(tmp_path, "test").entries
    said = {entry.image.parent.name: (entry.is_anomalous, entry.defect_type, entry.mask is None) for entry in entries}
    assert said == {
        "kos01": (False, "good", False),
        "kos02": (True, "defect", False),
        "kos03": (True, "defect", True),  # so that the reader refuses it for lack of its mask
    }


def test_where_only_anomalous_images_have_masks_the_files_tell(tmp_path):
    layout = replace(STRIPS, image="{category}/Test/{stem}", masks=("{category}/Test/Label/{stem}_label",),
                     fixed={"split": "test"}, truth=Truth.MASK_FILE)  # fmt: skip
    touch(tmp_path, "Class1/Test/1.PNG", "Class1/Test/2.PNG", "Class1/Test/Label/2_label.PNG")
    entries = layout.listing(tmp_path, "test").entries
    assert [(entry.image.name, entry.is_anomalous) for entry in entries] == [("1.PNG", False), ("2.PNG", True)]


def test_masks_may_lie_beside_their_images_under_the_same_name(tmp_path):
    layout = TreeLayout(
        marker="MT_Free",
        image="MT_{type}/Imgs/{stem}.jpg",
        masks=("MT_{type}/Imgs/{stem}.png",),
        normal_types=("free",),
        fixed={"category": "magnetic tile", "split": "test"},
    )
    touch(tmp_path, *(f"MT_{kind}/Imgs/1.{suffix}" for kind in ("Free", "Crack") for suffix in ("jpg", "png")))
    listing = layout.listing(tmp_path, "test")
    assert [(e.defect_type, e.is_anomalous, e.image.suffix, e.mask.suffix) for e in listing.entries] == [
        ("Crack", True, ".jpg", ".png"),
        ("Free", False, ".jpg", ".png"),
    ]
    assert listing.has_masks


def test_a_flat_folder_holds_images_and_masks(tmp_path):
    layout = replace(FLAT, marker="p*.tiff", image="{stem:[0-9]+}", masks=("p{stem}",))
    touch(tmp_path, "1.tif", "2.tiff", "p1.tiff", "p2.tiff", "cp1.tiff", "cp2.tiff")
    listing = layout.listing(tmp_path, "test")
    assert [(entry.image.name, entry.mask.name) for entry in listing.entries] == [
        ("1.tif", "p1.tiff"),
        ("2.tiff", "p2.tiff"),
    ]
    assert listing.has_masks
