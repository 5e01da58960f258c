"""What the processes of a run do together: meet, decide, agree, hand over. A single process does each by itself."""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import distributed

from afr_clip.processes.launch import RENDEZVOUS
from afr_clip.processes.place import is_first, place

PATIENCE = timedelta(hours=2)
"""How long a process waits for another, which may have a dataset to draw or a cache to build meanwhile."""

Value = TypeVar("Value")


class DisagreementError(ValueError):
    """Processes of one run that met different files."""


class StartedProcesses(LightningEnvironment):
    """Processes that were started by others than Lightning, and go by one environment for all trainers of a command."""

    def teardown(self) -> None:
        """Leave the environment as it is; Lightning would take the number of processes out of it."""


def meet(accelerator: str) -> None:
    """Let the processes of a run find each other, once.

    Args:
        accelerator: Lightning's; tensors on GPUs travel by NCCL, all others by gloo.
    """
    here = place()
    if here.world_size == 1 or distributed.is_initialized():
        return
    on_gpu = torch.cuda.is_available() and accelerator != "cpu"
    if on_gpu:
        torch.cuda.set_device(here.local_rank)
    rendezvous = os.environ.get(RENDEZVOUS)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        init_method="env://" if rendezvous is None else f"file://{rendezvous}",
        rank=here.rank,
        world_size=here.world_size,
        timeout=PATIENCE,
    )
    atexit.register(distributed.destroy_process_group)


def from_first(decide: Callable[[], Value]) -> Value:
    """Let the first process decide for all.

    Args:
        decide: Called in the first process only; its value must be fit for pickling.

    Returns:
        What it decided, in every process.
    """
    if place().world_size == 1:
        return decide()
    values = [decide() if is_first() else None]
    distributed.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[return-value]


@contextmanager
def in_turn() -> Iterator[None]:
    """Run a block in the first process, then in the first ones of the other machines, then in the others.

    So each finds on disk what was made there before it, whether machines share their disks or not.
    """
    here = place()
    turn = 0 if here.is_first else 1 if here.local_rank == 0 else 2
    barriers = 0 if here.world_size == 1 else 2
    for _ in range(min(turn, barriers)):
        distributed.barrier()
    yield
    for _ in range(max(0, barriers - turn)):
        distributed.barrier()


def require_same(values: dict[str, str]) -> None:
    """Make sure that all processes met the same data and weights; on several machines they may lie on several disks.

    Args:
        values: SHA-256 by what it is of.

    Raises:
        DisagreementError: If a process has another value than the first one.
    """
    here = place()
    if here.world_size == 1:
        return
    everyones: list[Any] = [None] * here.world_size
    distributed.all_gather_object(everyones, values)
    for rank, others in enumerate(everyones):
        differing = sorted(
            key for key in everyones[0].keys() | others.keys() if everyones[0].get(key) != others.get(key)
        )
        if differing:
            msg = (
                f"All processes of a run must meet the same files, but process {rank} has another {differing[0]} than "
                f"process 0. Give every machine the same data and weights."
            )
            raise DisagreementError(msg)


def gathered(value: Value) -> list[Value]:
    """Hand something small over to the first process.

    Args:
        value: Of this process; fit for pickling.

    Returns:
        Those of all processes, in their order, in the first one; nothing in the others.
    """
    here = place()
    if here.world_size == 1:
        return [value]
    values: list[Any] | None = [None] * here.world_size if here.is_first else None
    distributed.gather_object(value, values, dst=0)
    return values or []
