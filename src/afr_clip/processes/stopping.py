"""What a command does with signals that ask it to stop: save, hand on, and have itself started again."""

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig

from afr_clip.processes.signals import STOP_SIGNALS, Stopped
from afr_clip.reports.record.run_folder import holds_run

logger = logging.getLogger(__name__)

BETWEEN = "Files written so far are whole, and what was finished before is saved."
"""What is said of a run that was neither training nor scoring when it was stopped."""


@contextmanager
def stoppable(config: DictConfig) -> Iterator[None]:
    """Let a training be stopped by a signal wherever it is, and requeue its SLURM job where that is wanted.

    Whoever listened to the signal before, submitit for one, gets it afterwards, when everything is saved.

    Args:
        config: Its ``requeue`` is read.

    Yields:
        Nothing. While a network is run over data its ``StopWhenAsked`` listens instead.

    Raises:
        Stopped: If a signal came.
    """
    with listening(_stop) as before:
        try:
            yield
        except Stopped as stopped:
            for signum in before:
                signal.signal(signum, signal.SIG_IGN)  # one is enough
            if config.requeue:
                _requeue_job()
            hand_on = before.get(stopped.signum)
            if callable(hand_on):
                logger.warning("%s", stopped)
                hand_on(stopped.signum, None)
            raise


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a command that cannot be continued end at such a signal as it does at Ctrl-C, in one sentence."""
    with listening(signal.default_int_handler):
        yield


Handler = Callable[[int, FrameType | None], object]


@contextmanager
def listening(handler: Handler) -> Iterator[dict[int, object]]:
    """Handle the signals that ask to stop, and give them back.

    Args:
        handler: Called at each.

    Yields:
        Who handled them before, by signal; nobody outside the main thread, where Python lets nobody listen.
    """
    signals = STOP_SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {signum: signal.signal(signum, handler) for signum in signals}
    try:
        yield dict(before)
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, signal.SIG_DFL if earlier is None else earlier)


def goes_on(config: DictConfig, folder: Path) -> bool:
    """Whether a run continues the one in its folder: it was told so, or SLURM has requeued its job.

    Args:
        config: Its ``resume`` and ``requeue`` are read.
        folder: The run folder.
    """
    is_requeued = config.requeue and int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    return bool(config.resume or (is_requeued and holds_run(folder)))


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(signum, BETWEEN)


def _requeue_job() -> None:
    """Have SLURM start the job again, by one of its processes; where submitit does so by itself it is left to it."""
    job = os.environ.get("SLURM_JOB_ID")
    if getattr(rank_zero_only, "rank", 0) != 0 or "SUBMITIT_EXECUTOR" in os.environ:
        return
    if job is None:
        logger.warning("requeue=true has no effect here, because this is no SLURM job (SLURM_JOB_ID is not set).")
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], check=False, capture_output=True, text=True)
        failure = done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else None
    except OSError as error:
        failure = str(error)
    if failure is None:
        logger.warning("SLURM job %s is requeued; it goes on by itself.", job)
    else:
        logger.warning("SLURM job %s could not be requeued: scontrol says %s. Submit it again.", job, failure)
