"""The weighted sum of the terms."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from afr_clip.losses.terms import FOCAL_GAMMA, dice_loss, focal_loss


class LossTerms(NamedTuple):
    """A loss and what it is made of; the terms are already weighted.

    Attributes:
        total: The sum, which is minimised.
        image: Cross-entropy of the image score, focal if it is focused.
        focal: Focal loss of the maps, summed over them, as are the next two.
        dice: Dice loss of the maps.
        complement: Dice loss of the maps' complements.
    """

    total: Float[Tensor, ""]
    image: Float[Tensor, ""]
    focal: Float[Tensor, ""]
    dice: Float[Tensor, ""]
    complement: Float[Tensor, ""]


@dataclass(frozen=True)
class AnomalyLoss:
    """Image loss + focal + Dice + Dice of the complement, each with its weight; the map terms once per trained map.

    AFR-CLIP never states its loss; it cites these terms. The losses of the methods it is compared with are other
    weights of the same sum. Everything is computed in float32.

    Attributes:
        image_weight: Weight of the image score's cross-entropy.
        focal_weight: Weight of the focal loss.
        dice_weight: Weight of the map's Dice loss.
        complement_weight: Weight of the Dice loss of ``1 - map`` against the normal pixels.
        focal_gamma: Focusing exponent of the maps' focal loss.
        image_gamma: Focusing exponent of the image score's cross-entropy; 0 leaves it as it is.

    Raises:
        ValueError: If a weight or an exponent is negative, or all weights are 0.
    """

    image_weight: float = 1.0
    focal_weight: float = 1.0
    dice_weight: float = 1.0
    complement_weight: float = 1.0
    focal_gamma: float = FOCAL_GAMMA
    image_gamma: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.image_weight, self.focal_weight, self.dice_weight, self.complement_weight)
        if min(*weights, self.focal_gamma, self.image_gamma) < 0 or not any(weights):
            msg = f"loss weights must not be negative and not all 0, got {self}. The default is 1 each, focal_gamma 2."
            raise ValueError(msg)

    def __call__(
        self,
        trained_maps: Float[Tensor, "batch maps height width"],
        image_score: Float[Tensor, " batch"],
        mask: Bool[Tensor, "batch height width"],
        is_anomalous: Bool[Tensor, " batch"],
    ) -> LossTerms:
        """Compute the loss of a batch.

        Args:
            trained_maps: Per-pixel anomaly probability, as often as the method compares it with the mask.
            image_score: Image-level anomaly probability.
            mask: Pixel truth.
            is_anomalous: Image-level truth.

        Returns:
            The weighted sum and its terms.
        """
        with torch.autocast(trained_maps.device.type, enabled=False):
            maps = trained_maps.float().unbind(dim=1)
            image = self.image_weight * focal_loss(image_score.float(), is_anomalous, self.image_gamma)
            focal = self.focal_weight * torch.stack([focal_loss(p, mask, self.focal_gamma) for p in maps]).sum()
            dice = self.dice_weight * torch.stack([dice_loss(p, mask) for p in maps]).sum()
            complement = self.complement_weight * torch.stack([dice_loss(1 - p, ~mask) for p in maps]).sum()
        return LossTerms(image + focal + dice + complement, image, focal, dice, complement)
