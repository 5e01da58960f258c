"""The settings of VisualAD; importing this module does not import torch."""

from dataclasses import dataclass
from typing import ClassVar

from afr_clip.models.method_settings import ReleasableSettings
from afr_clip.models.scoring_settings import ImageScore, ScoringSettings


@dataclass
class NetworkSettings(ReleasableSettings):
    """The settings of VisualAD; see the network's arguments.

    Raises:
        ValueError: If the number of anchors is not positive, ``dropout`` is outside [0, 1), or the image score
            reads the class token.
    """

    network_class: ClassVar[str] = "VisualAD"
    needs_text: ClassVar[bool] = False

    num_anchors: int
    dropout: float
    keeps_norm: bool
    scoring: ScoringSettings

    def __post_init__(self) -> None:
        if self.num_anchors < 1:
            msg = f"num_anchors must be positive, got {self.num_anchors}. VisualAD uses 4."
            raise ValueError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"dropout must lie in [0, 1), got {self.dropout}. VisualAD uses 0.1; 0 drops nothing."
            raise ValueError(msg)
        if self.scoring.image_score not in (ImageScore.map_top, ImageScore.map_max):
            msg = (
                f"scoring.image_score must be map_top or map_max, got {self.scoring.image_score.value}: VisualAD does "
                f"not score the class token. It uses map_top."
            )
            raise ValueError(msg)
