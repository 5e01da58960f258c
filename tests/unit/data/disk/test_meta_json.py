import json
from pathlib import Path

import pytest

from afr_clip.data.disk.meta_json import MetaJsonLayout
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.errors import DataError, MissingDataError
from helpers.official import OFFICIAL
from helpers.trees import write_mvtec_tree

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
    items = [item(specie_name=""), item(specie_name="", anomaly=1)]
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
    with pytest.raises(DataError, match=r"must have the keys img_path, .*, got .*bolt.*Write it anew"):
        LAYOUT.listing(write(tmp_path, {"test": {"bolt": [item(), item(**wrong)]}}), "test")


@pytest.mark.parametrize("content", [[], {"test": {"bolt": [3]}}, {"test": [3]}, {"test": {"bolt": {"a": 1}}}])
def test_a_file_of_another_shape_is_refused(tmp_path, content):
    with pytest.raises(DataError, match="Write it anew"):
        LAYOUT.listing(write(tmp_path, content), "test")


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(DataError, match="must be JSON"):
        LAYOUT.listing(tmp_path, "test")


def test_a_lost_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"meta\.json must say what the images show"):
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
    with pytest.raises(DataError, match=r"must have names of their own, got .*0\.png and .*\. Rename one"):
        named(tmp_path, "x/0.png", "y/0.png", other)
