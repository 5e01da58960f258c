"""What the metrics of this room have in common: all they remember is sums."""

import torch
from torch import Tensor
from torchmetrics import Metric


class AdditiveMetric(Metric):
    """A metric whose states add up over batches and over processes.

    A sum over nothing is a valid state, so a process that met no image of a category is no cause for a warning.
    """

    is_differentiable = False
    full_state_update = False

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
