"""Loading processes: they ignore stop signals, and if one is lost, the image that it was reading is known."""

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, cast

from torch.utils.data import get_worker_info

from afr_clip.data.errors import DataError
from afr_clip.data.records import AnomalySample
from afr_clip.processes.signals import STOP_SIGNALS

_LOST = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) (?P<how>[^.]*)")
"""PyTorch's message for lost loading processes."""


class LostWorkerError(DataError):
    """A loading process ended unexpectedly."""


class Watched(Protocol):
    """A dataset that reports each image before it reads it."""

    on_read: Callable[[int], None]


class LoadingProcesses:
    """What each loading process of a loader is reading, in memory that they share with the main process.

    An instance is the loader's ``worker_init_fn``: each process calls it when it starts.

    Args:
        samples: The images of their dataset, which is ``Watched``.
    """

    def __init__(self, num_workers: int, samples: Sequence[AnomalySample]) -> None:
        self._pids = multiprocessing.RawArray("q", num_workers)
        self._reading = multiprocessing.RawArray("q", [-1] * num_workers)
        self._samples = tuple(samples)

    def __call__(self, worker: int) -> None:
        """Prepare the current process, which is number ``worker`` of the loader."""
        info = get_worker_info()
        assert info is not None, "called in a loading process"
        dataset = cast("Watched", info.dataset)
        self._pids[worker] = os.getpid()
        dataset.on_read = partial(self._note, worker)
        _ignore_stop_signals()

    def last_read_by(self, pid: int) -> AnomalySample | None:
        """Return the image that a process read last; ``None`` if it read none or belongs to another loader."""
        for worker, index in enumerate(self._reading):
            if self._pids[worker] == pid and index >= 0:
                return self._samples[index]
        return None

    def _note(self, worker: int, index: int) -> None:
        self._reading[worker] = index


def explain_loss(error: RuntimeError, loaders: Sequence[LoadingProcesses]) -> LostWorkerError | None:
    """Turn PyTorch's error about a lost process into one that names the image it was reading.

    Args:
        loaders: The loaders of the run, the latest last.

    Returns:
        The new error; ``None`` if ``error`` is about something else.
    """
    # PyTorch raises "exited unexpectedly" from the error that says how, if it knows.
    lost = _LOST.search(str(error.__cause__)) or _LOST.search(str(error))
    if lost is None:
        return None
    pids = [int(pid) for pid in lost["pids"].split(",")]
    read = [loader.last_read_by(pid) for loader in reversed(loaders) for pid in pids]
    images = ", ".join(str(sample.image_path) for sample in read if sample is not None) or "none"
    msg = (
        f"A loading process was lost: process {lost['pids']} {lost['how'].strip()}. The last image it began to read: "
        f"{images}. If memory ran out, lower data.num_workers; if the image crashes its decoder, copy it again from "
        f"its source."
    )
    return LostWorkerError(msg)


def _ignore_stop_signals() -> None:
    # Signals reach whole process groups, and the main process decides what to do. It also ends loading processes by
    # SIGTERM if they do not end on their own, so SIGTERM counts when it comes from there.
    for signum in STOP_SIGNALS:
        if signum != signal.SIGTERM:
            signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where SIGTERM stays deadly
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_on_sigterm_of, args=(os.getppid(),), daemon=True).start()


def _end_on_sigterm_of(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
