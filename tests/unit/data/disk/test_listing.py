import json
import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afr_clip.data.disk.listing import CategoryJsonLayout, MetaJsonLayout, TableLayout, TreeLayout, Truth, match_files
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.errors import DataError, MissingDataError
from helpers.official import OFFICIAL
from helpers.trees import write_mvtec_tree


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_letters_in_parts_are_the_same_names(tmp_path):
    """macOS stores umlauts in two parts, a keyboard gives one."""
    apart = unicodedata.normalize("NFD", "Nüsse")
    write_mvtec_tree(tmp_path / apart, ("Nüsse",))
    (tmp_path / apart / "Nüsse/test").rename(tmp_path / apart / "test")
    (tmp_path / apart / apart).mkdir()
    (tmp_path / apart / "test").rename(tmp_path / apart / apart / "test")
    (tmp_path / apart / "Nüsse/ground_truth").rename(tmp_path / apart / apart / "ground_truth")
    samples = read_samples(DatasetSpec("own", "folder", root=tmp_path / apart, categories=("Nüsse",)))
    assert {sample.category for sample in samples} == {"Nüsse"}
    assert any(sample.mask_path is not None for sample in samples)
    assert read_samples(DatasetSpec("own", "folder", root=tmp_path / apart, categories=(apart,))) == samples


def test_odd_names_are_names(tmp_path):
    for name in ("[a]", "b*?", "two\nlines", os.fsdecode(b"\xff"), "{stem}"):
        touch(tmp_path, f"{name}/test/good/[1] *.PNG", f"{name}/test/good/2.Jpeg")
    found = match_files(tmp_path, "{category}/{split}/{type}/{stem}", {"split": "test"})
    assert len(found) == 10
    assert {dict(key)["category"] for key in found} == {"[a]", "b*?", "two\nlines", os.fsdecode(b"\xff"), "{stem}"}


def test_a_folder_that_cannot_be_listed_is_named_not_left_out(tmp_path, monkeypatch):
    write_mvtec_tree(tmp_path, ("bolt", "tile"))
    scandir = os.scandir

    def refuse(place):
        if Path(place).name == "spot":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"Cannot list the folder .*bolt/test/spot: Permission denied"):
        read_samples(DatasetSpec("own", "folder", root=tmp_path))


def test_links_are_followed_and_a_broken_one_is_missing(tmp_path):
    root = write_mvtec_tree(tmp_path / "a", ("bolt",))
    (root / "tile").symlink_to(root / "bolt")
    assert {sample.category for sample in read_samples(DatasetSpec("own", "folder", root=root))} == {"bolt", "tile"}
    (root / "bolt/test/good/gone.png").symlink_to("nowhere.png")
    with pytest.raises(MissingDataError, match=r"missing; the first is .*gone\.png"):
        read_samples(DatasetSpec("own", "folder", root=root))


def test_masks_beside_their_images_are_no_images(tmp_path):
    touch(
        tmp_path, "nut/test/good/0.png", "nut/test/crack/0.png", "nut/test/crack/0_mask.png", "nut/test/ok/m_mask.png"
    )
    with pytest.raises(DataError, match=r"seems to hold 1 such file: nut/test/crack/0_mask\.png\. Move masks"):
        read_samples(DatasetSpec("own", "folder", root=tmp_path))


def test_the_names_of_normal_types_are_told(tmp_path):
    touch(tmp_path, "nut/test/non_defective/0.png", "nut/test/defective/0.png")
    with pytest.raises(
        MissingDataError, match="of the type good or ok or normal count as normal; here are defective, non"
    ):
        read_samples(DatasetSpec("own", "folder", root=tmp_path))


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
    with pytest.raises(MissingDataError, match=r"labels\.csv is missing"):
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


def found(root: Path, template: str) -> list[str]:
    return [path.relative_to(root).as_posix() for path in match_files(root, template, {}).values()]


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


