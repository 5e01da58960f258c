"""Start the processes of a run, and let them end as one.

The command that is typed starts one process for each of ``trainer.devices`` and only watches over them. Each gets the
same overrides, the run folder as it was decided once, and its place by environment, in torchrun's words. So nothing
hangs on the moment at which a process composes its config, and each job of a multirun is processes of its own.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from afr_clip.cli.command import INTERRUPTED, LOST, SENTENCE_FILE, end_with
from afr_clip.config.validate import ConfigError
from afr_clip.processes.place import place
from afr_clip.processes.signals import EXIT_STOPPED, STOP_SIGNALS

RENDEZVOUS = "AFR_CLIP_RENDEZVOUS"
"""Names the file by which processes of one machine find each other."""

PARENT = "AFR_CLIP_PARENT"
"""Names a pipe that ends when the command that was typed does."""

GLANCE = 0.1
"""Seconds between two looks at the processes."""

GRACE = 10.0
"""Seconds a process has to end by itself once another one failed, and again once it was told to."""

SAVING = 120.0
"""Seconds instead of these where the other one was stopped: what is being saved gets finished."""

FORWARDED = (*STOP_SIGNALS, signal.SIGINT)
"""Signals that the processes get too."""

_OF_THE_TYPED = ("hydra.mode", "hydra.run", "hydra.sweep", "hydra/sweeper", "hydra.launcher", "hydra/launcher")
"""How overrides begin that are not for the processes."""


def launch(config: DictConfig, command: str) -> bool:
    """Start the processes of a run, if it has several and this is none of them, and wait until all have ended.

    Args:
        config: The validated config.
        command: The module that is run, for example ``afr_clip.train``.

    Returns:
        Whether they were started, and so everything is done.

    Raises:
        ConfigError: If the config asks for another number of processes than were started, or lacks what several
            machines must share.
        SystemExit: If one of them failed; its sentence has been said.
    """
    num_local, num_nodes = int(config.trainer.devices), config.trainer.num_nodes
    faults = list(_faults(config, num_local * num_nodes, os.environ))
    if faults:
        raise ConfigError(" ".join(faults))
    if "RANK" in os.environ:
        _end_with_parent()
    if "RANK" in os.environ or num_local * num_nodes == 1:
        return False
    watched, held = os.pipe()  # ends for whoever watches it when this process ends, however it does
    with tempfile.TemporaryDirectory(prefix="afr_clip-") as scratch:
        try:
            _watch(_start(config, command, Path(scratch), watched))
        finally:
            os.close(watched)
            os.close(held)
    return True


def _faults(config: DictConfig, num_processes: int, environment: Mapping[str, str]) -> Iterator[str]:
    asked = f"trainer.devices={config.trainer.devices} trainer.num_nodes={config.trainer.num_nodes}"
    is_started = "RANK" in environment
    if is_started and place(environment).world_size != num_processes:
        yield (
            f"trainer.devices times trainer.num_nodes must be the number of processes that were started, "
            f"{place(environment).world_size}, got {asked}. Type both as they were started."
        )
    composes_alone = (is_started and PARENT not in environment) or config.trainer.num_nodes > 1
    if num_processes > 1 and composes_alone and not config.run_dir:
        yield (
            "run_dir must be given where processes are started one by one or on several machines, because they share "
            "one folder, got none. Add run_dir=DIR to the command."
        )
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if config.trainer.num_nodes > 1 and not is_started and missing:
        yield (
            f"A run on {config.trainer.num_nodes} machines must find NODE_RANK, MASTER_ADDR and MASTER_PORT in its "
            f"environment, got no {', '.join(missing)}. Set them on each machine, or start the command with torchrun "
            f"or srun."
        )


@dataclass
class Member:
    """A process that was started.

    Attributes:
        rank: Its number in the run.
        process: The process.
        sentence_file: Where it says why it failed.
    """

    rank: int
    process: subprocess.Popen[bytes]
    sentence_file: Path

    @property
    def code(self) -> int | None:
        """Its exit code; ``None`` while it runs."""
        return self.process.poll()

    def sentence(self) -> str:
        """Say why it failed."""
        if self.sentence_file.exists():
            return self.sentence_file.read_text(encoding="utf-8")
        if self.code is not None and -self.code in FORWARDED:
            return INTERRUPTED
        if self.code is not None and self.code < 0:
            return (
                f"Process {self.rank} of the run was killed by signal {-self.code}. Signal 9 is how a machine that "
                f"runs out of memory ends a process: lower data.batch_size or trainer.devices."
            )
        return f"Process {self.rank} of the run ended with code {self.code}. Run again with --debug."


def _start(config: DictConfig, command: str, scratch: Path, watched: int) -> list[Member]:
    num_local = int(config.trainer.devices)
    node = int(os.environ.get("NODE_RANK", "0")) if config.trainer.num_nodes > 1 else 0
    arguments = [sys.executable, "-m", command, *_arguments(HydraConfig.get())]
    members = []
    for local_rank in range(num_local):
        rank = node * num_local + local_rank
        sentence_file = scratch / f"sentence_{rank}"
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(num_local * config.trainer.num_nodes),
            "NODE_RANK": str(node),
            SENTENCE_FILE: str(sentence_file),
            PARENT: str(watched),
        }
        if config.trainer.num_nodes == 1:
            environment[RENDEZVOUS] = str(scratch / "rendezvous")
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_local)))
        process = subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=None if rank == 0 else subprocess.DEVNULL,
            pass_fds=(watched,),
            start_new_session=True,  # Ctrl-C reaches them once, through this process
        )
        members.append(Member(rank, process, sentence_file))
    return members


def _arguments(hydra: Any) -> list[str]:  # noqa: ANN401 - Hydra's own config
    """Say again what was typed, for one run in the folder that was decided."""
    folder = str(hydra.runtime.output_dir).replace("\\", "\\\\").replace("'", "\\'")
    typed = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    searched = [argument for path in typed for argument in ("--config-dir", path)]
    for_hydra = [override for override in hydra.overrides.hydra if not override.lstrip("+~").startswith(_OF_THE_TYPED)]
    return [*searched, *hydra.overrides.task, *for_hydra, f"hydra.run.dir='{folder}'"]


def _watch(members: Sequence[Member]) -> None:
    """Wait until all have ended; where one fails, end the others and say why."""
    with _forwarding(members) as hand_on:
        while all(member.code in (None, 0) for member in members):
            if all(member.code == 0 for member in members):
                return
            time.sleep(GLANCE)
        failed = _cause(members)
        sentence, code = failed.sentence(), failed.code
        _end(members, SAVING if code == EXIT_STOPPED else GRACE)
        hand_on()
    end_with(sentence, code if code is not None and code > 0 else 1)


def _cause(members: Sequence[Member]) -> Member:
    """Choose the process that failed by itself; others may only have lost their peers, and may say so first."""
    deadline = time.monotonic() + GRACE
    while True:
        failed = [member for member in members if member.code not in (None, 0)]
        by_itself = [member for member in failed if not member.sentence().startswith(LOST)]
        if by_itself or all(m.code is not None for m in members) or time.monotonic() > deadline:
            return (by_itself or failed)[0]
        time.sleep(GLANCE)


def _end(members: Sequence[Member], patience: float) -> None:
    for send in (signal.SIGTERM, signal.SIGKILL):
        for member in members:
            if member.code is None:
                member.process.send_signal(send)
        deadline = time.monotonic() + patience
        while any(member.code is None for member in members) and time.monotonic() < deadline:
            time.sleep(GLANCE)


@contextmanager
def _forwarding(members: Sequence[Member]) -> Iterator[Callable[[], None]]:
    """Hand signals on to the processes, which know what to do about them; yields what hands them to whoever was asked.

    Whoever listened to a signal before, submitit for one, gets it when the processes have saved everything and ended.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def forward(number: int, frame: object) -> None:
        received.append(number)
        for member in members:
            if member.code is None:
                member.process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}

    def hand_on() -> None:
        for number in received[:1]:
            handler = before[signal.Signals(number)]
            if callable(handler) and number in STOP_SIGNALS:
                handler(number, None)

    try:
        yield hand_on
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_parent() -> None:
    """Let this process be killed when the command that started it is; otherwise it would go on in the run folder."""
    watched = os.environ.get(PARENT)
    if watched is None:
        return

    def wait() -> None:
        os.read(int(watched), 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True, name="parent").start()
