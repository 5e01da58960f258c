import errno
import logging
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from afr_clip.data.errors import DataError
from afr_clip.data.feed import feature_cache
from afr_clip.data.feed.feature_cache import CHECKSUMS, INDEX, RECORDS, FeatureRequest, TappedSample, open_features

NUM = 5


def sample(index: int) -> TappedSample:
    generator = torch.Generator().manual_seed(index)
    mask = torch.rand(6, 4, generator=generator) > 0.5
    return TappedSample(mask, (torch.randn(7, 3, generator=generator), torch.randn(1, 2, generator=generator)))


class Tower:
    """Gives the samples, remembers which, and may stop at one."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.stop_at: int | None = None

    def __call__(self, start: int):
        for index in range(start, NUM):
            if index == self.stop_at:
                raise KeyboardInterrupt
            self.seen.append(index)
            yield sample(index)


@pytest.fixture
def tower():
    return Tower()


@pytest.fixture
def request_(tmp_path):
    return FeatureRequest(tmp_path / "caches" / "toy", "key", NUM, "float32")


def unfinished(request: FeatureRequest):
    return request.folder.with_name(".toy.unfinished")


def assert_holds_everything(cache, **tolerance):
    for index in range(NUM):
        kept, fresh = cache.read(index), sample(index)
        assert torch.equal(kept.mask, fresh.mask)
        for mine, its in zip(kept.tapped, fresh.tapped, strict=True):
            torch.testing.assert_close(mine, its, **{"rtol": 0, "atol": 0} | tolerance)


def test_what_is_read_is_what_was_computed_bit_for_bit_and_computed_once(request_, tower):
    assert_holds_everything(open_features(request_, tower))
    assert_holds_everything(open_features(request_, tower))
    assert tower.seen == list(range(NUM))
    assert unfinished(request_).exists() is False


def test_half_precision_takes_half_the_disk_and_rounds(request_, tower):
    whole = open_features(request_, tower)
    half = open_features(replace(request_, folder=request_.folder.with_name("half"), dtype="float16"), tower)
    assert_holds_everything(half, rtol=2**-11, atol=1e-7)
    sizes = [(cache.folder / RECORDS).stat().st_size for cache in (whole, half)]
    assert sizes[0] - sizes[1] == NUM * (7 * 3 + 2) * 2


def test_what_half_precision_cannot_hold_is_refused(request_):
    huge = TappedSample(torch.zeros(6, 4, dtype=torch.bool), (torch.full((2, 2), 7e4),))
    with pytest.raises(DataError, match=r"finite numbers that float16 holds.*feature_dtype=float32"):
        open_features(replace(request_, dtype="float16"), lambda _: [huge])


def test_a_stopped_filling_goes_on_behind_its_last_whole_record(request_, tower, caplog):
    tower.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        open_features(request_, tower)
    assert not request_.folder.exists()
    tower.stop_at = None
    with caplog.at_level(logging.INFO, feature_cache.__name__):
        assert_holds_everything(open_features(request_, tower))
    assert tower.seen == list(range(NUM))
    assert "Going on with the feature cache behind image 3 of 5" in caplog.text


@pytest.mark.parametrize("damage", ["torn", "flipped", "no checksum"])
def test_a_record_that_is_not_whole_is_computed_again(request_, tower, damage):
    tower.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        open_features(request_, tower)
    path = unfinished(request_) / (CHECKSUMS if damage == "no checksum" else RECORDS)
    content = bytearray(path.read_bytes())
    content[-2] ^= 0xFF
    path.write_bytes(content if damage == "flipped" else content[:-2])
    tower.stop_at = None
    assert_holds_everything(open_features(request_, tower))
    assert tower.seen == [0, 1, 2, 2, 3, 4]


def test_a_filling_with_another_key_starts_anew(request_, tower):
    tower.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        open_features(request_, tower)
    tower.stop_at = None
    assert_holds_everything(open_features(replace(request_, key="another"), tower))
    assert tower.seen == [0, 1, 2, *range(NUM)]


def test_a_filling_stopped_behind_its_last_record_computes_nothing(request_, tower, monkeypatch):
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
    path = open_features(request_, tower).folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:-1])
    assert_holds_everything(open_features(request_, tower))
    assert tower.seen == [*range(NUM), *range(NUM)]


def test_a_damaged_record_is_named_when_it_is_read(request_, tower):
    path = open_features(request_, tower).folder / RECORDS
    content = bytearray(path.read_bytes())
    content[-2] ^= 0xFF
    path.write_bytes(content)
    cache = open_features(request_, tower)
    assert cache.read(0)
    with pytest.raises(DataError, match=rf"Record 4 in {path} must be what was written.*Delete {path.parent} and run"):
        cache.read(4)


def test_too_little_space_is_said_before_anything_is_written(request_, tower, monkeypatch):
    usage = type("Usage", (), {"free": 400})
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"needs 0\.00 GB in .*caches \(5 images of 0\.00 MB\), where .* are free"):
        open_features(request_, tower)
    assert not (unfinished(request_) / INDEX).exists()
    assert tower.seen == [0]


def test_a_disk_that_fills_up_ends_in_a_sentence_and_what_is_there_is_kept(request_, tower, monkeypatch):
    def full(self, kept, pack=feature_cache.RecordForm.pack):
        if len(tower.seen) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pack(self, kept)

    with monkeypatch.context() as patched:
        patched.setattr(feature_cache.RecordForm, "pack", full)
        with pytest.raises(
            DataError, match=r"must be written to .*No space left.*goes on where it stopped.*cache_dir="
        ):
            open_features(request_, tower)
    assert_holds_everything(open_features(request_, tower))
    assert tower.seen == [0, 1, 2, 3, 3, 4]


def test_a_copy_in_another_process_reads_the_same(request_, tower):
    cache = open_features(request_, tower)
    cache.read(0)
    assert len(pickle.dumps(cache)) < 1000
    assert_holds_everything(pickle.loads(pickle.dumps(cache)))


WAITING = """
import sys
from pathlib import Path
from afr_clip.data.feed.feature_cache import FeatureRequest, open_features
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