def test_a_suffix_in_a_template_is_demanded_in_any_case(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/1.png", "a/2.JPG", "a/3.jpeg")
    assert found(tmp_path, "a/{stem}.jpg") == ["a/1.jpg", "a/2.JPG"]


def test_a_field_may_have_a_form(tmp_path):
    touch(tmp_path, "kos01/Part1.jpg", "kos01/Part1_label.bmp", "kos1x/Part1.jpg", "readme/Part1.jpg")
    assert found(tmp_path, "{item:kos[0-9]+}/{stem:Part[0-9]+}") == ["kos01/Part1.jpg"]


LAYOUT = MetaJsonLayout()


def item(**changes: object) -> dict[str, object]:
    return {
        "img_path": "bolt/1.png", "mask_path": "", "cls_name": "bolt", "specie_name": "good", "anomaly": 0, **changes
    }  # fmt: skip


def write(root: Path, content: object) -> Path:
    (root / "meta.json").write_text(json.dumps(content))
    return root


def test_a_tree_of_the_family_reads_as_the_tree_it_was_made_from(tmp_path):
    counts = {"bottle": (2, 3), "metal_nut": (1, 2)}
    own = read_samples(DatasetSpec("own", "meta_json", root=OFFICIAL["meta_json"](tmp_path / "a", counts)))
    assert [(s.category, s.is_anomalous, s.mask_path is None) for s in own] == [
        (s.category, s.is_anomalous, s.mask_path is None)
        for s in read_samples(DatasetSpec("own", "mvtec_ad", root=tmp_path / "a"))
    ]
    assert {sample.prompt_name for sample in own} == {"bottle", "metal nut"}


def test_truth_is_what_the_file_says_not_what_the_folder_is_called(tmp_path):
    write_mvtec_tree(tmp_path, ("bolt",))
    items = [item(img_path="bolt/test/good/000.png"), item(img_path="bolt/test/good/001.png", anomaly=1)]
    listing = LAYOUT.listing(write(tmp_path, {"test": {"bolt": items}}), "test")
    assert [entry.is_anomalous for entry in listing.entries] == [False, True]
    assert not listing.has_masks


@pytest.mark.parametrize("split", ["test", "Test", "TEST"])
def test_splits_are_found_in_any_case(tmp_path, split):
    assert len(LAYOUT.listing(write(tmp_path, {split: {"bolt": [item()]}}), "test").entries) == 1


def test_an_unnamed_species_is_named_after_its_truth(tmp_path):
    items = [item(specie_name=""), item(specie_name="", anomaly=1, img_path="bolt/2.png")]
    entries = LAYOUT.listing(write(tmp_path, {"test": {"bolt": items}}), "test").entries
    assert [entry.defect_type for entry in entries] == ["good", "defect"]


def test_a_mask_that_is_a_folder_is_no_mask(tmp_path):
    root = write(tmp_path, {"test": {"bolt": [item(anomaly=1, mask_path="masks")]}})
    (root / "masks").mkdir()
    (entry,) = LAYOUT.listing(root, "test").entries
    assert (entry.mask, entry.mask_names) == (None, ("masks",))


@pytest.mark.parametrize(
    "wrong", [{"anomaly": 2}, {"anomaly": None}, {"img_path": None}, {"cls_name": 7}, {"mask_path": 0}]
)
def test_an_item_of_another_form_is_refused_and_shown(tmp_path, wrong):
    with pytest.raises(DataError, match=r"must have the keys img_path, .*, got .*bolt.*Generate"):
        LAYOUT.listing(write(tmp_path, {"test": {"bolt": [item(), item(**wrong)]}}), "test")


@pytest.mark.parametrize("content", [[], {"test": {"bolt": [3]}}, {"test": [3]}, {"test": {"bolt": {"a": 1}}}])
def test_a_file_of_another_shape_is_refused(tmp_path, content):
    with pytest.raises(DataError, match="Generate"):
        LAYOUT.listing(write(tmp_path, content), "test")


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(DataError, match="is not valid JSON"):
        LAYOUT.listing(tmp_path, "test")


def test_a_lost_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"meta\.json is missing"):
        LAYOUT.listing(tmp_path, "test")


