import errno
import json
import logging
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

from afr_clip.data.disk.loaded import content_digest
from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.errors import DataError
from afr_clip.data.feed import cache as cache_module
from afr_clip.data.feed import store
from afr_clip.data.feed.cache import FeatureRequest, TappedSample, open_cache, open_features
from afr_clip.data.feed.store import CHECKSUMS, INDEX, RECORDS
from helpers.trees import write_mvtec_tree

READER = SampleReader(size=(24, 40))
NUM = 5


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 0xFF
    path.write_bytes(content)


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_space(monkeypatch) -> None:
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 400}))


@pytest.fixture
def samples(tmp_path):
    root = write_mvtec_tree(tmp_path / "tree", num_normal=2, num_anomalous=2)
    return read_samples(DatasetSpec("toy", "mvtec_ad", root=root))


@pytest.fixture
def opened(samples, tmp_path):
    """Open the pixel cache of the samples as they are on disk now."""
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


def left_in(folder) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def test_pixels_equal_the_uncached_ones_bit_for_bit_and_are_decoded_once(opened, builds, samples):
    first = opened()
    assert len(builds) == len(samples)
    assert opened() == first
    assert len(builds) == len(samples)
    assert_equals_uncached(first, samples)


def test_a_changed_file_gives_another_cache(opened, samples):
    before = opened()
    with Image.open(samples[0].image_path) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(samples[0].image_path)
    after = opened()
    assert after.store.folder != before.store.folder
    assert_equals_uncached(after, samples)


@pytest.mark.parametrize("reader", [SampleReader((40, 24)), SampleReader((24, 40), mask_threshold=128)])
def test_size_and_threshold_give_another_cache(opened, samples, reader):
    assert opened(reader).store.folder != opened().store.folder
    assert_equals_uncached(opened(reader), samples, reader)


def test_another_version_of_the_format_gives_another_cache(opened, monkeypatch):
    before = opened()
    monkeypatch.setattr(cache_module, "FORMAT_VERSION", 4)
    assert opened().store.folder != before.store.folder


@pytest.mark.parametrize("name", [RECORDS, CHECKSUMS, INDEX])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
def test_a_damaged_pixel_cache_is_filled_again(opened, samples, name, damage):
    path = opened().store.folder / name
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    elif damage == "flipped":
        flip(path)
    else:
        path.write_bytes(content[:-20])
    assert_equals_uncached(opened(), samples)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", ["[]", "{}", "3", '{"key": 1, "crc32": 2}'])
def test_an_index_of_another_format_is_not_read(opened, samples, content):
    index = opened().store.folder / INDEX
    index.write_text(content)
    assert_equals_uncached(opened(), samples)
    assert json.loads(index.read_text())["num_records"] == len(samples)


def test_a_full_disk_ends_in_a_sentence_and_leaves_no_pixels(opened, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)  # the pixels are written by then
        with pytest.raises(DataError, match=r"Cannot write the image cache to .*cache: .*No space left.*data\.cache="):
            opened()
        assert left_in(tmp_path / "cache") == []
    no_space(monkeypatch)
    with pytest.raises(DataError, match=r"image cache does not fit in .*cache: it needs 8 images of 0\.00 MB"):
        opened()
    assert left_in(tmp_path / "cache") == []


def test_a_broken_image_is_named_and_leaves_no_pixels(opened, samples, tmp_path):
    samples[3].image_path.write_bytes(b"junk")
    with pytest.raises(DataError, match=rf"{samples[3].image_path.name} is not a valid image file"):
        opened()
    assert left_in(tmp_path / "cache") == []


