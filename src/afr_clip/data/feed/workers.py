"""Loading processes: signals that are not meant for them pass by, and what one was reading outlives it."""

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
"""How PyTorch says that loading processes are gone."""


class LostWorkerError(DataError):
    """A loading process that ended before its work did."""


class Watched(Protocol):
    """A dataset that says which image it is about to read."""

    on_read: Callable[[int], None]


class LoadingProcesses:
    """What the loading processes of one loader are reading, in memory that they share with the main process.

    Called at the start of each of them, as ``worker_init_fn``.

    Args:
        num_workers: How many there are.
        samples: The images of their dataset, which is ``Watched``.
    """

    def __init__(self, num_workers: int, samples: Sequence[AnomalySample]) -> None:
        self._pids = multiprocessing.RawArray("q", num_workers)
        self._reading = multiprocessing.RawArray("q", [-1] * num_workers)
        self._samples = tuple(samples)

    def __call__(self, worker: int) -> None:
        """Prepare the process that this is called in.

        Args:
            worker: Its number among those of the loader.
        """
        info = get_worker_info()
        assert info is not None, "called in a loading process"
        dataset = cast("Watched", info.dataset)
        self._pids[worker] = os.getpid()
        dataset.on_read = partial(self._note, worker)
        _let_stop_signals_pass()

    def last_read_by(self, pid: int) -> AnomalySample | None:
        """Return the image that a process began to read last; ``None`` if it read none or is not of this loader.

        Args:
            pid: Its number in the system.
        """
        for worker, index in enumerate(self._reading):
            if self._pids[worker] == pid and index >= 0:
                return self._samples[index]
        return None

    def _note(self, worker: int, index: int) -> None:
        self._reading[worker] = index


def explain_loss(error: RuntimeError, loaders: Sequence[LoadingProcesses]) -> LostWorkerError | None:
    """Say which image a lost process was reading.

    Args:
        error: What PyTorch raised.
        loaders: Of the run, the latest last.

    Returns:
        The sentence as an error; ``None`` where something else went wrong.
    """
    # That a process exited unexpectedly is raised from how it did, where PyTorch knows both.
    lost = _LOST.search(str(error.__cause__)) or _LOST.search(str(error))
    if lost is None:
        return None
    pids = [int(pid) for pid in lost["pids"].split(",")]
    read = [loader.last_read_by(pid) for loader in reversed(loaders) for pid in pids]
    images = ", ".join(str(sample.image_path) for sample in read if sample is not None) or "none"
    msg = (
        f"Loading processes must outlive the run, but process {lost['pids']} {lost['how'].strip()}. The last image it "
        f"began to read: {images}. If memory ran out lower data.num_workers; if the image breaks its decoder, copy it "
        f"again from its source."
    )
    return LostWorkerError(msg)


def _let_stop_signals_pass() -> None:
    """Ignore what asks the run to stop: it reaches whole groups of processes, and the main one decides what to do.

    SIGTERM is also how the main process ends a loading process that does not end by itself, so it counts from there.
    """
    for signum in STOP_SIGNALS:
        if signum != signal.SIGTERM:
            signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where SIGTERM stays deadly
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_parent_says_so, args=(os.getppid(),), daemon=True).start()


def _end_when_parent_says_so(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
