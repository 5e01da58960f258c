import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from afr_clip.data.errors import DataError
from afr_clip.data.feed.workers import LoadingProcesses, LostWorkerError, copies_batches, explain_loss
from afr_clip.data.records import AnomalySample

SAMPLES = [AnomalySample("toy", "bolt", "good", Path(f"{index}.png"), None, False, "bolt") for index in range(4)]


class Pids(Dataset):
    """Gives the number of the process that reads."""

    on_read = staticmethod(lambda index: None)

    def __len__(self) -> int:
        return len(SAMPLES)

    def __getitem__(self, index: int) -> int:
        self.on_read(index)
        os.kill(os.getpid(), signal.SIGUSR1)
        subprocess.run(["kill", "-TERM", str(os.getpid())], check=True)  # from elsewhere, as a scheduler's
        return os.getpid()


def lost(pid: int) -> RuntimeError:
    return RuntimeError(f"DataLoader worker (pid {pid}) is killed by signal: Killed. Try without num_workers.")


def test_what_a_process_read_last_is_known_after_its_end_and_stop_signals_pass_it_by():
    loading = LoadingProcesses(2, SAMPLES)
    pids = [int(pid) for pid in DataLoader(Pids(), batch_size=None, num_workers=2, worker_init_fn=loading)]
    assert pids[:2] == pids[2:]  # nobody was killed
    assert [loading.last_read_by(pid) for pid in pids[:2]] == [SAMPLES[2], SAMPLES[3]]
    assert loading.last_read_by(os.getpid()) is None
    explained = explain_loss(lost(pids[1]), [LoadingProcesses(1, SAMPLES), loading])
    assert isinstance(explained, LostWorkerError)
    assert str(explained).startswith(
        f"A loading process was lost: process {pids[1]} is killed by signal: Killed. The last image it "
        f"began to read: 3.png."
    )


def test_how_a_process_ended_is_said_where_pytorch_knows_it():
    error = RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly")
    assert "process 1, 2 exited unexpectedly. The last image it began to read: none." in str(explain_loss(error, []))
    error.__cause__ = lost(2)
    assert "process 2 is killed by signal: Killed." in str(explain_loss(error, []))


@pytest.mark.parametrize("said", ["CUDA error", "DataLoader timed out after 3 seconds"])
def test_another_error_is_left_alone(said):
    assert explain_loss(RuntimeError(said), []) is None


class Images(Dataset):
    """Gives tensors."""

    on_read = staticmethod(lambda index: None)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return torch.full((3, 500, 500), float(index)), "a"


@pytest.mark.parametrize("is_copying", [True, False])
def test_batches_arrive_whole_with_and_without_shared_memory(is_copying):
    loading = LoadingProcesses(1, SAMPLES, is_copying=is_copying)
    loader = DataLoader(Images(), batch_size=2, num_workers=1, worker_init_fn=loading)
    for number, (images, words) in enumerate(loader):
        assert images.shape == (2, 3, 500, 500)
        assert images.is_shared() is not is_copying
        assert images[:, 0, 0, 0].tolist() == [2.0 * number, 2.0 * number + 1]
        assert words == ("a", "a")


@pytest.mark.parametrize(("free", "workers", "expected"), [(64e6, 2, True), (1e9, 2, False), (0, 0, False)])
def test_batches_are_copied_where_shared_memory_cannot_hold_them(monkeypatch, caplog, free, workers, expected):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=int(free)))
    assert copies_batches(workers, 14 * 10**6) is expected
    assert ("loading processes share up to 84 MB" in caplog.text) is expected


def test_almost_no_shared_memory_is_named_before_a_process_waits_for_it(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=200_000))
    with pytest.raises(
        DataError, match=r"/dev/shm has only 200 kB free for data\.num_workers=2\. Set data\.num_workers=0"
    ):
        copies_batches(2, 1)


class Unsendable(Dataset):
    """Gives what cannot be sent, as a batch without room in shared memory."""

    on_read = staticmethod(lambda index: None)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> object:
        return threading.Lock()


def test_a_process_that_cannot_send_ends_and_shared_memory_is_named():
    loader = DataLoader(Unsendable(), batch_size=None, num_workers=1, worker_init_fn=LoadingProcesses(1, SAMPLES))
    with pytest.raises(RuntimeError) as lost:
        next(iter(loader))
    explained = explain_loss(lost.value, [])
    assert "found no room for a batch in shared memory (/dev/shm). Set data.num_workers=0" in str(explained)
    error = RuntimeError("DataLoader worker (pid 1) is killed by signal: Bus error. It is possible that")
    assert "shared memory" in str(explain_loss(error, []))


HANGING = """
import os, signal, sys, time
from torch.utils.data import DataLoader
from afr_clip.data.errors import DataError
from afr_clip.data.feed.workers import LoadingProcesses

class Hanging:
    def __len__(self): return 2
    def __getitem__(self, index):
        if index == 1:
            time.sleep(600)
        return os.getpid()

loader = iter(DataLoader(Hanging(), batch_size=None, num_workers=2, worker_init_fn=LoadingProcesses(2, [])))
print(next(loader))
"""


def test_a_process_that_hangs_ends_with_the_main_one():
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=100, check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
