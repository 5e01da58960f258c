"""What happens when a run is asked to stop, and how a process ends.

Schedulers send SIGTERM, SIGUSR1 or SIGUSR2 before they take a machine away. What each part does:

* A training finishes its step, saves and stops (`stopping.StopWhenAsked`), or at once while it loads (`stoppable`).
* Evaluate finishes its batch and keeps what is on disk; predict stops at once, since it resumes from any moment.
* A diagnosis has nothing to resume: `interruptible` ends it as Ctrl-C does.
* The process that watches over several others forwards the signal to them (`launch`).
* A sweep asks its cells to save and waits for them (`sweep.cells`).
* Loading processes ignore the signals; their main process decides (`data.feed.workers`).
* A process that loses the one that started it, even to SIGKILL, is sent a signal itself (`start_child`).

Only the standard library is needed here, so every package may import it.
"""

import functools
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from afr_clip.files import for_shell, shown
from afr_clip.processes.place import is_first

logger = logging.getLogger(__name__)

EXIT_STOPPED = 75
"""Exit code of a run that was stopped by a signal and has saved everything (EX_TEMPFAIL)."""

EXIT_SKIPPED = 3
"""Exit code of a prediction or calibration that is complete but for photographs that could not be read."""

EXIT_ANOMALOUS = 4
"""Exit code of a prediction with an anomalous photograph, if `fail_on` asks for it."""

STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has only SIGTERM
)
"""Signals that ask to stop. Ctrl-C is not among them: it ends a run at once."""

INTERRUPTED = "Interrupted."

_NO_RUN = "Nothing was begun that could be resumed; run the same command again."
_resuming = _NO_RUN
"""How this process's run can be resumed, for its last message."""

LOST = "Another process of the run has ended"
"""Start of the sentence of a process that failed only because another one did."""

SENTENCE_FILE = "AFR_CLIP_SENTENCE_FILE"
"""Environment variable with the file in which a process leaves its error for the one that watches over it."""

PARENT = "AFR_CLIP_PARENT"
"""Environment variable ``FD:SIGNAL``: a pipe that closes when the parent ends, and the signal to send then."""

Handler = Callable[[int, FrameType | None], object]


class SpokenExit(SystemExit):
    """An exit whose error has already been reported."""


class Stopped(SystemExit):
    """A run stopped because a signal asked it to.

    Args:
        saved: A sentence that says what is saved.
    """

    def __init__(self, signum: int, saved: str) -> None:
        super().__init__(EXIT_STOPPED)
        self.signum = signal.Signals(signum)
        self._saved = saved

    def __str__(self) -> str:
        """Name the signal, what is saved, and how to resume."""
        return f"Stopped by {self.signum.name}. {self._saved} {how_to_resume()}"


def note_run(folder: Path, *, repeats: bool = False) -> None:
    """Note where a run is that can be resumed. The first of a command counts: a protocol is resumed as a whole.

    Args:
        repeats: Whether the same command resumes without ``resume=true``.
    """
    global _resuming  # noqa: PLW0603 - a process does one thing
    if _resuming is _NO_RUN:
        option = "" if repeats else " resume=true"
        _resuming = (
            f"The run is in {shown(folder)}; the same command with {for_shell(f'run_dir={folder}')}{option} resumes it."
        )


def forget_run() -> None:
    """Forget the run of an earlier command in this process."""
    global _resuming  # noqa: PLW0603
    _resuming = _NO_RUN


def how_to_resume() -> str:
    """Say in a sentence where the run of this process is and how it is resumed."""
    return _resuming


def interrupted() -> str:
    """Return the sentence of a command that Ctrl-C ended."""
    return f"{INTERRUPTED} Files written so far are complete. {how_to_resume()}"


def end_with(sentence: str, code: int) -> NoReturn:
    """End this process with an error, reported to the user or to the process that watches over this one.

    Raises:
        SpokenExit: Always.
    """
    report = os.environ.get(SENTENCE_FILE)
    if report is None:
        with suppress(OSError):  # the terminal may have gone
            sys.stderr.write(f"error: {sentence}\n")
            sys.stderr.flush()
    else:
        Path(report).write_text(sentence, encoding="utf-8")
    raise SpokenExit(code)


