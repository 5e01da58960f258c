"""The settings of AdaptCLIP; importing this module does not import torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from afr_clip.models.anomaly_clip.settings import ReadoutSettings
from afr_clip.models.method_settings import MethodSettings
from afr_clip.models.scoring_settings import ScoringSettings


@dataclass
class ComparisonSettings:
    """The comparison with a reference image.

    Attributes:
        width: Output channels of the first layers; the second ones have half as many.
        keeps_context: Whether patches are added to their difference from the reference.

    Raises:
        ValueError: If ``width`` is below 2.
    """

    width: int
    keeps_context: bool

    def __post_init__(self) -> None:
        if self.width < 2:
            msg = f"comparison.width must be 2 or more, got {self.width}. AdaptCLIP uses 128."
            raise ValueError(msg)


@dataclass
class NetworkSettings(MethodSettings):
    """The settings of AdaptCLIP; see the network's arguments.

    Raises:
        ValueError: If a number is too small.
    """

    network_class: ClassVar[str] = "AdaptCLIP"
    needs_reference: ClassVar[bool] = True
    needs_whole_batch: ClassVar[bool] = True

    num_context_tokens: int
    reduction: int
    comparison: ComparisonSettings
    local_from_block: int | None
    shots: int
    scoring: ScoringSettings

    def __post_init__(self) -> None:
        least = {
            "num_context_tokens": (1, "12"),
            "reduction": (1, "4"),
            "local_from_block": (1, "6; blocks are counted from 1"),
            "shots": (0, "0, 1, 2 and 4"),
        }
        for name, (smallest, published) in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                msg = f"{name} must be {smallest} or more, got {value}. AdaptCLIP uses {published}."
                raise ValueError(msg)

    @property
    def has_frozen_taps(self) -> bool:
        """Whether no trainable weight changes the image tower's output: its tokens are only read."""
        return True

    def check_taps(self, tap_layers: Sequence[int]) -> None:
        """Check that the local stream has started where it is first read out.

        Args:
            tap_layers: Blocks counted from 1.

        Raises:
            ValueError: If it has not.
        """
        ReadoutSettings(self.local_from_block, all_taps=True).first_local_block(tap_layers, "local_from_block")
