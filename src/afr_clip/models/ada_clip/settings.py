"""The settings of AdaCLIP; importing this module does not import torch."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from afr_clip.models.method_settings import ReleasableSettings
from afr_clip.models.scoring_settings import ScoringSettings
from afr_clip.prompts.ensemble import PromptSettings


class FusionReading(Enum):
    """Which clusters make the patch feature that enters the image score."""

    mean_of_clusters = "mean_of_clusters"
    most_anomalous_cluster = "most_anomalous_cluster"


@dataclass
class HybridPromptSettings:
    """Static and dynamic prompts; both towers get as many, in front of as many blocks.

    Attributes:
        length: Prompt tokens per block.
        depth: Blocks that see prompts of their own, counted from the first. In a tower of fewer blocks, all of them.

    Raises:
        ValueError: If ``length`` is below 1 or ``depth`` below 2.
    """

    length: int
    depth: int

    def __post_init__(self) -> None:
        if self.length < 1:
            msg = f"hybrid_prompts.length must be positive, got {self.length}. AdaCLIP uses 5."
            raise ValueError(msg)
        if self.depth < 2:
            msg = (
                f"hybrid_prompts.depth must be 2 or more, got {self.depth}. The text tower sees its first prompt in "
                f"front of block 2; AdaCLIP uses 4."
            )
            raise ValueError(msg)


@dataclass
class FusionSettings:
    """Hybrid semantic fusion: what the patches say about the whole image.

    Attributes:
        reading: ``mean_of_clusters`` clusters the most anomalous patches and averages the clusters' centres, as the
            released code does; ``most_anomalous_cluster`` clusters all patches and takes the centre of the most
            anomalous cluster, as the paper says.
        num_clusters: Clusters; an image with fewer patches to cluster gets one for each of them.
        num_patches: Most anomalous patches that ``mean_of_clusters`` looks at; an image with fewer gives all.
        weight: Share of the patch feature in the fused one; the class token has the rest. 0 is no fusion.

    Raises:
        ValueError: If a number is below 1, there are more clusters than patches, or ``weight`` lies outside [0, 1].
    """

    reading: FusionReading
    num_clusters: int
    num_patches: int
    weight: float

    def __post_init__(self) -> None:
        self.reading = FusionReading(self.reading)
        if not 1 <= self.num_clusters <= self.num_patches:
            msg = (
                f"fusion.num_clusters must lie in 1..fusion.num_patches={self.num_patches}, got {self.num_clusters}. "
                f"AdaCLIP makes 20 clusters of 100 patches."
            )
            raise ValueError(msg)
        if not 0 <= self.weight <= 1:
            msg = f"fusion.weight must lie in [0, 1], got {self.weight}. AdaCLIP uses 0.2; 0 disables fusion."
            raise ValueError(msg)


@dataclass
class NetworkSettings(ReleasableSettings):
    """The settings of AdaCLIP; see the network's arguments."""

    network_class: ClassVar[str] = "AdaCLIP"

    prompts: PromptSettings
    hybrid_prompts: HybridPromptSettings
    fusion: FusionSettings
    scoring: ScoringSettings