def test_a_killed_filling_of_pixels_is_resumed(opened, builds, samples, monkeypatch):
    read = SampleReader.read
    with monkeypatch.context() as patched:

        def interrupted(reader, sample):
            if sample is samples[3]:
                raise KeyboardInterrupt
            return read(reader, sample)

        patched.setattr(SampleReader, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened()
    builds.clear()
    cache = opened()
    assert builds == samples[3:]
    assert_equals_uncached(cache, samples)


def test_copies_in_other_processes_map_the_files_themselves_and_may_be_changed(opened, samples):
    cache = opened()
    before = cache.read(0).image.clone()
    cache.read(0).image.zero_()
    assert torch.equal(cache.read(0).image, before)
    pickled = pickle.dumps(cache)
    assert len(pickled) < 500
    assert_equals_uncached(pickle.loads(pickled), samples)


def sample(index: int) -> TappedSample:
    generator = torch.Generator().manual_seed(index)
    mask = torch.rand(6, 4, generator=generator) > 0.5
    return TappedSample(mask, (torch.randn(7, 3, generator=generator), torch.randn(1, 2, generator=generator)))


class Tower:
    """Gives the samples, remembers which, and may stop at one."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.stop_at: int | None = None
        self.error: BaseException = KeyboardInterrupt()

    def __call__(self, start: int):
        for index in range(start, NUM):
            if index == self.stop_at:
                raise self.error
            self.seen.append(index)
            yield sample(index)


@pytest.fixture
def tower():
    return Tower()


@pytest.fixture
def request_(tmp_path):
    return FeatureRequest(tmp_path / "caches" / "toy", "key", NUM, "float32")


@pytest.fixture
def stopped(request_, tower):
    """A filling that was stopped at its fourth record; the tower works again."""
    tower.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        open_features(request_, tower)
    tower.stop_at = None
    assert not request_.folder.exists()
    return request_.folder.with_name(".toy.unfinished")


def assert_holds_everything(cache, **tolerance):
    for index in range(NUM):
        kept, fresh = cache.read(index), sample(index)
        assert torch.equal(kept.mask, fresh.mask)
        for mine, its in zip(kept.tapped, fresh.tapped, strict=True):
            torch.testing.assert_close(mine, its, **{"rtol": 0, "atol": 0} | tolerance)


def test_features_are_what_was_computed_bit_for_bit_and_computed_once(request_, tower):
    assert_holds_everything(open_features(request_, tower))
    assert_holds_everything(open_features(request_, tower))
    assert tower.seen == list(range(NUM))
    assert left_in(request_.folder.parent) == ["toy"]


def test_half_precision_takes_half_the_disk_and_rounds(request_, tower):
    whole = open_features(request_, tower)
    half = open_features(replace(request_, folder=request_.folder.with_name("half"), dtype="float16"), tower)
    assert_holds_everything(half, rtol=2**-11, atol=1e-7)
    sizes = [(cache.store.folder / RECORDS).stat().st_size for cache in (whole, half)]
    assert sizes[0] - sizes[1] == NUM * (7 * 3 + 2) * 2


def test_what_half_precision_cannot_hold_is_refused(request_):
    huge = TappedSample(torch.zeros(6, 4, dtype=torch.bool), (torch.full((2, 2), 7e4),))
    with pytest.raises(DataError, match=r"NaN or infinite values in float16.*feature_dtype=float32"):
        open_features(replace(request_, dtype="float16"), lambda _: [huge])


def test_a_stopped_filling_is_resumed_after_its_last_whole_record(request_, tower, stopped, caplog):
    with caplog.at_level(logging.INFO, store.__name__):
        assert_holds_everything(open_features(request_, tower))
    assert tower.seen == list(range(NUM))
    assert "Resuming the feature cache at record 4 of 5" in caplog.text


@pytest.mark.parametrize("damage", ["torn", "flipped", "no checksum"])
def test_a_record_that_is_not_whole_is_computed_again(request_, tower, stopped, damage):
    path = stopped / (CHECKSUMS if damage == "no checksum" else RECORDS)
    if damage == "flipped":
        flip(path)
    else:
        path.write_bytes(path.read_bytes()[:-2])
    assert_holds_everything(open_features(request_, tower))
    assert tower.seen == [0, 1, 2, 2, 3, 4]


def test_a_filling_with_another_key_starts_again(request_, tower, stopped):
    assert_holds_everything(open_features(replace(request_, key="another"), tower))
    assert tower.seen == [0, 1, 2, *range(NUM)]


def test_a_store_of_an_older_format_is_neither_read_nor_resumed(request_, tower, stopped):
    index = {"key": "key", "num_samples": NUM, "size": [6, 4], "shapes": [[7, 3], [1, 2]], "dtype": "float32"}
    (stopped / INDEX).write_text(json.dumps(index))
    assert_holds_everything(open_features(request_, tower))
    (request_.folder / INDEX).write_text(json.dumps(index))
    assert_holds_everything(open_features(request_, tower))
    assert tower.seen == [0, 1, 2, *range(NUM), *range(NUM)]


def test_a_filling_stopped_after_its_last_record_computes_nothing(request_, tower, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            open_features(request_, tower)
    assert_holds_everything(open_features(request_, tower))
    assert tower.seen == list(range(NUM))


@pytest.mark.parametrize("name", [RECORDS, CHECKSUMS, INDEX])
@pytest.mark.parametrize("damage", ["truncated", "removed"])
def test_a_folder_that_is_not_whole_is_filled_again(request_, tower, name, damage):
    path = open_features(request_, tower).store.folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:-1])
    assert_holds_everything(open_features(request_, tower))
    assert tower.seen == [*range(NUM), *range(NUM)]


def test_a_damaged_record_is_named_when_it_is_read(request_, tower):
    path = open_features(request_, tower).store.folder / RECORDS
    flip(path)
    cache = open_features(request_, tower)
    assert cache.read(0)
    with pytest.raises(DataError, match=rf"Record 4 in {path} is damaged\. Delete {path.parent} and run again"):
        cache.read(4)


def test_too_little_space_is_reported_before_anything_is_written(request_, tower, monkeypatch):
    no_space(monkeypatch)
    with pytest.raises(DataError, match=r"does not fit in .*caches: it needs 5 images of 0\.00 MB, 0\.00 GB in total"):
        open_features(request_, tower)
    assert not (request_.folder.with_name(".toy.unfinished") / INDEX).exists()
    assert tower.seen == [0]


def test_a_disk_that_fills_up_ends_in_a_sentence_and_what_is_there_is_kept(request_, tower):
    tower.stop_at, tower.error = 3, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(DataError, match=r"Cannot write the feature cache .*No space left.*resumes.*cache_dir="):
        open_features(request_, tower)
    tower.stop_at = None
    assert_holds_everything(open_features(request_, tower))
    assert tower.seen == list(range(NUM))


WAITING = """
import sys
from pathlib import Path
from afr_clip.data.feed.cache import FeatureRequest, open_features
def compute(start):
    raise SystemExit("computed again")
print("started", flush=True)
open_features(FeatureRequest(Path(sys.argv[1]), "key", 5, "float32"), compute)
"""


def test_another_process_waits_for_the_one_that_fills(request_):
    others: list[subprocess.Popen] = []

    def compute(start: int):
        for index in range(start, NUM):
            if index == 2:  # the lock is held, and the folder is not there yet
                command = [sys.executable, "-c", WAITING, str(request_.folder)]
                others.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
                assert others[0].stdout.readline() == "started\n"
            yield sample(index)

    open_features(request_, compute)
    assert others[0].communicate(timeout=60) == ("", "")
    assert others[0].returncode == 0
