import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from afr_clip.data.disk.loaded import LoadedDataset, load_dataset
from afr_clip.data.disk.reading import DatasetSpec
from afr_clip.data.disk.saturation import Saturation, read_regions
from afr_clip.data.errors import DataError
from afr_clip.data.tools.check import check_dataset
from helpers.official import OFFICIAL


@pytest.fixture
def loco(tmp_path: Path) -> Path:
    return OFFICIAL["mvtec_loco"](tmp_path / "loco", {"pushpins": (2, 4)})


def load(root: Path) -> LoadedDataset:
    return load_dataset(DatasetSpec("mvtec_loco", "mvtec_loco", root=root))


def logical(dataset: LoadedDataset):
    return next(sample for sample in dataset.samples if sample.defect_type == "logical_anomalies")


def stored(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def rewrite(root: Path, content: object) -> Path:
    path = root / "pushpins" / "defects_config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("threshold", "is_relative", "num_pixels", "wanted"),
    [(1.0, True, 37, 37), (0.5, True, 37, 18), (0.01, True, 37, 1), (20.0, False, 37, 20), (200.0, False, 37, 37)],
)
def test_a_share_is_rounded_down_to_whole_pixels_and_a_number_is_at_most_the_regions(
    threshold, is_relative, num_pixels, wanted
):
    assert Saturation(threshold, is_relative=is_relative).share(num_pixels) == wanted / num_pixels


def test_each_file_of_a_mask_is_a_region_with_the_saturation_of_its_grey_value(loco):
    entries = [
        {"defect_name": "a", "pixel_value": 237, "saturation_threshold": 3, "relative_saturation": False},
        {"defect_name": "b", "pixel_value": 238, "saturation_threshold": 0.5, "relative_saturation": True},
        {"defect_name": "c", "pixel_value": 255, "saturation_threshold": 1, "relative_saturation": True},
    ]
    rewrite(loco, entries)
    dataset = load(loco)
    sample, of_category = logical(dataset), dataset.saturations["pushpins"]
    files = sorted(sample.mask_path.iterdir())
    regions = read_regions(sample, of_category, (24, 32))
    assert len(regions) == len(files) == 2
    for path, region, wanted in zip(files, regions, (lambda num: 3, lambda num: num // 2), strict=True):
        marked = stored(path) > 0
        assert np.array_equal(region.mask.numpy(), marked)
        assert region.share == wanted(int(marked.sum())) / marked.sum()


def test_the_share_is_that_of_the_photograph_whatever_the_size(loco):
    dataset = load(loco)
    sample, entries = (
        logical(dataset),
        {237: Saturation(3.0, is_relative=False), 238: Saturation(3.0, is_relative=False)},
    )
    full, small = (read_regions(sample, entries, size) for size in ((24, 32), (8, 16)))
    assert [region.share for region in small] == [region.share for region in full]
    assert all(region.mask.shape == (8, 16) for region in small)
    assert torch.equal(small[0].mask, full[0].mask[1::3, 1::2])  # the middles, as for every mask


def test_other_datasets_have_no_saturations(tmp_path):
    root = OFFICIAL["mvtec_ad"](tmp_path / "mvtec", {"bottle": (1, 1)})
    assert load_dataset(DatasetSpec("mvtec_ad", "mvtec_ad", root=root)).saturations == {}


def test_without_the_file_the_dataset_is_scored_without_its_metric_and_the_check_fails(loco, caplog):
    (loco / "pushpins" / "defects_config.json").unlink()
    assert load(loco).saturations == {}
    assert "sPRO, the metric of the benchmark mvtec_loco, cannot be computed: " in caplog.text
    assert "defects_config.json, which states how much of each defect has to be found, is missing." in caplog.text
    findings = check_dataset(DatasetSpec("mvtec_loco", "mvtec_loco", root=loco, categories=("pushpins",)), is_part=True)
    assert next(one.text for one in findings.findings if one.is_fault).endswith("is missing. Unpack it again.")


def test_a_type_that_the_benchmark_does_not_have_leaves_its_metric_out(loco, caplog):
    for folder in ("test", "ground_truth"):
        (loco / "pushpins" / folder / "structural_anomalies").rename(loco / "pushpins" / folder / "dents")
    assert load(loco).saturations == {}
    assert "MVTec LOCO AD has the defect types logical_anomalies and structural_anomalies, but " in caplog.text


SOUND = {"defect_name": "a", "pixel_value": 255, "saturation_threshold": 0.5, "relative_saturation": True}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        "[" + "9" * 5_000 + "]",
        {"a": SOUND},
        [SOUND, 3],
        [SOUND, {**SOUND, "pixel_value": 0}],
        [SOUND, {**SOUND, "pixel_value": 256}],
        [SOUND, {**SOUND, "pixel_value": True}],
        [SOUND, {**SOUND, "saturation_threshold": 0.0}],
        [SOUND, {**SOUND, "saturation_threshold": 1.5}],
        [SOUND, {**SOUND, "saturation_threshold": float("nan")}],
        [SOUND, {**SOUND, "saturation_threshold": 0.5, "relative_saturation": False}],
        [SOUND, {**SOUND, "saturation_threshold": float("inf"), "relative_saturation": False}],
        [SOUND, {**SOUND, "relative_saturation": "true"}],
        [SOUND, {key: value for key, value in SOUND.items() if key != "saturation_threshold"}],
    ],
)
def test_a_damaged_file_is_refused_before_anything_is_scored(loco, content):
    path = rewrite(loco, content)
    with pytest.raises(
        DataError, match=r"(must be a list of entries|is not valid JSON).*Restore the original\."
    ) as told:
        load(loco)
    assert str(path) in str(told.value)


def test_a_grey_value_without_an_entry_is_named(loco):
    dataset = load(loco)
    with pytest.raises(DataError, match=r"000\.png has the grey value 237, but .* describes 7, 255\. Unpack"):
        read_regions(logical(dataset), dict.fromkeys((255, 7), Saturation(1.0, is_relative=True)), (8, 8))


@pytest.mark.parametrize("values", [(0, 0), (237, 238)])
def test_a_region_has_exactly_one_grey_value(loco, values):
    dataset = load(loco)
    sample = logical(dataset)
    path = sorted(sample.mask_path.iterdir())[0]
    Image.fromarray(np.array([[0, values[0], values[1]]], dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match=r"000\.png cannot be read: it must mark the pixels of one region with one"):
        read_regions(sample, dataset.saturations["pushpins"], (8, 8))
