"""The base class of the metrics: everything they keep is a sum."""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torchmetrics import Metric


def sum_over_processes(state: Tensor, group: ProcessGroup | None = None) -> list[Tensor]:
    """Add a copy of a state up over processes; torchmetrics calls it instead of gathering, and adds up the list."""
    total = state.clone()
    torch.distributed.all_reduce(total, group=group)
    return [total]


class AdditiveMetric(Metric):
    """A metric whose states add up over batches and over processes; no process ever holds those of another."""

    is_differentiable = False
    full_state_update = False

    def __init__(self) -> None:
        super().__init__(dist_sync_fn=sum_over_processes)

    def add_sum(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.int64) -> None:
        """Add a state that starts at zero; the default type counts exactly."""
        self.add_state(name, default=torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    @property
    def update_called(self) -> bool:
        """Always true: a process may see no image of a category, and torchmetrics would warn on ``compute``."""
        return True
