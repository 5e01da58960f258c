"""The settings of UniADet; importing this module does not import torch."""

from dataclasses import dataclass
from typing import ClassVar

from afr_clip.clip.settings import checked_tap_layers
from afr_clip.models.method_settings import MethodSettings
from afr_clip.models.scoring_settings import ScoringSettings

NUM_TAPS = 5


@dataclass
class NetworkSettings(MethodSettings):
    """The settings of UniADet; see the network's arguments.

    Raises:
        ValueError: If ``shots`` is negative, or the taps do not ascend from 1.
    """

    network_class: ClassVar[str] = "UniADet"
    needs_text: ClassVar[bool] = False

    tap_layers: list[int] | None
    shots: int
    scoring: ScoringSettings

    def __post_init__(self) -> None:
        if self.shots < 0:
            msg = f"shots must be 0 or more, got {self.shots}. 0 is zero-shot; the paper's others are 1, 2 and 4."
            raise ValueError(msg)
        if self.tap_layers is not None:
            checked_tap_layers(self.tap_layers)

    @property
    def has_frozen_taps(self) -> bool:
        """Whether no trainable weight changes the image tower's output: its taps are only read."""
        return True


def taps_of_the_second_half(depth: int) -> tuple[int, ...]:
    """Spread five taps evenly from the middle of a tower to its end, fewer in a tower of less than eight blocks.

    Example:
        >>> taps_of_the_second_half(24), taps_of_the_second_half(12), taps_of_the_second_half(4)
        ((12, 15, 18, 21, 24), (6, 8, 9, 11, 12), (2, 3, 4))
    """
    first = max(1, depth // 2)
    steps = max(1, min(NUM_TAPS - 1, depth - first))
    return tuple(sorted({first + ((depth - first) * step + steps // 2) // steps for step in range(steps + 1)}))
