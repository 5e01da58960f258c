"""Real photographs: counts against the manifest, masks that fit, and what the copies lack."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from afr_clip.data.disk.decode import decode_image, decode_mask
from afr_clip.data.disk.layouts import dataset_row
from afr_clip.data.disk.loaded import content_digest, load_dataset
from afr_clip.data.disk.pixels import SampleReader, count_vanished_defects
from afr_clip.data.disk.reading import DatasetSpec, find_root, read_samples
from afr_clip.data.errors import MissingDataError
from afr_clip.data.feed.cache import open_cache
from afr_clip.data.feed.datamodule import AnomalyDataModule, DataSettings

pytestmark = pytest.mark.data

MVTEC, METAL_PLATE = "mvtec_anomaly_detection", "MPDD"


@pytest.fixture(scope="module")
def manifest(data_dir) -> list[dict[str, str]]:
    with (data_dir / "MANIFEST.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def mvtec(data_dir: Path, **wanted) -> DatasetSpec:
    return DatasetSpec("mvtec_ad", "mvtec_ad", data_dir=data_dir, **wanted)


@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize(("folder", "layout"), [(MVTEC, "mvtec_ad"), (METAL_PLATE, "folder")])
def test_samples_are_those_of_the_manifest(data_dir, manifest, folder, layout, split):
    rows = [row for row in manifest if row["image"].startswith(f"{folder}/") and row["split"] == split]
    if not rows:
        pytest.skip(f"the manifest lists no {split} images of {folder}")
    samples = read_samples(DatasetSpec("real", layout, root=data_dir / folder, split=split))
    found = {
        sample.image_path.relative_to(data_dir).as_posix(): (
            sample.category,
            "1" if sample.is_anomalous else "0",
            sample.mask_path.relative_to(data_dir).as_posix() if sample.mask_path else "",
        )
        for sample in samples
    }
    assert found == {row["image"]: (row["category"], row["label"], row["mask"]) for row in rows}


def test_counts_per_category(data_dir):
    samples = read_samples(mvtec(data_dir))
    assert Counter((sample.category, sample.is_anomalous) for sample in samples) == {
        **{("bottle", False): 10, ("bottle", True): 16},
        **{("grid", False): 10, ("grid", True): 15},
        **{("pill", False): 10, ("pill", True): 18},
    }


@pytest.mark.parametrize(
    ("row", "folder", "category", "counts"),
    [
        ("mpdd", "MPDD", "metal_plate", (14, 12, 12)),
        ("isic", "ISIC", "skin", (0, 30, 30)),
        ("colon_db", "CVC-ColonDB", "colon", (0, 36, 36)),
        ("clinic_db", "CVC-ClinicDB", "colon", (0, 40, 40)),
        ("clinic_db", "CVC-ClinicDB_original_tif", "colon", (0, 4, 4)),
        ("head_ct", "HeadCT", "brain", (28, 28, 0)),
        ("brain_mri", "BrainMRI", "brain", (30, 30, 0)),
        ("br35h", "Br35H", "brain", (30, 30, 0)),
    ],
)
def test_rows_read_the_real_folders(data_dir, manifest, row, folder, category, counts):
    samples = read_samples(DatasetSpec(row, row, root=data_dir / folder))
    num_anomalous = sum(sample.is_anomalous for sample in samples)
    num_masks = sum(sample.mask_path is not None for sample in samples)
    assert (len(samples) - num_anomalous, num_anomalous, num_masks) == counts
    assert {sample.category for sample in samples} == {category}
    found = {sample.image_path.relative_to(data_dir).as_posix(): sample for sample in samples}
    stated = {entry["image"]: entry for entry in manifest if entry["image"].startswith(f"{folder}/")}
    assert {name: sample.is_anomalous for name, sample in found.items()} == {
        name: entry["label"] == "1" for name, entry in stated.items()
    }
    for name, sample in found.items():
        assert decode_image(sample.image_path).shape == (3, int(stated[name]["height"]), int(stated[name]["width"]))
        if sample.mask_path is not None:
            assert sample.mask_path == data_dir / stated[name]["mask"]
            mask = decode_mask(sample.mask_path, dataset_row(row).mask_threshold)
            share = float(stated[name]["mask_foreground_fraction"])
            assert mask.float().mean().item() == pytest.approx(share, abs=1e-5)


def test_the_authors_tiff_files_are_read_in_colour(data_dir):
    samples = read_samples(DatasetSpec("original", "clinic_db", root=data_dir / "CVC-ClinicDB_original_tif"))
    for sample in samples:
        image = decode_image(sample.image_path)
        stored = np.frombuffer(sample.image_path.read_bytes(), np.uint8, count=image.numel(), offset=8)
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(stored.reshape(288, 384, 3).copy()))
        red, green, blue = image.float().mean(dim=(1, 2))
        assert red > green > blue  # the colour of mucosa


@pytest.mark.parametrize("row", ["mpdd", "isic", "colon_db", "clinic_db", "head_ct", "brain_mri", "br35h"])
def test_real_folders_are_found_by_their_names(data_dir, row):
    assert find_root(DatasetSpec(row, row, data_dir=data_dir)).parent == data_dir


def test_one_category_as_a_root_reads_the_same(data_dir):
    inner, outer = (
        read_samples(DatasetSpec("real", "folder", root=root))
        for root in (data_dir / METAL_PLATE / "metal_plate", data_dir / METAL_PLATE)
    )
    assert inner == outer
    assert inner[0].prompt_name == "metal plate"


def test_one_channel_photographs_become_rgb(data_dir):
    sample = read_samples(mvtec(data_dir, categories=("grid",)))[0]
    with Image.open(sample.image_path) as image:
        assert image.mode == "L"
        grey = torch.from_numpy(np.array(image))
    assert torch.equal(decode_image(sample.image_path), grey.expand(3, *grey.shape))


def test_masks_cover_the_share_that_the_manifest_states(data_dir, manifest):
    rows = [row for row in manifest if row["mask"] and row["image"].startswith((MVTEC, METAL_PLATE))]
    assert len(rows) == 61
    for row in rows:
        mask = decode_mask(data_dir / row["mask"])
        assert mask.shape == (int(row["height"]), int(row["width"]))
        assert mask.float().mean().item() == pytest.approx(float(row["mask_foreground_fraction"]), abs=1e-5)


def test_every_listed_image_decodes(data_dir, manifest):
    for row in manifest:
        assert decode_image(data_dir / row["image"]).shape == (3, int(row["height"]), int(row["width"]))


def test_digests_are_those_of_the_manifest(data_dir, manifest):
    stated = {row["image"]: row["sha256_16"] for row in manifest}
    samples = read_samples(mvtec(data_dir))
    digest = content_digest(samples)
    for sample, sha256 in zip(samples, digest.images, strict=True):
        assert sha256[:16] == stated[sample.image_path.relative_to(data_dir).as_posix()]
    assert digest.masks[0] == hashlib.sha256(samples[0].mask_path.read_bytes()).hexdigest()


def test_no_defect_vanishes_unreported_at_the_papers_size(data_dir):
    counts = count_vanished_defects(read_samples(mvtec(data_dir)), SampleReader((518, 518)))
    assert {category: (count.num_masks, count.num_empty) for category, count in counts.items()} == {
        **{"bottle": (16, 0), "grid": (15, 0), "pill": (18, 0)}
    }


def test_the_cache_of_photographs_equals_the_files(data_dir, tmp_path):
    samples = read_samples(mvtec(data_dir, categories=("pill",)))[:6]
    reader = SampleReader((518, 518))
    cache = open_cache(samples, reader, content_digest(samples), tmp_path)
    for index, sample in enumerate(samples):
        cached, fresh = cache.read(index), reader.read(sample)
        assert torch.equal(cached.image, fresh.image)
        assert torch.equal(cached.mask, fresh.mask)


def test_photographs_resize_as_pillow_does(data_dir):
    num_values = num_beyond = 0
    for sample in read_samples(mvtec(data_dir))[::9]:
        with Image.open(sample.image_path) as image:
            expected = np.array(image.convert("RGB").resize((518, 518), Image.Resampling.BICUBIC))
        read = SampleReader((518, 518)).read(sample).image.permute(1, 2, 0)
        difference = (read.int() - torch.from_numpy(expected).int()).abs()
        assert difference.max() <= 2
        num_values += difference.numel()
        num_beyond += int((difference > 1).sum())
    assert num_beyond / num_values < 2e-6  # torchvision rounds its filter to fewer bits; 11 of 64 million were seen


def test_visa_without_its_images_says_so(data_dir):
    spec = DatasetSpec("visa", "visa", data_dir=data_dir)
    assert find_root(spec) == data_dir / "VisA"
    with pytest.raises(MissingDataError, match=r"2162 of 2162 are missing; the first is .*\.JPG"):
        read_samples(spec)


def test_two_real_datasets_make_a_run(data_dir):
    settings = DataSettings(image_size=(64, 64), mean=(0.5,) * 3, std=(0.25,) * 3, batch_size=8, augment=True)
    target = DatasetSpec("mpdd", "folder", root=data_dir / METAL_PLATE)
    module = AnomalyDataModule(load_dataset(mvtec(data_dir, categories=("bottle",))), [load_dataset(target)], settings)
    assert sum(len(batch.samples) for batch in module.train_dataloader()) == 26
    batches = list(module.target_dataloader("mpdd"))
    assert sum(int(batch.is_anomalous.sum()) for batch in batches) == 12
    assert all(bool((batch.mask.flatten(1).any(dim=1) == batch.is_anomalous).all()) for batch in batches)
