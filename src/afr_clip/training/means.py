"""Means over an epoch that a training stopped in its middle takes along."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class EpochMeans:
    """Means of logged values over the images of an epoch.

    Lightning's own are lost with the process, so an epoch that is finished by another one would log the mean over its
    second part.

    Example:
        >>> means = EpochMeans()
        >>> means.add({"loss": torch.tensor(1.0)}, num_images=3)
        >>> means.add({"loss": torch.tensor(5.0)}, num_images=1)
        >>> means.compute()
        {'loss': tensor(2.)}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._num_images = 0

    def restart(self) -> None:
        """Forget everything: an epoch begins."""
        self._sums, self._num_images = {}, 0

    def add(self, values: Mapping[str, Tensor], num_images: int) -> None:
        """Take in a batch.

        Args:
            values: Means over the batch by name; every batch has the same.
            num_images: Their weight.
        """
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value.detach().float() * num_images
        self._num_images += num_images

    def compute(self, add_up: Callable[[Tensor], Tensor] = lambda value: value) -> dict[str, Tensor]:
        """Return the means by name, in the order they were first given.

        Args:
            add_up: Sums a tensor over the processes of a training.
        """
        totals = {name: add_up(value.clone()) for name, value in self._sums.items()}
        images = {name: add_up(torch.full_like(value, self._num_images)) for name, value in totals.items()}
        return {name: value / images[name] for name, value in totals.items()}

    def state_dict(self, add_up: Callable[[Tensor], Tensor] = lambda value: value) -> dict[str, Any]:
        """Return what a checkpoint keeps: the sums over all processes.

        Args:
            add_up: As for ``compute``.
        """
        return {
            "sums": {name: add_up(value.clone()) for name, value in self._sums.items()},
            "num_images": int(add_up(torch.tensor(self._num_images))),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; in a training of several processes the first one does, with the sums of all.

        Args:
            state: What ``state_dict`` returned.
        """
        self._sums, self._num_images = dict(state["sums"]), state["num_images"]
