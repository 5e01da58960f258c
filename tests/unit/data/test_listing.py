from dataclasses import replace
from pathlib import Path

import pytest

from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.data.listing import TableLayout, TreeLayout
from afr_clip.data.templates import match_files


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


def test_stray_files_are_passed_over(tmp_path):
    touch(tmp_path, "a/1.png", "a/Thumbs.db", "a/.DS_Store", "a/._1.png", "a/notes.txt", "__MACOSX/1.png", ".git/1.png")
    (tmp_path / "a" / "folder.png").mkdir()
    assert list(match_files(tmp_path, "{category}/{stem}", {}).values()) == [tmp_path / "a/1.png"]


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "Jpeg", "BMP", "tif", "TIFF", "webp"])
def test_suffixes_in_any_case_are_images(tmp_path, suffix):
    touch(tmp_path, f"a/1.{suffix}")
    assert match_files(tmp_path, "{category}/{stem}", {}) == {
        (("category", "a"), ("stem", "1")): tmp_path / f"a/1.{suffix}"
    }


def test_names_may_hold_spaces_dots_and_glob_characters(tmp_path):
    touch(tmp_path, "my [set]/te*st/v1.2 final.tar.png")
    found = match_files(tmp_path, "{category}/{split}/{stem}", {"category": "my [set]", "split": "te*st"})
    assert [dict(key)["stem"] for key in found] == ["v1.2 final.tar"]


def test_one_name_with_two_suffixes_is_refused(tmp_path):
    touch(tmp_path, "a/001.jpg", "a/001.png")
    with pytest.raises(DataError, match=r"must not share a name, got .*001\.jpg and 001\.png"):
        match_files(tmp_path, "{category}/{stem}", {})


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