def masked_tree(root: Path) -> tuple[Path, list[dict[str, object]]]:
    """A tree with umlauts in parts, as macOS stores them, and its items as the table names them."""
    folder = root / unicodedata.normalize("NFD", "Nüsse")
    for name in ("test/good/0.png", "test/crack/1.png", "ground_truth/crack/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), int("ground" in name)).save(folder / name)
    return root, [
        item(img_path="Nüsse/test/good/0.png", cls_name="Nüsse"),
        item(img_path="Nüsse/test/crack/1.png", cls_name="Nüsse", specie_name="crack", anomaly=1,
             mask_path="Nüsse/ground_truth/crack/1.png"),
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["plain", "backslashes", "absolute", "byte order mark", "utf-16", "crlf"])
def test_a_file_from_another_system_is_read(tmp_path, monkeypatch, form):
    root, items = masked_tree(tmp_path / "A")
    monkeypatch.chdir(tmp_path)
    for one in items:
        for key in ("img_path", "mask_path"):
            if form == "backslashes":
                one[key] = one[key].replace("/", "\\")
            elif form == "absolute" and one[key]:
                one[key] = str(root.resolve() / one[key])
    text = json.dumps({"test": {"Nüsse": items}}, ensure_ascii=False, indent=1)
    if form == "crlf":
        text = text.replace("\n", "\r\n")
    encoding = {"byte order mark": "utf-8-sig", "utf-16": "utf-16"}.get(form, "utf-8")
    (root / "meta.json").write_bytes(text.encode(encoding))
    for place in (root, Path("A")):
        samples = read_samples(DatasetSpec("own", "meta_json", root=place, categories=("Nüsse",)))
        assert [(s.category, s.defect_type, s.mask_path is not None) for s in samples] == [
            ("Nüsse", "crack", True),
            ("Nüsse", "good", False),
        ]
        assert all(sample.image_path.is_relative_to(place) for sample in samples)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("C:\\data\\0.png", "absolute path of Windows"),
        ("\\\\server\\0.png", "absolute path of Windows"),
        ("a\0b.png", "must name files"),
        ("\ud800.png", "must name files"),
        ("/elsewhere/0.png", "must lie below"),
    ],
)
def test_names_that_cannot_be_files_here_are_refused(tmp_path, name, words):
    root = write(tmp_path, {"test": {"bolt": [item(img_path=name)]}})
    with pytest.raises(DataError, match=words):
        read_samples(DatasetSpec("own", "meta_json", root=root))


def test_an_image_that_is_named_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"must name each image once, but names .*1\.png 2 times"):
        LAYOUT.listing(write(tmp_path, {"test": {"bolt": [item(), item(anomaly=1)]}}), "test")
    with pytest.raises(DataError, match="must hold one split of a name, got 'test', 'Test'"):
        LAYOUT.listing(write(tmp_path, {"test": {}, "Test": {}}), "test")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'{"a": "\xe4"}', b"[" * 100_000, b"9" * 5000])
def test_bytes_that_are_no_json_are_refused(tmp_path, content):
    (tmp_path / "meta.json").write_bytes(content)
    with pytest.raises(DataError, match=r"meta\.json (is not valid JSON|must be UTF-8|must hold an object)"):
        LAYOUT.listing(tmp_path, "test")


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path):
    root = write(tmp_path, {"test": {"bolt": [item(img_path="../secret.png")]}})
    with pytest.raises(DataError, match="must lie below"):
        read_samples(DatasetSpec("own", "meta_json", root=root))


def named(tmp_path: Path, *paths: str) -> list[str]:
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    write(tmp_path, {"test": {"bolt": [item(img_path=path) for path in paths]}})
    return [sample.name for sample in read_samples(DatasetSpec("own", "meta_json", root=tmp_path))]


def test_images_of_one_stem_are_named_by_their_paths(tmp_path):
    assert named(tmp_path, "a/x/0.png", "b/x/0.png", "1.png") == ["a_x_0", "b_x_0", "1"]


@pytest.mark.parametrize("other", ["x/0.jpg", "x_0.png"])
def test_images_that_would_be_written_under_one_name_are_refused(tmp_path, other):
    with pytest.raises(DataError, match=r"must have different names, got .*0\.png and .*\. Rename one"):
        named(tmp_path, "x/0.png", "y/0.png", other)


def test_a_split_may_have_a_folder_of_another_name(tmp_path):
    touch(tmp_path, "can/test_public/bad/0.png", "can/test_public/ground_truth/bad/0_mask.png", "can/train/good/1.png")
    layout = TreeLayout(
        marker="*/test_public",
        image="{category}/{split}/{type}/{stem}",
        masks=("{category}/{split}/ground_truth/{type}/{stem}_mask",),
        splits={"test": "test_public"},
    )
    (entry,) = layout.listing(tmp_path, "test").entries
    assert (entry.category, entry.defect_type, entry.mask.name) == ("can", "bad", "0_mask.png")
    (entry,) = layout.listing(tmp_path, "train").entries
    assert (entry.defect_type, entry.image.name, entry.mask) == ("good", "1.png", None)


