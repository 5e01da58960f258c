"""The settings of scoring; importing this module does not import torch."""

from dataclasses import dataclass
from enum import Enum


class ImageScore(Enum):
    """What the image score is made of."""

    class_token = "class_token"
    map_max = "map_max"
    class_token_and_map_max = "class_token_and_map_max"
    map_top = "map_top"
    class_token_and_map_top = "class_token_and_map_top"


@dataclass
class ScoringSettings:
    """How similarities become scores.

    Attributes:
        temperature: Divides the cosines before the softmax. AFR-CLIP's equations have none: 1.0. CLIP started training
            with 0.07; the factor 100 that others write is 0.01.
        image_score: The class token's probability (AFR-CLIP's Eq. 9), the maximum of the map, the mean of its highest
            hundredth, or the mean of the first and one of the others.
        smoothing_sigma: Standard deviation in pixels of a Gaussian over the final map; 0 is none (AFR-CLIP's Eq. 14).

    Raises:
        ValueError: If the temperature is not positive or the smoothing is negative.
    """

    temperature: float
    image_score: ImageScore
    smoothing_sigma: float

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            msg = f"scoring.temperature must be positive, got {self.temperature}. AFR-CLIP's is 1.0, CLIP's 0.07."
            raise ValueError(msg)
        if not self.smoothing_sigma >= 0:
            msg = f"scoring.smoothing_sigma must not be negative, got {self.smoothing_sigma}. Use 0 for no smoothing."
            raise ValueError(msg)
        self.image_score = ImageScore(self.image_score)
