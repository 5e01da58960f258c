from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from torch.testing import assert_close
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from afr_clip.data.disk.picture_files import turned
from afr_clip.data.disk.pixels import SampleReader, count_vanished, count_vanished_defects, resize_image, resize_mask
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.errors import DataError
from helpers.trees import write_mvtec_tree


@pytest.fixture
def samples(tmp_path):
    root = write_mvtec_tree(tmp_path, categories=("bolt",), size=(60, 90))
    return read_samples(DatasetSpec("toy", "folder", root=root))


def test_height_stays_height(samples):
    reader = SampleReader(size=(32, 48))
    for sample in samples:
        stored, read = reader.decode(sample), reader.read(sample)
        assert stored.image.shape[1:] == stored.mask.shape == (60, 90)
        assert read.image.shape[1:] == read.mask.shape == (32, 48)
        assert torch.equal(read.image, resize_image(stored.image, (32, 48)))
        assert torch.equal(read.mask, resize_mask(stored.mask, (32, 48)))
        assert read.mask.any() == sample.is_anomalous


def test_a_mask_of_another_size_is_refused_with_both_names(samples):
    bad = next(sample for sample in samples if sample.is_anomalous)
    with Image.open(bad.mask_path) as mask:
        mask.transpose(Image.Transpose.ROTATE_90).save(bad.mask_path)
    with pytest.raises(DataError, match=r"scratch.000\.png is 60 x 90 and .*000_mask\.png is 90 x 60"):
        SampleReader(size=(32, 32)).read(bad)


