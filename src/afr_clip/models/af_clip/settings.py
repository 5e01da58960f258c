"""The settings of AF-CLIP; importing this module does not import torch."""

from dataclasses import dataclass
from typing import ClassVar

from afr_clip.models.method_settings import ReleasableSettings
from afr_clip.models.scoring_settings import ScoringSettings


@dataclass
class NetworkSettings(ReleasableSettings):
    """The settings of AF-CLIP; see the network's arguments.

    Raises:
        ValueError: If a window is even or below 1, or a count is negative.
    """

    network_class: ClassVar[str] = "AFCLIP"

    num_context_tokens: int
    windows: list[int]
    shots: int
    zero_shot_weight: float
    scoring: ScoringSettings

    def __post_init__(self) -> None:
        if not self.windows or any(window < 1 or window % 2 == 0 for window in self.windows):
            msg = f"windows must be odd sides of 1 patch or more, got {self.windows}. AF-CLIP uses [1, 3, 5]."
            raise ValueError(msg)
        for name, published in (("num_context_tokens", "12"), ("shots", "0, 1, 2 and 4"), ("zero_shot_weight", "0.1")):
            if getattr(self, name) < 0:
                msg = f"{name} must be 0 or more, got {getattr(self, name)}. AF-CLIP uses {published}."
                raise ValueError(msg)

    @property
    def has_frozen_taps(self) -> bool:
        """Whether no trainable weight changes the image tower's output: its taps are only read."""
        return True
