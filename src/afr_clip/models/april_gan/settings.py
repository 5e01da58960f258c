"""The settings of APRIL-GAN; importing this module does not import torch."""

from dataclasses import dataclass
from typing import ClassVar

from afr_clip.models.method_settings import ReleasableSettings
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import PromptSettings


@dataclass
class NetworkSettings(ReleasableSettings):
    """The settings of APRIL-GAN; see the network's arguments."""

    network_class: ClassVar[str] = "AprilGAN"

    prompts: PromptSettings
    scoring: ScoringSettings

    @property
    def has_frozen_taps(self) -> bool:
        """Whether no trainable weight changes the image tower's output: its taps are only read."""
        return True