def test_the_threshold_reaches_the_mask(samples):
    bad = next(sample for sample in samples if sample.is_anomalous)
    with Image.open(bad.mask_path) as mask:
        mask.point(lambda value: value // 2).save(bad.mask_path)  # 127: anomalous unless the threshold says otherwise
    assert SampleReader((32, 32)).read(bad).mask.any()
    assert not SampleReader((32, 32), mask_threshold=128).read(bad).mask.any()


sides = st.integers(1, 70)


@pytest.mark.parametrize("size", [(30, 44), (63, 79), (64, 20), (5, 80), (64, 80)])
def test_images_resize_as_pillow_does_within_one_grey_level(size):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    expected = np.array(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    resized = resize_image(torch.from_numpy(pixels).permute(2, 0, 1), size)
    assert resized.dtype == torch.uint8
    assert_close(resized.int(), torch.from_numpy(expected).permute(2, 0, 1).int(), rtol=0, atol=1)


@pytest.mark.parametrize("size", [(97, 120), (64, 260), (200, 50), (518, 518)])
def test_smooth_images_resize_nearly_as_pillow_does_when_they_grow(size):
    rows, columns = np.mgrid[:64, :80]
    wave = 128 + 100 * np.sin(rows / 7)[..., None] * np.cos(columns[..., None] / np.array([3, 5, 9]))
    pixels = wave.astype(np.uint8)
    expected = np.array(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    resized = resize_image(torch.from_numpy(pixels).permute(2, 0, 1), size)
    difference = (resized.int() - torch.from_numpy(expected).permute(2, 0, 1).int()).abs()
    assert difference.max() <= 2  # both filters work in fixed point, torchvision's with fewer bits
    assert (difference > 1).float().mean() < 1e-4


@pytest.mark.parametrize("stored", [(64, 80), (1, 300), (3000, 7), (1024, 1024), (20, 20)])
@pytest.mark.parametrize("size", [(518, 518), (30, 40), (7, 300)])
def test_ordinary_images_are_resized_in_one_step(stored, size):
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*stored, 3), dtype=np.uint8)).permute(2, 0, 1)
    whole = functional.resize(image, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(resize_image(image, size), whole)


@pytest.mark.parametrize("stored", [(400_000, 1), (1, 400_000), (150_000, 3)])
def test_thin_images_are_resized_within_their_own_memory(stored, monkeypatch):
    sizes = []
    resize = functional.resize

    def watch(image, size, **how: object):
        sizes.append((image.shape[1] * size[1], image.shape[1], image.shape[2]))
        return resize(image, size, **how)

    monkeypatch.setattr(functional, "resize", watch)
    long = max(stored)
    ramp = (np.arange(long) * 250 // long).astype(np.uint8).reshape(stored if 1 in stored else (long, 1))
    image = torch.from_numpy(np.broadcast_to(ramp[..., None], (*stored, 3)).copy()).permute(2, 0, 1)
    resized = resize_image(image, (50, 60))
    for between, height, width in sizes:
        assert between <= max(1 << 24, 4 * long * min(stored))
        assert max(height, width) <= 1 << 17
    expected = np.linspace(0, 250, 50 if stored[0] > stored[1] else 60, endpoint=False) + 2
    along = resized[0, :, 0] if stored[0] > stored[1] else resized[0, 0]
    assert np.abs(along.numpy() - expected).max() <= 2
    assert torch.equal(resized.amax(dim=0), resized.amin(dim=0))


@given(length=st.integers(1, 3000), size=st.integers(1, 700))
def test_masks_keep_the_pixels_that_pillow_chooses(length, size):
    mask = np.random.default_rng(length).integers(0, 2, (length, 3)).astype(bool)
    chosen = np.array(Image.fromarray(mask.astype(np.uint8)).resize((2, size), Image.Resampling.NEAREST)).astype(bool)
    assert torch.equal(resize_mask(torch.from_numpy(mask), (size, 2)), torch.from_numpy(chosen))


def save_turned(pixels, path, orientation):
    """Store what a viewer shows as ``pixels`` in the way that the orientation says."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {6: 8, 8: 6}.get(orientation, orientation)
    Image.fromarray(np.ascontiguousarray(turned(np.asarray(pixels), back))).save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_lie_where_they_were_drawn_on_a_turned_photograph(samples, orientation):
    bad = next(sample for sample in samples if sample.is_anomalous)
    image, mask = (np.array(Image.open(path)) for path in (bad.image_path, bad.mask_path))
    upright = SampleReader((32, 32)).decode(bad)
    assert torch.equal(upright.mask, torch.from_numpy(mask > 0))
    save_turned(image, bad.image_path, orientation)
    assert torch.equal(SampleReader((32, 32)).decode(bad).image, upright.image)
    assert torch.equal(SampleReader((32, 32)).decode(bad).mask, upright.mask)  # drawn on the upright view
    save_turned(mask, bad.mask_path, orientation)
    assert torch.equal(SampleReader((32, 32)).decode(bad).mask, upright.mask)  # turned by its own tag
    if orientation > 4:
        with Image.open(bad.mask_path) as stored:
            without_tag = Image.fromarray(np.array(stored))
        without_tag.save(bad.mask_path)
        assert torch.equal(SampleReader((32, 32)).decode(bad).mask, upright.mask)  # drawn on the stored pixels


def test_a_photograph_that_is_squeezed_to_nothing_is_named(samples, caplog):
    Image.new("RGB", (3, 301)).save(samples[0].image_path)
    SampleReader((32, 48)).read(replace(samples[0], mask_path=None))
    assert "has 301 x 3 pixels (height x width) and is squeezed to 32 x 48" in caplog.text


def test_overshoot_is_clamped_not_wrapped():
    edge = torch.zeros(3, 8, 8, dtype=torch.uint8)
    edge[:, :, 4:] = 255
    resized = resize_image(edge, (8, 32))
    assert (resized[:, :, :12] < 64).all()
    assert (resized[:, :, -12:] > 191).all()


@settings(max_examples=80, deadline=None)
@given(old=st.tuples(sides, sides), new=st.tuples(sides, sides), seed=st.integers(0, 9))
def test_masks_resize_exactly_as_pillow_does(old, new, seed):
    mask = np.random.default_rng(seed).random(old) < 0.3
    expected = np.array(Image.fromarray(mask.astype(np.uint8) * 255).resize((new[1], new[0]), Image.Resampling.NEAREST))
    resized = resize_mask(torch.from_numpy(mask), new)
    assert resized.dtype == torch.bool
    assert resized.shape == new
    assert_close(resized, torch.from_numpy(expected == 255))


def test_a_one_pixel_defect_may_vanish_and_is_counted():
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[0, 0] = True
    mask[20:30, 30:50] = True
    assert resize_mask(mask, (10, 10)).any()
    assert count_vanished(mask, (10, 10)) == 1
    assert count_vanished(mask, (40, 60)) == 0


def test_diagonal_neighbours_are_one_defect():
    mask = torch.eye(8, dtype=torch.bool)
    assert count_vanished(mask, (4, 4)) == 0
    mask[4, 4] = False  # two defects now, and both keep a pixel
    assert count_vanished(mask, (4, 4)) == 0
    assert count_vanished(mask, (1, 1)) == 2  # its only pixel is [4, 4]


@settings(max_examples=60, deadline=None)
@given(old=st.tuples(sides, sides), new=st.tuples(sides, sides), seed=st.integers(0, 99))
def test_vanished_defects_match_a_loop_over_regions(old, new, seed):
    mask = np.random.default_rng(seed).random(old) < 0.1
    regions, num_regions = ndimage.label(mask, np.ones((3, 3)))
    survivors = sum(
        bool(resize_mask(torch.from_numpy(regions == region), new).any()) for region in range(1, num_regions + 1)
    )
    truth = torch.from_numpy(mask)
    assert count_vanished(truth, new) == num_regions - survivors


def read(root):
    return read_samples(DatasetSpec("toy", "mvtec_ad", root=root))


def test_vanished_and_empty_masks_are_counted_per_category(tmp_path):
    write_mvtec_tree(tmp_path, size=(96, 80))
    tiny = np.zeros((96, 80), dtype=np.uint8)
    Image.fromarray(tiny).save(tmp_path / "tile/ground_truth/spot/001_mask.png")
    tiny[0, 0] = tiny[95, 79] = 255
    Image.fromarray(tiny).save(tmp_path / "bolt/ground_truth/spot/001_mask.png")
    counts = count_vanished_defects(read(tmp_path), SampleReader(size=(24, 20)))
    assert {category: (c.num_masks, c.num_empty, c.num_vanished) for category, c in counts.items()} == {
        "bolt": (4, 0, 2),
        "tile": (4, 1, 0),
    }
