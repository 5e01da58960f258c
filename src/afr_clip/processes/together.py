"""What the processes of a run do together; a single process does it alone."""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from afr_clip.processes.launch import RENDEZVOUS
from afr_clip.processes.place import is_first, place

PATIENCE = timedelta(hours=2)
"""How long a process waits for another, which may be drawing a dataset or building a cache."""

Value = TypeVar("Value")


class DisagreementError(ValueError):
    """Processes of one run read different files."""


class AcceleratorError(ValueError):
    """A run asks for a GPU that is not there."""


def meet(accelerator: str) -> None:
    """Connect the processes of a run, once. GPUs exchange tensors over NCCL, everything else over gloo."""
    here = place()
    on_gpu = torch.cuda.is_available() and accelerator != "cpu"
    if accelerator == "gpu" and not (on_gpu or torch.backends.mps.is_available()):
        msg = (
            "trainer.accelerator=gpu needs a GPU that PyTorch can use, and there is none: check nvidia-smi, "
            "CUDA_VISIBLE_DEVICES and the build of PyTorch. Write trainer.accelerator=cpu to run without one."
        )
        raise AcceleratorError(msg)
    if on_gpu and here.local_rank >= torch.cuda.device_count():
        msg = (
            f"Each process of a machine needs a GPU of its own, but PyTorch sees {torch.cuda.device_count()} here for "
            f"process {here.local_rank + 1}. Lower trainer.devices."
        )
        raise AcceleratorError(msg)
    if here.world_size == 1 or distributed.is_initialized():
        return
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
    """Call a function in the first process only and return its value, which must pickle, in all."""
    if place().world_size == 1:
        return decide()
    values = [decide() if is_first() else None]
    distributed.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[return-value]


@contextmanager
def in_turn() -> Iterator[None]:
    """Run a block in the first process, then in the first one of each other machine, then in the rest.

    So each finds what an earlier one wrote, whether the machines share their disks or not.
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
    """Check that all processes read the same data and weights; several machines may have several disks.

    Args:
        values: SHA-256 by name.

    Raises:
        DisagreementError: If a process has another value than the first one.
    """
    here = place()
    if here.world_size == 1:
        return
    everyones: list[Any] = [None] * here.world_size
    distributed.all_gather_object(everyones, values)
    first = everyones[0]
    for rank, others in enumerate(everyones):
        differing = sorted(key for key in first.keys() | others.keys() if first.get(key) != others.get(key))
        if differing:
            msg = (
                f"All processes of a run must read the same files, but {differing[0]} of process {rank} differs from "
                f"that of process 0. Give every machine the same data and weights."
            )
            raise DisagreementError(msg)


def gathered(value: Value) -> list[Value]:
    """Return the values of all processes in order, in the first process; an empty list in the others."""
    here = place()
    if here.world_size == 1:
        return [value]
    values: list[Any] | None = [None] * here.world_size if here.is_first else None
    distributed.gather_object(value, values, dst=0)
    return values or []
