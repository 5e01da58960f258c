"""One cell: a training in a process of its own, and the marks that it leaves in its folder."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from afr_clip.processes.signals import EXIT_STOPPED
from afr_clip.reports.record.run_folder import holds_run, write_json
from afr_clip.sweep.job import Cell

PLAN, LOG, DONE, FAILED, LOCK = "cell.json", "cell.log", "DONE", "FAILED", ".lock"
"""Files of a cell: what it is to run, what it said, how it ended, and who runs it."""

PATIENCE = 120.0
"""Seconds that a cell has to save its state once it was told to stop."""

_END_WITH_PARENT = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)}, 0, 0, 0)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit({EXIT_STOPPED})  # the parent went before it could be asked
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""Asks Linux for SIGTERM once the parent is gone, then becomes what its arguments say."""


@dataclass(frozen=True)
class State:
    """How far a cell is.

    Attributes:
        name: ``done``, ``failed`` or ``waiting``.
        error: Why it failed, in a sentence.
    """

    name: str
    error: str | None = None


WAITING = State("waiting")


def state_of(folder: Path) -> State:
    """Read from its marks how far a cell is."""
    if (folder / DONE).exists():
        return State("done")
    failed = folder / FAILED
    return State("failed", _read(failed)["error"]) if failed.exists() else WAITING


def write_plan(cell: Cell, extra: Sequence[str] = ()) -> None:
    """Write down what a cell is to run, so that whoever runs it needs nothing but its folder.

    Args:
        cell: The cell.
        extra: Further overrides, without influence on numbers.
    """
    content = {
        "setting": cell.setting,
        "seed": cell.seed,
        "digest": cell.digest,
        "overrides": [*cell.overrides, *extra],
        "results": cell.results,
    }
    write_json(cell.folder / PLAN, content)


def quoted(value: object) -> str:
    """Write a value so that Hydra reads back exactly it, as text."""
    text = str(value).replace("'", "\\'")
    return f"'{text}'"


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


class CellProcess:
    """The process of a cell. Use `start`.

    Args:
        folder: The cell's folder.
        lock: Its lock, which the process holds too.
        environment: Variables of its own.
    """

    def __init__(self, folder: Path, lock: IO[bytes], environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._lock = lock
        self._plan = _read(folder / PLAN)
        (folder / FAILED).unlink(missing_ok=True)
        log = folder / LOG
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                pass_fds=(lock.fileno(),),  # an orphan keeps the lock as long as it lives
                start_new_session=True,  # Ctrl-C is passed on by the sweep, once
            )

    def _command(self) -> list[str]:
        folder = self.folder.resolve()
        own = [f"run_dir={quoted(folder)}", *(["resume=true"] if holds_run(folder) else [])]
        # Where the system cannot be asked to end an orphan, its lock alone keeps others out.
        start = [sys.executable, *(["-S", "-c", _END_WITH_PARENT, str(os.getpid())] if sys.platform == "linux" else [])]
        return [*start, "-m", "afr_clip.train", *self._plan["overrides"], *own]

    @classmethod
    def start(cls, folder: Path, environment: Mapping[str, str]) -> "CellProcess | None":
        """Start the training of a cell, or let it go on.

        Args:
            folder: The cell's folder, which holds its plan.
            environment: Variables of its own.

        Returns:
            The process; ``None`` where another process is at work in the folder, or has just finished there.
        """
        lock = (folder / LOCK).open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return None
        if (folder / DONE).exists():
            lock.close()
            return None
        return cls(folder, lock, environment)

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def finish(self) -> State:
        """Mark how the cell ended.

        Returns:
            Its state. ``DONE`` is written last, after everything else is on disk.
        """
        code = self._process.wait()
        missing = [name for name in self._plan["results"] if not (self.folder / name).exists()]
        if code == 0 and not missing:
            when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            write_json(self.folder / DONE, {"digest": self._plan["digest"], "when": when})
        elif code != EXIT_STOPPED:
            sentence = f"The cell ended without {missing[0]}." if code == 0 else self._last_words(code)
            write_json(self.folder / FAILED, {"error": sentence})
        self._lock.close()
        return state_of(self.folder)

    def ask_to_stop(self) -> None:
        """Tell the process to save its state and end."""
        self._process.terminate()

    def stop(self) -> None:
        """Wait until the process has ended, as it was asked to; kill it where it does not."""
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._lock.close()

    def tail(self, lines: int = 15) -> str:
        """Return the end of what the process said."""
        with (self.folder / LOG).open("rb") as log:
            log.seek(self._log_start)
            said = log.read().decode(errors="replace")
        return "\n".join(said.splitlines()[-lines:])

    def _last_words(self, code: int) -> str:
        if code < 0:
            return f"The process was ended by signal {-code} ({signal.Signals(-code).name})."
        said = [line for line in self.tail(200).splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        return (errors or said or [f"The process ended with exit code {code} and said nothing."])[-1]
