"""The terms of the training loss; probabilities in, one number out."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

FOCAL_GAMMA = 2.0
"""Focusing exponent of Lin et al. (ICCV 2017), which AFR-CLIP cites."""

PROBABILITY_FLOOR = 1e-6
"""Probabilities are kept this far from 0 and 1 inside logarithms, so that a saturated map still learns."""

DICE_SMOOTHING = 1.0
"""Added to both sides of the Dice ratio, so that an empty mask met by an empty map costs nothing."""


def focal_loss(
    probability: Float[Tensor, "*places"], truth: Bool[Tensor, "*places"], gamma: float = FOCAL_GAMMA
) -> Float[Tensor, ""]:
    r"""Cross-entropy that looks away from what is already right.

    .. math:: -\mathrm{mean}[(1 - p_t)^\gamma \log p_t], \quad p_t = p \text{ where anomalous}, 1 - p \text{ elsewhere}

    Args:
        probability: Anomaly probabilities, of pixels or of images.
        truth: Whether each is anomalous.
        gamma: Focusing exponent; 0 is plain cross-entropy.

    Returns:
        The mean over all of them.

    Example:
        >>> half = torch.full((1, 2, 2), 0.5)
        >>> focal_loss(half, half > 1)  # 0.25 * log 2
        tensor(0.1733)
    """
    right = torch.where(truth, probability, 1 - probability)
    right = PROBABILITY_FLOOR + (1 - 2 * PROBABILITY_FLOOR) * right  # keeps a gradient where clamping would end it
    return -((1 - right) ** gamma * right.log()).mean()


def dice_loss(
    anomaly_map: Float[Tensor, "batch height width"], mask: Bool[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    r"""Measure how far map and mask are from covering each other (Milletari et al., 3DV 2016).

    .. math:: 1 - \frac{2 \sum p\,g + 1}{\sum p + \sum g + 1} \text{, per image, then the mean}

    Args:
        anomaly_map: Per-pixel probability; of the complement, ``1 - anomaly_map`` with ``~mask``.
        mask: Pixel truth.

    Returns:
        The mean over the images, in [0, 1).

    Example:
        >>> mask = torch.tensor([[[True, False], [False, False]]])
        >>> dice_loss(mask.float(), mask)
        tensor(0.)
    """
    truth = mask.to(anomaly_map.dtype)
    overlap = 2 * (anomaly_map * truth).sum(dim=(1, 2)) + DICE_SMOOTHING
    total = anomaly_map.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)) + DICE_SMOOTHING
    return (1 - overlap / total).mean()
