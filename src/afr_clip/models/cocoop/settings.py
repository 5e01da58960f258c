"""The settings of CoCoOp; importing this module does not import torch."""

from dataclasses import dataclass
from typing import ClassVar

from afr_clip.models.coop.settings import ContextSettings


@dataclass
class NetworkSettings(ContextSettings):
    """The settings of CoCoOp; see the network's arguments.

    Raises:
        ValueError: If ``reduction`` is below 1.
    """

    network_class: ClassVar[str] = "CoCoOp"

    reduction: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduction < 1:
            msg = f"reduction must be positive, got {self.reduction}. CoCoOp uses 16."
            raise ValueError(msg)
