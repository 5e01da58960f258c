"""The weighted sum of the terms."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from afr_clip.losses.terms import FOCAL_GAMMA, dice_loss, focal_loss, image_loss


class LossTerms(NamedTuple):
    """A loss and what it is made of; the terms are already weighted.

    Attributes:
        total: The sum, which is minimised.
        image: Cross-entropy of the image score.
        focal: Focal loss of the map.
        dice: Dice loss of the map.
        complement: Dice loss of the map's complement.
    """

    total: Float[Tensor, ""]
    image: Float[Tensor, ""]
    focal: Float[Tensor, ""]
    dice: Float[Tensor, ""]
    complement: Float[Tensor, ""]


@dataclass(frozen=True)
class AnomalyLoss:
    """Image loss + focal + Dice + Dice of the complement, each with its weight.

    The paper never states its loss; it cites these terms, and the closest published methods sum them. Everything is
    computed in float32.

    Attributes:
        image_weight: Weight of the image score's cross-entropy.
        focal_weight: Weight of the focal loss.
        dice_weight: Weight of the map's Dice loss.
        complement_weight: Weight of the Dice loss of ``1 - map`` against the normal pixels.
        focal_gamma: Focusing exponent.

    Raises:
        ValueError: If a weight or ``focal_gamma`` is negative, or all weights are 0.
    """

    image_weight: float = 1.0
    focal_weight: float = 1.0
    dice_weight: float = 1.0
    complement_weight: float = 1.0
    focal_gamma: float = FOCAL_GAMMA

    def __post_init__(self) -> None:
        weights = (self.image_weight, self.focal_weight, self.dice_weight, self.complement_weight)
        if min(*weights, self.focal_gamma) < 0 or not any(weights):
            msg = f"loss weights must not be negative and not all 0, got {self}. The default is 1 each, focal_gamma 2."
            raise ValueError(msg)

    def __call__(
        self,
        anomaly_map: Float[Tensor, "batch height width"],
        image_score: Float[Tensor, " batch"],
        mask: Bool[Tensor, "batch height width"],
        is_anomalous: Bool[Tensor, " batch"],
    ) -> LossTerms:
        """Compute the loss of a batch.

        Args:
            anomaly_map: Per-pixel anomaly probability.
            image_score: Image-level anomaly probability.
            mask: Pixel truth.
            is_anomalous: Image-level truth.

        Returns:
            The weighted sum and its terms.
        """
        with torch.autocast(anomaly_map.device.type, enabled=False):
            anomaly_map, image_score = anomaly_map.float(), image_score.float()
            image = self.image_weight * image_loss(image_score, is_anomalous)
            focal = self.focal_weight * focal_loss(anomaly_map, mask, self.focal_gamma)
            dice = self.dice_weight * dice_loss(anomaly_map, mask)
            complement = self.complement_weight * dice_loss(1 - anomaly_map, ~mask)
        return LossTerms(image + focal + dice + complement, image, focal, dice, complement)
