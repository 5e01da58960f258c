"""Start the processes of a run, and end them together.

The typed command starts one process per ``trainer.devices`` and only watches over them. Each gets the same overrides,
the run folder that was chosen once, and its place in the environment variables of torchrun.

torch's elastic launcher (`torch.distributed.launcher`, tried with torch 2.14) does not do here. On SIGTERM it exits
with 1 and a traceback although its processes have saved and exited with 75. SIGUSR1 and SIGKILL end it and leave the
processes running. It kills processes that need more than 30 s to save.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from afr_clip.processes.place import place
from afr_clip.processes.signals import (
    EXIT_STOPPED,
    LOST,
    SENTENCE_FILE,
    STOP_SIGNALS,
    end_with,
    hand_on,
    interrupted,
    listening,
    start_child,
    watch_parent,
)

RENDEZVOUS = "AFR_CLIP_RENDEZVOUS"
"""Environment variable with the file through which the processes of one machine find each other."""

POLL_SECONDS = 0.1

GRACE = 10.0
"""Seconds a process has to end on its own after another one failed, and again after SIGTERM."""

SAVING = 120.0
"""Seconds it has instead if the other one was stopped: it may still be saving."""

FORWARDED = (*STOP_SIGNALS, signal.SIGINT)


class LaunchError(ValueError):
    """A run that asks for other processes than were started, or lacks what several machines must share."""


@dataclass(frozen=True)
class World:
    """The processes a run asks for.

    Attributes:
        has_run_dir: Whether ``run_dir`` was given, so that processes started one by one share it.
    """

    devices: int
    num_nodes: int = 1
    has_run_dir: bool = False

    @property
    def size(self) -> int:
        """All processes."""
        return self.devices * self.num_nodes


def launch(command: str, arguments: Sequence[str], world: World) -> bool:
    """Start the processes of a run, unless it has only one or this is one of several already, and wait for all.

    Args:
        command: The module to run, for example ``afr_clip.train``.

    Returns:
        Whether processes were started, and so everything is done.

    Raises:
        LaunchError: If the run cannot have these processes.
        SystemExit: If a process failed; its error has been reported.
    """
    watch_parent()
    faults = list(_faults(world, os.environ))
    if faults:
        raise LaunchError(" ".join(faults))
    if "RANK" in os.environ or world.size == 1:
        return False
    with tempfile.TemporaryDirectory(prefix="afr_clip-") as scratch:
        _watch(_start(command, arguments, world, Path(scratch)))
    return True


def _faults(world: World, environment: Mapping[str, str]) -> Iterator[str]:
    asked = f"trainer.devices={world.devices} trainer.num_nodes={world.num_nodes}"
    is_started = "RANK" in environment
    if is_started and place(environment).world_size != world.size:
        yield (
            f"trainer.devices times trainer.num_nodes must equal the number of processes that were started, "
            f"{place(environment).world_size}, got {asked}. Set both to match."
        )
    composes_alone = (is_started and SENTENCE_FILE not in environment) or world.num_nodes > 1
    if world.size > 1 and composes_alone and not world.has_run_dir:
        yield (
            "run_dir must be given where processes are started one by one or on several machines, because they share "
            "one folder. Add run_dir=DIR to the command."
        )
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if world.num_nodes > 1 and not is_started and missing:
        yield (
            f"A run on {world.num_nodes} machines needs NODE_RANK, MASTER_ADDR and MASTER_PORT in its environment, "
            f"but lacks {', '.join(missing)}. Set them on each machine, or start the command with torchrun or srun."
        )


@dataclass
class Member:
    """A process that was started."""

    rank: int
    process: "subprocess.Popen[bytes]"
    sentence_file: Path

    @property
    def code(self) -> int | None:
        """Its exit code; ``None`` while it runs."""
        return self.process.poll()

    def sentence(self) -> str:
        """Explain why it failed."""
        if self.sentence_file.exists():
            return self.sentence_file.read_text(encoding="utf-8")
        if self.code is not None and -self.code in FORWARDED:
            return interrupted()
        if self.code is not None and self.code < 0:
            return (
                f"Process {self.rank} of the run was killed by signal {-self.code}. A machine that runs out of memory "
                f"kills processes with signal 9: lower data.batch_size or trainer.devices."
            )
        return f"Process {self.rank} of the run ended with code {self.code}. Run again with --debug."


def _start(command: str, arguments: Sequence[str], world: World, scratch: Path) -> list[Member]:
    node = int(os.environ["NODE_RANK"]) if world.num_nodes > 1 else 0
    shared = {"WORLD_SIZE": str(world.size), "NODE_RANK": str(node)}
    if world.num_nodes == 1:
        shared[RENDEZVOUS] = str(scratch / "rendezvous")
    if "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // world.devices))
    members = []
    for local_rank in range(world.devices):
        rank = node * world.devices + local_rank
        sentence_file = scratch / f"sentence_{rank}"
        own = {"RANK": str(rank), "LOCAL_RANK": str(local_rank), SENTENCE_FILE: str(sentence_file)}
        process = start_child(
            [sys.executable, "-m", command, *arguments],
            shared | own,
            at_death=signal.SIGKILL,  # it may hang in a collective, and must not write to the run folder any more
            stdout=None if rank == 0 else subprocess.DEVNULL,
        )
        members.append(Member(rank, process, sentence_file))
    return members


def _watch(members: Sequence[Member]) -> None:
    """Wait until all have ended; if one fails, end the others and report why."""
    received: list[int] = []

    def forward(signum: int, _frame: object) -> None:
        received.append(signum)
        _send(members, signum)

    with listening(forward, FORWARDED) as before:
        while all(member.code in (None, 0) for member in members):
            if all(member.code == 0 for member in members):
                return
            time.sleep(POLL_SECONDS)
        failed = _cause(members)
        sentence, code = failed.sentence(), failed.code or 1
        for signum in (signal.SIGTERM, signal.SIGKILL):
            _send(members, signum)
            _wait(lambda: all(m.code is not None for m in members), SAVING if code == EXIT_STOPPED else GRACE)
        if received:
            hand_on(received[0], before)
    end_with(sentence, code if code > 0 else 1)


def _cause(members: Sequence[Member]) -> Member:
    """Find the process that caused the failure; others may only have lost their peers, and may report that first."""

    def failed() -> list[Member]:
        ended = [member for member in members if member.code not in (None, 0)]
        return [member for member in ended if not member.sentence().startswith(LOST)]

    _wait(lambda: bool(failed()) or all(member.code is not None for member in members), GRACE)
    return (failed() or [member for member in members if member.code not in (None, 0)])[0]


def _send(members: Sequence[Member], signum: int) -> None:
    for member in members:
        if member.code is None:
            member.process.send_signal(signum)


def _wait(until: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not until() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
