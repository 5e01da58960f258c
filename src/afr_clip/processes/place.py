"""Which process of a run this one is. A run is one process unless its environment says otherwise."""

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A process among those of its run.

    Attributes:
        rank: From 0, in the whole run.
        local_rank: From 0, on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process does the writing and printing for all processes."""
        return self.rank == 0


def place(environment: Mapping[str, str] | None = None) -> Place:
    """Read which process this is from an environment, by default its own, as torchrun and `launch` set it.

    Example:
        >>> place({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
        Place(rank=3, world_size=4, local_rank=1)
        >>> place({}).is_first
        True
    """
    given = os.environ if environment is None else environment
    if "RANK" not in given or "WORLD_SIZE" not in given:
        return Place()
    return Place(int(given["RANK"]), int(given["WORLD_SIZE"]), int(given.get("LOCAL_RANK", "0")))


def is_first() -> bool:
    """Whether this process writes and prints for all of its run."""
    return place().is_first


def adopt_srun(environment: MutableMapping[str, str]) -> None:
    """Add torchrun's variables where ``srun`` started several processes; variables that exist stay.

    Example:
        >>> step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"}
        >>> adopt_srun(step)
        >>> step["RANK"], step["WORLD_SIZE"]
        ('2', '4')
    """
    if "RANK" in environment or int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return
    found = {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "NODE_RANK": environment["SLURM_NODEID"],
        "MASTER_ADDR": first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1")),
        # A port that users may open and that differs between jobs.
        "MASTER_PORT": str(20000 + int(environment.get("SLURM_JOB_ID", "0")) % 10000),
    }
    for name, value in found.items():
        environment.setdefault(name, value)


def first_host(nodes: str) -> str:
    """Return the first machine of a SLURM node list.

    Example:
        >>> first_host("node[07-09,12],other3"), first_host("a1,a2")
        ('node07', 'a1')
    """
    prefix, number = re.match(r"([^,\[]*)(?:\[(\w+))?", nodes).groups(default="")  # type: ignore[union-attr]
    return f"{prefix}{number}"
