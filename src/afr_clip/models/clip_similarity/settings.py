"""The settings of the plain comparison of image and text; importing this module does not import torch."""

from dataclasses import dataclass
from typing import ClassVar

from afr_clip.models.method_settings import MethodSettings
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import PromptSettings


@dataclass
class NetworkSettings(MethodSettings):
    """The settings of the plain comparison; see the network's arguments."""

    network_class: ClassVar[str] = "CLIPSimilarity"
    trains: ClassVar[bool] = False

    prompts: PromptSettings
    scoring: ScoringSettings
