"""Loading processes.

They ignore stop signals and work with little shared memory. If one is lost, the error names the image it was reading.
"""

import logging
import math
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import torch
from torch.utils.data import get_worker_info

from afr_clip.data.errors import DataError
from afr_clip.data.records import AnomalySample
from afr_clip.processes.signals import STOP_SIGNALS

logger = logging.getLogger(__name__)

_LOST = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) (?P<how>[^.]*)")
"""PyTorch's message for lost loading processes."""


SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED = 2**20
"""Bytes of it that any loading process needs; queues and OpenMP keep files of their own there."""

PREFETCHED = 2
"""Batches that PyTorch lets each loading process load ahead."""

NOT_SENT = 47
"""Exit code of a loading process that could not send a batch."""

ADVICE = "Set data.num_workers=0, or give the container more (docker run --shm-size=1g)."


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
        is_copying: Whether batches go through pipes instead of shared memory.
    """

    def __init__(self, num_workers: int, samples: Sequence[AnomalySample], *, is_copying: bool = False) -> None:
        self._is_copying = is_copying
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
        if self._is_copying:
            ForkingPickler.register(torch.Tensor, _by_value)
        # Otherwise the process would print a traceback and live on, and the main process wait for ever.
        Queue._on_queue_feeder_error = staticmethod(_end_without_batch)  # type: ignore[attr-defined]

    def last_read_by(self, pid: int) -> AnomalySample | None:
        """Return the image that a process read last; ``None`` if it read none or belongs to another loader."""
        for worker, index in enumerate(self._reading):
            if self._pids[worker] == pid and index >= 0:
                return self._samples[index]
        return None

    def _note(self, worker: int, index: int) -> None:
        self._reading[worker] = index


def copies_batches(num_workers: int, batch_bytes: int) -> bool:
    """Decide whether batches go through pipes, because they do not fit into the shared memory that is free.

    Raises:
        DataError: If there is not enough of it even for that.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free if num_workers else math.inf
    except OSError:
        return False  # not Linux
    if free < LEAST_SHARED:
        msg = (
            f"Loading processes need shared memory, but {SHARED_MEMORY} has only {free / 1e3:.0f} kB free for "
            f"data.num_workers={num_workers}. {ADVICE}"
        )
        raise DataError(msg)
    needed = num_workers * (PREFETCHED + 1) * batch_bytes
    if needed <= free:
        return False
    logger.warning(
        "%s has %.0f MB free, but loading processes share up to %.0f MB. Batches are copied through pipes instead, "
        "which is slower. More can be given to a container with docker run --shm-size=1g.",
        *(SHARED_MEMORY, free / 1e6, needed / 1e6),
    )
    return True


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
    if f"exit code {NOT_SENT}" in lost["how"] or "Bus error" in lost["how"]:
        msg = (
            f"A loading process was lost: process {lost['pids']} found no room for a batch in shared memory "
            f"({SHARED_MEMORY}). {ADVICE}"
        )
        return LostWorkerError(msg)
    msg = (
        f"A loading process was lost: process {lost['pids']} {lost['how'].strip()}. The last image it began to read: "
        f"{images}. If memory ran out, lower data.num_workers; if the image crashes its decoder, copy it again from "
        f"its source."
    )
    return LostWorkerError(msg)


@contextmanager
def naming_lost_images(loaders: Sequence[LoadingProcesses]) -> Iterator[None]:
    """Name the image that was being read if a loading process is lost inside the block."""
    try:
        yield
    except RuntimeError as error:  # PyTorch raises it at any point of the main process
        explained = explain_loss(error, loaders)
        if explained is None:
            raise
        raise explained from error


def _by_value(tensor: torch.Tensor) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
    return torch.from_numpy, (tensor.numpy(),)


def _end_without_batch(error: Exception, batch: object) -> NoReturn:
    os._exit(NOT_SENT)


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
