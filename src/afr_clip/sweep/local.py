"""Run cells on this machine, some at a time."""

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol, runtime_checkable

from afr_clip.processes.signals import STOP_SIGNALS, Stopped
from afr_clip.sweep.cell import CellProcess, State, state_of

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1


@runtime_checkable
class Process(Protocol):
    """What running cells needs of the process of one."""

    folder: Path

    def ended(self) -> bool:
        """Whether it has ended."""

    def finish(self) -> State:
        """Mark how it ended."""

    def ask_to_stop(self) -> None:
        """Tell it to save its state and end."""

    def stop(self) -> None:
        """Wait until it has ended, which it was asked to; end it where it does not."""

    def tail(self) -> str:
        """Return the end of what it said."""


Start = Callable[[Path, Mapping[str, str]], Process | None]
"""Starts the process of a cell with some variables; ``None`` where another is at work in its folder."""


def run_here(
    folders: Sequence[Path],
    environments: Sequence[Mapping[str, str]] = ({},),
    told: Callable[[Path, State], None] = lambda _folder, _state: None,
    start: Start = CellProcess.start,
) -> None:
    """Run cells that are not done.

    Args:
        folders: Of the cells, each with its plan.
        environments: Variables of the cells that run at the same time: as many as there are of these.
        told: Hears of every cell that ended.
        start: Starts the process of a cell.

    Raises:
        Stopped: If a signal asks for it; the cells that run save their state first.
    """
    waiting = deque(folder for folder in folders if state_of(folder).name != "done")
    free, running, busy = deque(environments), list[tuple[Process, Mapping[str, str]]](), set[Path]()
    with _stopped_by_signals():
        try:
            while waiting or running:
                for process, environment in [pair for pair in running if pair[0].ended()]:
                    running.remove((process, environment))
                    free.append(environment)
                    _report(process, told)
                for _ in range(len(waiting)):
                    if free:
                        _start_next(waiting, free, running, busy, start)
                time.sleep(POLL_SECONDS)
        finally:
            for process, _ in running:  # all before any is waited for: whoever asks may not wait for long
                process.ask_to_stop()
            for process, _ in running:
                logger.warning("%s is stopped.", process.folder)
                process.stop()


def _start_next(
    waiting: deque[Path],
    free: deque[Mapping[str, str]],
    running: list[tuple[Process, Mapping[str, str]]],
    busy: set[Path],
    start: Start,
) -> None:
    folder = waiting.popleft()
    if state_of(folder).name == "done":
        return
    process = start(folder, free[0])
    if process is None:
        if folder not in busy:
            logger.warning("%s is still being run by an earlier sweep; it is waited for.", folder)
        busy.add(folder)
        waiting.append(folder)
        return
    logger.info("%s starts.", folder)
    running.append((process, free.popleft()))


def _report(process: Process, told: Callable[[Path, State], None]) -> None:
    state = process.finish()
    if state.name == "failed":
        logger.warning("%s failed: %s\n%s", process.folder, state.error, process.tail())
    else:
        logger.info("%s is %s.", process.folder, state.name)
    told(process.folder, state)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number, "The cells that ran were stopped too, and what they had trained is saved.")

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread of a process may take signals
        return
    before = {number: signal.signal(number, stop) for number in (*STOP_SIGNALS, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
