"""The cells of a sweep: each is a training in its own process, which leaves marks in its folder.

A cell is ``train``, or ``evaluate`` where nothing is trained, in its folder. Both resume a run that they find there. So
a cell may be started again at any time.
"""

import logging
import runpy
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from afr_clip.processes.signals import EXIT_STOPPED, STOP_SIGNALS, start_child, stoppable, watch_parent
from afr_clip.reports.record.run_folder import LOCK, hold, holds_run, write_json
from afr_clip.reports.record.schema import CellFailure, CellPlan, read_record
from afr_clip.run.job import EvaluationJob
from afr_clip.sweep.job import Cell

logger = logging.getLogger(__name__)

PLAN, LOG, DONE, FAILED = "cell.json", "cell.log", "DONE", "FAILED"
"""Files of a cell: what to run, its log, and how it ended. Its training holds the lock of its run folder."""

PATIENCE = 120.0
"""Seconds that a cell has to save its state after it was told to stop."""

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class State:
    """How far a cell is: ``done``, ``failed`` with an error, or ``waiting``."""

    name: str
    error: str | None = None


def state_of(folder: Path) -> State:
    """Read how far a cell is from the marks in its folder."""
    if (folder / DONE).exists():
        return State("done")
    failed = folder / FAILED
    return State("failed", read_record(failed, CellFailure)["error"]) if failed.exists() else State("waiting")


def write_plan(cell: Cell, extra: Sequence[str] = ()) -> None:
    """Write into a cell's folder what it has to run; ``extra`` are overrides without influence on numbers."""
    content = {
        "command": "evaluate" if isinstance(cell.job, EvaluationJob) else "train",
        "setting": cell.setting,
        "seed": cell.seed,
        "digest": cell.digest,
        "overrides": [*cell.overrides, *extra],
        "results": cell.results,
    }
    write_json(cell.folder / PLAN, content)


class CellProcess:
    """The training of a cell. Use `start`.

    Args:
        folder: The cell's folder, which holds its plan.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self._plan = read_record(folder / PLAN, CellPlan)
        (folder / FAILED).unlink(missing_ok=True)
        self._started = time.monotonic()
        with (folder / LOG).open("ab") as output:
            self._log_start = output.seek(0, 2)
            self._process = start_child(
                self._command(), environment, signal.SIGTERM, stdout=output, stderr=subprocess.STDOUT
            )

    @classmethod
    def start(cls, folder: Path, environment: Mapping[str, str]) -> "CellProcess | None":
        """Start or resume a cell; return ``None`` if a process of an earlier sweep is still at work in its folder."""
        try:
            with FileLock(folder / LOCK, timeout=0):
                pass
        except Timeout:
            return None
        return cls(folder, environment)

    def _command(self) -> list[str]:
        folder = str(self.folder.resolve())
        quoted = folder.replace("'", "\\'")
        resume = ["resume=true"] if holds_run(self.folder) else []
        own = [*self._plan["overrides"], f"run_dir='{quoted}'", *resume]
        command = "evaluate" if self._plan.get("command") == "evaluate" else "train"
        return [sys.executable, "-m", "afr_clip.sweep.cells", folder, command, *own]

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def finish(self) -> State:
        """Mark how the cell ended. ``DONE`` is written last, after everything else is on disk."""
        code = self._process.wait()
        missing = [name for name in self._plan["results"] if not (self.folder / name).exists()]
        if code == 0 and not missing:
            when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            seconds = round(time.monotonic() - self._started, 1)
            write_json(self.folder / DONE, {"digest": self._plan["digest"], "when": when, "seconds": seconds})
        elif code != EXIT_STOPPED:
            sentence = f"The cell ended without {missing[0]}." if code == 0 else self._last_words(code)
            write_json(self.folder / FAILED, {"error": sentence})
            logger.warning("%s failed: %s\n%s", self.folder, sentence, self.tail())
        state = state_of(self.folder)
        if state.name != "failed":
            logger.info("%s is %s.", self.folder, state.name)
        return state

    def ask_to_stop(self) -> None:
        """Tell the process to save its state and end."""
        self._process.terminate()

    def stop(self) -> None:
        """Wait for the process after `ask_to_stop`; kill it if it takes too long."""
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tail(self, lines: int = 15) -> str:
        """Return the last lines that this process wrote to the cell's log."""
        with (self.folder / LOG).open("rb") as log:
            log.seek(self._log_start)
            written = log.read().decode(errors="replace")
        return "\n".join(written.splitlines()[-lines:])

    def _last_words(self, code: int) -> str:
        if code < 0:
            return f"The process was ended by signal {-code} ({signal.Signals(-code).name})."
        written = [line for line in self.tail(200).splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in written if line.startswith("error: ")]
        return (errors or written or [f"The process ended with exit code {code} and no message."])[-1]


def run_here(
    folders: Sequence[Path],
    environments: Sequence[Mapping[str, str]] = ({},),
    on_end: Callable[[Path], None] = lambda _folder: None,
) -> None:
    """Run the cells that are not done on this machine.

    Args:
        folders: The cells' folders, each with its plan.
        environments: Variables of the cells; as many run at the same time as there are of these.
        on_end: Called with the folder of each cell that ended.

    Raises:
        Stopped: If a signal came; the running cells have saved their state then.
    """
    waiting, free = deque(folders), deque(environments)
    running: list[CellProcess] = []
    busy: set[Path] = set()
    saved = (
        "The running cells were stopped too, and what they had trained is saved. The same command continues the sweep."
    )
    with stoppable(saved, signums=(*STOP_SIGNALS, signal.SIGINT)):
        try:
            while waiting or running:
                for process in [process for process in running if process.ended()]:
                    running.remove(process)
                    free.append(process.environment)
                    process.finish()
                    on_end(process.folder)
                for folder in list(waiting):
                    if not free:
                        break
                    waiting.remove(folder)
                    if state_of(folder).name == "done":
                        continue
                    started = CellProcess.start(folder, free[0])
                    if started is None:
                        if folder not in busy:
                            logger.warning("%s is still being run by an earlier sweep; waiting for it.", folder)
                        busy.add(folder)
                        waiting.append(folder)
                        continue
                    logger.info("%s starts.", folder)
                    running.append(started)
                    free.popleft()
                time.sleep(POLL_SECONDS)
        finally:
            for process in running:  # all before waiting for any: there may be little time
                process.ask_to_stop()
            for process in running:
                logger.warning("%s is stopped.", process.folder)
                process.stop()


if __name__ == "__main__":
    # The training itself holds the lock, so one that outlives its sweep keeps others out until it has saved and ended.
    watch_parent()
    hold(Path(sys.argv[1]), "a cell of a sweep")
    command = sys.argv[2]
    del sys.argv[1:3]
    runpy.run_module(f"afr_clip.{command}", run_name="__main__", alter_sys=True)
