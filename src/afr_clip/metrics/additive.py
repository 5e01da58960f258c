"""What the metrics of this room have in common: all they remember is sums."""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torchmetrics import Metric


def sum_over_processes(state: Tensor, group: ProcessGroup | None = None) -> list[Tensor]:
    """Add a state up over the processes of a run; what torchmetrics calls in place of gathering.

    Args:
        state: Of this process; stays as it is.
        group: The processes; ``None`` for all.

    Returns:
        The sum, as the only one of the states that are to be added up.
    """
    total = state.clone()
    torch.distributed.all_reduce(total, group=group)
    return [total]


class AdditiveMetric(Metric):
    """A metric whose states add up over batches and over processes.

    A sum over nothing is a valid state, so a process that met no image of a category is no cause for a warning. The
    states are added up where they are; no process ever holds those of another.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self) -> None:
        super().__init__(dist_sync_fn=sum_over_processes)

    def add_sum(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.int64) -> None:
        """Add a state that starts at zero and is summed over processes.

        Args:
            name: Attribute under which the state is kept.
            shape: Its shape; ``()`` is a single number.
            dtype: Its type; the default counts exactly.
        """
        self.add_state(name, default=torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    @property
    def update_called(self) -> bool:
        """Always true: torchmetrics warns on ``compute`` otherwise."""
        return True

    def add_to(self, state: Tensor, amount: Tensor) -> None:
        """Add in place, wherever the amount was computed."""
        state += amount.to(state.device)
