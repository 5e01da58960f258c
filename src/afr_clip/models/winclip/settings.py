"""The settings of WinCLIP; importing this module does not import torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from afr_clip.models.method_settings import MethodSettings
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import PromptSettings


class ReferenceTokens(Enum):
    """Which patch tokens of the last block are compared with those of the reference images."""

    raw = "raw"
    ln_post = "ln_post"


@dataclass
class NetworkSettings(MethodSettings):
    """The settings of WinCLIP; see the network's arguments.

    Raises:
        ValueError: If there is no window size, one is below 1 or repeated, or ``shots`` is negative.
    """

    network_class: ClassVar[str] = "WinCLIP"
    trains: ClassVar[bool] = False

    prompts: PromptSettings
    scoring: ScoringSettings
    window_sizes: list[int]
    normalise_first: bool
    shots: int
    reference_tokens: ReferenceTokens

    def __post_init__(self) -> None:
        self.reference_tokens = ReferenceTokens(self.reference_tokens)
        check_window_sizes(self.window_sizes)
        if self.shots < 0:
            msg = f"shots must be 0 or more, got {self.shots}. 0 is zero-shot; the paper's others are 1, 2 and 4."
            raise ValueError(msg)


def check_window_sizes(sizes: Sequence[int]) -> None:
    """Check the window sizes.

    Args:
        sizes: Sides in patches.

    Raises:
        ValueError: If there is none, or one is below 1 or repeated.
    """
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        msg = f"window_sizes must name different sides from 1 patch up, got {list(sizes)}. WinCLIP uses [2, 3]."
        raise ValueError(msg)
