"""The settings of CLIP-AD; importing this module does not import torch."""

from dataclasses import dataclass
from typing import ClassVar

from afr_clip.models.method_settings import ReleasableSettings
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import PromptSettings


@dataclass
class RepresentativeSettings:
    """Which sentences represent a state: those of its largest cluster.

    Attributes:
        radius: Two sentences are neighbours up to this distance of their unit embeddings.
        min_neighbours: A sentence with as many, itself included, belongs to the inside of a cluster.

    Raises:
        ValueError: If a number is not positive.
    """

    radius: float
    min_neighbours: int

    def __post_init__(self) -> None:
        for key, published in (("radius", "0.5"), ("min_neighbours", "15")):
            if getattr(self, key) <= 0:
                msg = f"representative.{key} must be positive, got {getattr(self, key)}. CLIP-AD uses {published}."
                raise ValueError(msg)


@dataclass
class NetworkSettings(ReleasableSettings):
    """The settings of CLIP-AD; see the network's arguments."""

    network_class: ClassVar[str] = "ClipAD"

    prompts: PromptSettings
    representative: RepresentativeSettings
    scoring: ScoringSettings

    @property
    def has_frozen_taps(self) -> bool:
        """Whether no trainable weight changes the image tower's output: its taps are only read."""
        return True
