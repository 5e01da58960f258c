"""What every method returns."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class AnomalyPrediction:
    """The result of one forward pass; all values are probabilities in [0, 1], float32.

    Attributes:
        anomaly_map: Per-pixel anomaly probability at input size.
        image_score: Image-level anomaly probability.
        layer_maps: Per-tap-layer maps on the patch grid, before fusion.
    """

    anomaly_map: Float[Tensor, "batch height width"]
    image_score: Float[Tensor, " batch"]
    layer_maps: Float[Tensor, "batch layers grid_height grid_width"]
