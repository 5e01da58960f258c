"""What a user chooses about APRIL-GAN; importing it needs no torch."""

from dataclasses import dataclass
from typing import ClassVar

from afr_clip.models.method_settings import MethodSettings
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import PromptSettings


@dataclass
class NetworkSettings(MethodSettings):
    """What can be chosen about APRIL-GAN; see the network's arguments."""

    network_class: ClassVar[str] = "AprilGAN"

    prompts: PromptSettings
    scoring: ScoringSettings

    @property
    def has_frozen_taps(self) -> bool:
        """Whether nothing that learns changes what the image tower gives: its taps are only read."""
        return True
