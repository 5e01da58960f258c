import errno
import json
import os
import pickle

import pytest
import torch
from PIL import Image

from afr_clip.data.disk.digest import content_digest
from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.errors import DataError
from afr_clip.data.feed import cache as cache_module
from afr_clip.data.feed.cache import IMAGES, INDEX, MASKS, open_cache
from helpers.trees import write_mvtec_tree

READER = SampleReader(size=(24, 40))


@pytest.fixture
def samples(tmp_path):
    root = write_mvtec_tree(tmp_path / "tree", num_normal=2, num_anomalous=2)
    return read_samples(DatasetSpec("toy", "mvtec_ad", root=root))


@pytest.fixture
def opened(samples, tmp_path):
    """Open the cache of the samples as they are on disk now."""
    return lambda reader=READER: open_cache(samples, reader, content_digest(samples), tmp_path / "cache")


@pytest.fixture
def builds(monkeypatch):
    """Every sample that was decoded to fill a cache."""
    decoded = []
    read = SampleReader.read
    monkeypatch.setattr(SampleReader, "read", lambda reader, sample: decoded.append(sample) or read(reader, sample))
    return decoded


def assert_equals_uncached(cache, samples, reader=READER):
    for index, sample in enumerate(samples):
        cached, fresh = cache.read(index), reader.read(sample)
        assert torch.equal(cached.image, fresh.image)
        assert torch.equal(cached.mask, fresh.mask)
        assert (cached.image.dtype, cached.mask.dtype) == (torch.uint8, torch.bool)


def test_a_read_equals_the_uncached_one_bit_for_bit(opened, samples):
    assert_equals_uncached(opened(), samples)


def test_a_second_run_decodes_nothing(opened, builds, samples):
    first = opened()
    assert len(builds) == len(samples)
    assert opened() == first
    assert len(builds) == len(samples)


def test_a_changed_file_gives_another_cache(opened, samples):
    before = opened()
    with Image.open(samples[0].image_path) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(samples[0].image_path)
    after = opened()
    assert after.folder != before.folder
    assert_equals_uncached(after, samples)


@pytest.mark.parametrize("reader", [SampleReader((40, 24)), SampleReader((24, 40), mask_threshold=128)])
def test_size_and_threshold_give_another_cache(opened, samples, reader):
    assert opened(reader).folder != opened().folder
    assert_equals_uncached(opened(reader), samples, reader)


def test_another_version_of_the_format_gives_another_cache(opened, monkeypatch):
    before = opened()
    monkeypatch.setattr(cache_module, "FORMAT_VERSION", 2)
    assert opened().folder != before.folder


@pytest.mark.parametrize("name", [IMAGES, MASKS, INDEX])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
def test_a_damaged_cache_is_rebuilt(opened, samples, name, damage):
    path = opened().folder / name
    content = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    else:
        content[-2] ^= 0xFF
        path.write_bytes(content[:-20] if damage == "truncated" else content)
    assert_equals_uncached(opened(), samples)
    assert path.stat().st_size == len(content)


@pytest.mark.parametrize("content", ["[]", "{}", "3", '{"key": 1, "crc32": 2}'])
def test_an_index_of_another_shape_is_rebuilt(opened, samples, content):
    index = opened().folder / INDEX
    index.write_text(content)
    assert_equals_uncached(opened(), samples)
    assert json.loads(index.read_text())["num_samples"] == len(samples)


def test_a_full_disk_ends_in_a_sentence_and_leaves_nothing(opened, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module, "_checksums", full)  # the pixels are written by then
    with pytest.raises(
        DataError, match=r"needs \d+\.\d MB in .*cache, but writing it failed: .*No space left.*data\.cache"
    ):
        opened()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_broken_image_is_named_and_leaves_nothing(opened, samples, tmp_path):
    samples[3].image_path.write_bytes(b"junk")
    with pytest.raises(DataError, match=f"{samples[3].image_path.name} must be an intact image file"):
        opened()
    assert list((tmp_path / "cache").iterdir()) == []


def test_whoever_finishes_second_uses_what_is_there(opened, samples, monkeypatch):
    first = opened()
    intact = cache_module._is_intact
    answers = iter([False])  # as if the other process had not finished when this one looked first
    monkeypatch.setattr(cache_module, "_is_intact", lambda *where: next(answers, None) is None and intact(*where))
    written = (first.folder / IMAGES).stat().st_mtime_ns
    assert opened() == first
    assert (first.folder / IMAGES).stat().st_mtime_ns == written
    assert_equals_uncached(first, samples)


def test_maps_are_not_carried_to_workers(opened, samples):
    cache = opened()
    cache.read(0)
    pickled = pickle.dumps(cache)
    assert len(pickled) < 500
    assert_equals_uncached(pickle.loads(pickled), samples)


def test_what_was_read_may_be_changed(opened):
    cache = opened()
    before = cache.read(0).image.clone()
    cache.read(0).image.zero_()
    assert torch.equal(cache.read(0).image, before)
