import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from afr_clip.data.disk.layouts import dataset_row
from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.disk.rows.row import Count
from afr_clip.data.errors import DataError
from afr_clip.data.tools.convert import write_meta_json
from helpers.official import OFFICIAL

SOME = ("visa", "btad", "ksdd", "dagm", "clinic_db", "clinic_db_original", "tn3k", "head_ct", "meta_json")
"""Class ids, odd suffixes, truth in masks, low values, TIFFs that Pillow cannot open, JPEG masks, a table, itself."""


def written(form: str, tmp_path: Path) -> DatasetSpec:
    name = form.removesuffix("_original")
    row = dataset_row(name)
    categories = [*row.counts, *row.prompt_names, "bottle"][:1]
    num_normal = 2 if row.total is None or row.total.normal else 0
    root = OFFICIAL[form](tmp_path / form, dict.fromkeys(categories, Count(num_normal, 3)))
    return DatasetSpec(name, name, root=root)


@pytest.mark.parametrize("form", SOME)
def test_what_is_written_reads_as_what_was_read(tmp_path, form):
    spec = written(form, tmp_path)
    root = write_meta_json(spec, tmp_path / "converted")
    before, after = read_samples(spec), read_samples(DatasetSpec("own", "meta_json", root=root))
    old, new = SampleReader((32, 32), dataset_row(spec.layout).mask_threshold), SampleReader((32, 32))
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        assert (a.category, a.defect_type, a.is_anomalous) == (b.category, b.defect_type, b.is_anomalous)
        assert torch.equal(old.read(a).image, new.read(b).image)
        assert torch.equal(old.read(a).mask, new.read(b).mask)


@pytest.mark.parametrize("form", SOME)
def test_masks_mean_the_same_to_every_reader_of_the_family(tmp_path, form):
    root = write_meta_json(written(form, tmp_path), tmp_path / "converted")
    items = json.loads((root / "meta.json").read_text())["test"]
    for item in (item for listed in items.values() for item in listed):
        with Image.open(root / item["img_path"]) as image:  # the way the family opens both
            size = image.convert("RGB").size
        if item["mask_path"]:
            with Image.open(root / item["mask_path"]) as mask:
                values = np.asarray(mask.convert("L"))
            assert mask.size == size
            assert set(np.unique(values)) <= {0, 255}
            assert (values > 0).any() == bool(item["anomaly"])


def test_the_train_split_goes_along(tmp_path):
    root = write_meta_json(written("btad", tmp_path), tmp_path / "converted")
    content = json.loads((root / "meta.json").read_text())
    assert {item["anomaly"] for item in content["train"]["01"]} == {0}
    assert len(read_samples(DatasetSpec("own", "meta_json", root=root, split="train"))) == len(content["train"]["01"])


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path):
    root = OFFICIAL["ksdd"](tmp_path / "ksdd", {"electrical commutators": (20, 20)})
    samples = read_samples(DatasetSpec("ksdd", "ksdd", root=root))
    names = [(sample.category, sample.defect_type, sample.name) for sample in samples]
    assert len(set(names)) == len(names) == 40


def test_nothing_is_overwritten_and_nothing_is_left_half(tmp_path):
    spec = written("btad", tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match=r"there already exists"):
        write_meta_json(spec, tmp_path / "there")
    mask = next(s.mask_path for s in read_samples(spec) if s.mask_path)
    mask.write_bytes(b"no picture")
    with pytest.raises(DataError, match="is not a valid image file"):
        write_meta_json(spec, tmp_path / "half")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["btad", "there"]
