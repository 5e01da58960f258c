import mmap
import sys

import pytest
import torch

from afr_clip.processes import memory
from afr_clip.processes.memory import measuring_memory

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_the_peak_is_that_of_the_measured_stretch():
    with measuring_memory(CPU) as peak:
        start = peak()
        # Fresh pages, written to one by one: an allocator may hand out pages that were counted before.
        with measuring_memory(CPU) as inner, mmap.mmap(-1, 32 * 2**20) as work:
            for page in range(0, len(work), mmap.PAGESIZE):
                work[page] = 1
            grown = inner()
    assert start is not None
    assert grown is not None
    assert 24 < grown - start < 48


def test_where_the_system_does_not_tell_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_RESET", tmp_path / "missing" / "file")
    with measuring_memory(CPU) as peak:
        assert peak() is None
