"""What training and scoring expect of a method's network."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from afr_clip.models.prediction import AnomalyPrediction


@runtime_checkable
class AnomalyNetwork(Protocol):
    """The interface of a method for training; every network in ``models/`` has it."""

    def __call__(self, image: Tensor, category: tuple[str, ...]) -> AnomalyPrediction:
        """Score images of named categories."""

    def trainable_parameter_names(self) -> set[str]:
        """Return the names of the trainable parameters."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Return all parameters with their names."""


def learned_tensors(network: AnomalyNetwork) -> dict[str, Tensor]:
    """Return what a training changes, and a checkpoint holds, by name: trainable parameters and statistics."""
    names = network.trainable_parameter_names()
    learned: dict[str, Tensor] = {name: value for name, value in network.named_parameters() if name in names}
    if isinstance(network, NormalisingNetwork):
        names = network.statistics_names()
        learned |= {name: value for name, value in network.named_buffers() if name in names}
    return learned


@runtime_checkable
class TappedNetwork(Protocol):
    """The two halves of a forward pass whose image tower depends on no trainable weight."""

    @property
    def tapped_from(self) -> str:
        """Name what is read out; the same name means the same numbers for the same weights and images."""

    def tapped(self, image: Tensor) -> tuple[Tensor, ...]:
        """Run the image tower; every tensor has one row per image."""

    def score(self, tapped: tuple[Tensor, ...], category: tuple[str, ...]) -> AnomalyPrediction:
        """Score what the image tower gave."""


@runtime_checkable
class FewShotNetwork(Protocol):
    """A method that looks at normal images of a category before it scores others."""

    shots: int
    """How many of each category; 0 for none."""

    def observe(self, image: Tensor, category: str) -> None:
        """Look at the normal images of a category, replacing any seen earlier."""


@runtime_checkable
class StagedNetwork(Protocol):
    """A method that trains its parts one after the other: in each epoch, some of them take no gradient."""

    def begin_epoch(self, epoch: int) -> None:
        """Train the part whose turn it is in an epoch, counted from 0; may be called again within the epoch."""


@runtime_checkable
class PacedNetwork(Protocol):
    """A method whose parts learn at rates of their own."""

    def share_of_rate(self, name: str) -> float:
        """Return the share of the learning rate that a trainable parameter learns at."""


@runtime_checkable
class NormalisingNetwork(Protocol):
    """A method with running statistics, as of batch norms.

    Training updates them without gradients, and scoring needs them.
    """

    def statistics_names(self) -> set[str]:
        """Return the names of the buffers that hold them."""

    def named_buffers(self) -> Iterable[tuple[str, Tensor]]:
        """Return all buffers with their names."""


@runtime_checkable
class UpgradingNetwork(Protocol):
    """A method whose trained weights had other shapes in an older version."""

    def upgraded(self, name: str, value: Tensor) -> Tensor:
        """Give a weight of an old checkpoint, or a moment of its optimiser, the shape that the weight has here."""