def listen(handler: Handler, signums: Sequence[int] = STOP_SIGNALS) -> dict[int, Any]:
    """Handle signals from now on; outside the main thread, where Python does not allow it, do nothing.

    A command that was started with ``nohup`` keeps ignoring SIGHUP.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    heard = (s for s in signums if s != _HANG_UP or signal.getsignal(s) is not signal.SIG_IGN)
    return {int(signum): signal.signal(signum, handler) for signum in heard}


_HANG_UP = getattr(signal, "SIGHUP", None)


@contextmanager
def listening(handler: Handler, signums: Sequence[int] = STOP_SIGNALS) -> Iterator[dict[int, Any]]:
    """Handle signals inside the block; yields the earlier handlers, which are restored afterwards."""
    before = listen(handler, signums)
    try:
        yield before
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, signal.SIG_DFL if earlier is None else earlier)


def hand_on(signum: int, before: Mapping[int, Any]) -> None:
    """Call the earlier handler of a signal, submitit's for example, now that everything is saved."""
    if _is_foreign(signum, before):
        before[signum](signum, None)


def _is_foreign(signum: int, before: Mapping[int, Any]) -> bool:
    """Whether the earlier handler is not ours; `stoppable` may be nested, and then the outer one has nothing to add."""
    handler = before.get(signum)
    return signum in STOP_SIGNALS and callable(handler) and getattr(handler, "__module__", None) != __name__


@contextmanager
def stoppable(
    saved: str = "Files written so far are complete.",
    *,
    requeue: bool = False,
    signums: Sequence[int] = STOP_SIGNALS,
) -> Iterator[None]:
    """Turn a signal into `Stopped`. An earlier handler is called once everything is saved.

    Args:
        saved: What `Stopped` says if the signal comes in this block; a nested listener may say something better.
        requeue: Whether SLURM is told to start this job again.
    """

    def stop(signum: int, _frame: FrameType | None) -> NoReturn:
        raise Stopped(signum, saved)

    with listening(stop, signums) as before:
        try:
            yield
        except Stopped as stopped:
            for number in before:
                signal.signal(number, signal.SIG_IGN)  # one signal is enough
            if requeue:
                _requeue_job()
            if _is_foreign(stopped.signum, before):
                logger.warning("%s", stopped)  # the earlier handler may end the process
            hand_on(stopped.signum, before)
            raise


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal end a command that cannot be resumed, as Ctrl-C does."""
    with listening(signal.default_int_handler):
        yield


def was_requeued() -> bool:
    """Whether SLURM started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def _requeue_job() -> None:
    if not is_first() or "SUBMITIT_EXECUTOR" in os.environ:  # submitit requeues its own jobs
        return
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        logger.warning("requeue=true has no effect: this is not a SLURM job (SLURM_JOB_ID is not set).")
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], check=False, capture_output=True, text=True)
        failure = done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else None
    except OSError as error:
        failure = str(error)
    if failure is None:
        logger.warning("SLURM job %s has been requeued and will resume automatically.", job)
    else:
        logger.warning("SLURM job %s could not be requeued: %s. Submit it again.", job, failure)


@functools.cache
def _lifeline() -> int:
    # Only this process holds the writing end, so a child reads the end of the file however this process ends.
    return os.pipe()[0]


def start_child(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    at_death: signal.Signals,
    **options: Any,  # noqa: ANN401
) -> "subprocess.Popen[bytes]":
    """Start a command that does not outlive this process.

    Args:
        arguments: The command; it must call `watch_parent`.
        environment: Variables added to those of this process.
        at_death: The signal it sends itself when this process has ended, even if that was killed.
        options: Further ones of ``subprocess.Popen``.
    """
    return subprocess.Popen(
        arguments,
        env={**os.environ, **environment, PARENT: f"{_lifeline()}:{int(at_death)}"},
        stdin=subprocess.DEVNULL,
        pass_fds=(_lifeline(),),
        start_new_session=True,  # Ctrl-C reaches it once, through this process
        **options,
    )


def watch_parent() -> None:
    """If `start_child` started this process, send it the agreed signal once the parent has ended."""
    agreed = os.environ.pop(PARENT, None)
    if agreed is None:
        return
    pipe, signum = map(int, agreed.split(":"))

    def wait() -> None:
        os.read(pipe, 1)
        os.kill(os.getpid(), signum)

    threading.Thread(target=wait, daemon=True, name="parent").start()