def test_images_of_the_train_split_may_lie_elsewhere(tmp_path):
    touch(tmp_path, "test/good/img/0.png", "train/good/1.png")
    layout = TreeLayout(
        marker="test",
        image="{split}/{type}/img/{stem}",
        train="train/{type}/{stem}",
        masks=("{split}/{type}/label/{stem}",),
        fixed={"category": "brain"},
    )
    found = [layout.listing(tmp_path, split).entries for split in ("test", "train", "valid")]
    assert [[entry.image.name for entry in entries] for entries in found] == [["0.png"], ["1.png"], []]


def test_a_mask_may_be_a_folder_of_masks(tmp_path):
    touch(tmp_path, "box/test/bent/0.png", "box/test/bent/1.png", "box/ground_truth/bent/1.png")
    touch(tmp_path, "box/ground_truth/bent/0/000.png", "box/ground_truth/bent/0/001.png")
    layout = TreeLayout(
        marker="*/test", image="{category}/{split}/{type}/{stem}", masks=("{category}/ground_truth/{type}/{stem}/",)
    )
    listing = layout.listing(tmp_path, "test")
    assert listing.has_masks
    assert [entry.mask for entry in listing.entries] == [tmp_path / "box/ground_truth/bent/0", None]
    assert listing.masks == {tmp_path / "box/ground_truth/bent/0"}
    assert listing.entries[1].mask_names == ("box/ground_truth/bent/1/",)


QUERIES = TableLayout(
    table="query-{split}.csv", image="{file}", category="item", split="{split}", type="{bad}", normal_types=("false",)
)


def test_each_split_may_have_a_table_of_its_own(tmp_path):
    (tmp_path / "query-test.csv").write_text("file,bad\na.jpg,False\nb.jpg,True\n")
    assert QUERIES.marker == "query-*.csv"
    assert [(entry.category, entry.is_anomalous) for entry in QUERIES.listing(tmp_path, "test").entries] == [
        ("item", False),
        ("item", True),
    ]
    assert QUERIES.listing(tmp_path, "train").entries == ()


def test_a_table_of_a_split_still_needs_its_columns(tmp_path):
    (tmp_path / "query-test.csv").write_text("file,good\na.jpg,False\n")
    with pytest.raises(DataError, match=r"must have rows with the columns \['bad', 'file'\], but lacks \['bad'\]"):
        QUERIES.listing(tmp_path, "test")


BY_CATEGORY = CategoryJsonLayout("images", ("tables/inner/*.json", "tables/*.json"))


def write_category(path: Path, *items: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"train": [], "test": items}))


def view(image: str, kind: str = "OK", mask: str | None = None) -> dict[str, str | None]:
    return {"category": "nut", "anomaly_class": kind, "image_path": image, "mask_path": mask}


def test_a_view_that_does_not_show_the_defect_is_normal(tmp_path):
    touch(tmp_path, "images/nut/b_mask.png")
    write_category(tmp_path / "tables/nut.json", view("a.jpg"), view("b.jpg", "AK", "b_mask.png"), view("c.jpg", "AK"))
    listing = BY_CATEGORY.listing(tmp_path, "test")
    assert [(entry.image.name, entry.defect_type, entry.is_anomalous) for entry in listing.entries] == [
        ("a.jpg", "OK", False),
        ("b.jpg", "AK", True),
        ("c.jpg", "OK", False),
    ]
    assert [entry.mask for entry in listing.entries] == [None, tmp_path / "images/nut/b_mask.png", None]
    assert listing.has_masks
    assert BY_CATEGORY.listing(tmp_path, "train").entries == ()


def test_the_first_place_of_the_tables_counts(tmp_path):
    write_category(tmp_path / "tables/nut.json", view("a.jpg"))
    write_category(tmp_path / "tables/inner/nut.json", view("b.jpg"))
    assert [entry.image.name for entry in BY_CATEGORY.listing(tmp_path, "test").entries] == ["b.jpg"]


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([{"category": "nut"}], r"must have the keys category, anomaly_class, image_path, mask_path.*got .*nut"),
        (["nut"], r'must have the keys .*got "nut"'),
        ([view("a.jpg") | {"mask_path": 3}], "where mask_path may be null and the others are strings"),
        ([view("a.jpg"), view("a.jpg")], r"must name each image once, but names .*a\.jpg 2 times"),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path, items, words):
    write_category(tmp_path / "tables/nut.json", *items)
    with pytest.raises(DataError, match=words):
        BY_CATEGORY.listing(tmp_path, "test")


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"must hold tables/inner/\*\.json or tables/\*\.json, which list"):
        BY_CATEGORY.listing(tmp_path, "test")
