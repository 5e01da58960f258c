"""Which process of a run this one is. A run is one process unless its environment says otherwise."""

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

FIRST_PORT, NUM_PORTS = 20000, 10000
"""Where the processes of a SLURM job meet: a port by job number, out of what users may open."""


@dataclass(frozen=True)
class Place:
    """A process among those of its run.

    Attributes:
        rank: Its number, from 0.
        world_size: How many there are.
        local_rank: Its number among those of its machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0


def place(environment: Mapping[str, str] | None = None) -> Place:
    """Read off the environment which process this is.

    Args:
        environment: As torchrun and our own launcher set it; this process's own unless given.

    Returns:
        Its place; the only process where nothing is said.

    Example:
        >>> place({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
        Place(rank=3, world_size=4, local_rank=1)
        >>> place({}).is_first
        True
    """
    said = os.environ if environment is None else environment
    if "RANK" not in said or "WORLD_SIZE" not in said:
        return Place()
    return Place(int(said["RANK"]), int(said["WORLD_SIZE"]), int(said.get("LOCAL_RANK", "0")))


def is_first() -> bool:
    """Whether this process is the one that writes and speaks for all of its run."""
    return place().is_first


def adopt_srun(environment: MutableMapping[str, str]) -> None:
    """Say in torchrun's words what ``srun`` says in SLURM's, where it started several processes.

    Args:
        environment: Is added to; left alone where it says so already, and in a job step of one process.

    Example:
        >>> step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"}
        >>> adopt_srun(step | {}) is None
        True
    """
    if "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return
    said = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "NODE_RANK": environment["SLURM_NODEID"],
        "MASTER_ADDR": first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1")),
        "MASTER_PORT": str(FIRST_PORT + int(environment.get("SLURM_JOB_ID", "0")) % NUM_PORTS),
    }
    for name, value in said.items():
        environment.setdefault(name, value)


def first_host(nodes: str) -> str:
    """Name the first machine of a SLURM node list.

    Args:
        nodes: For example ``node[07-09,12],other3``.

    Returns:
        Its host name.

    Example:
        >>> first_host("node[07-09,12],other3"), first_host("a1,a2")
        ('node07', 'a1')
    """
    prefix, number = re.match(r"([^,\[]*)(?:\[(\w+))?", nodes).groups(default="")  # type: ignore[union-attr]
    return f"{prefix}{number}"
