"""The training loss: its terms, each from probabilities to one number, and their weighted sum."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from afr_clip.settings import DICE_PER

FOCAL_GAMMA = 2.0
"""Focusing exponent of Lin et al. (ICCV 2017), which AFR-CLIP cites."""

PROBABILITY_FLOOR = 1e-6
"""Probabilities are kept this far from 0 and 1 inside logarithms, so that a saturated map still learns."""

DICE_SMOOTHING = 1.0
"""Added to both sides of the Dice ratio, so that an empty mask met by an empty map costs nothing."""


def focal_loss(
    probability: Float[Tensor, "*places"],
    truth: Bool[Tensor, "*places"],
    gamma: float = FOCAL_GAMMA,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    r"""Cross-entropy with less weight on easy examples.

    .. math:: -\mathrm{mean}[(1 - p_t)^\gamma \log p_t], \quad p_t = p \text{ where anomalous}, 1 - p \text{ elsewhere}

    Probabilities are of pixels or of images; ``gamma=0`` is plain cross-entropy.

    Args:
        smoothing: Label smoothing ``s`` as in the compared methods' public codes, which clamp the one-hot truth to
            ``[s, 1 - s]`` and add ``s`` to what it selects: ``p_t`` becomes ``(1 - s) p_t + s (1 - p_t) + s``. 0 keeps
            ``p_t`` only ``PROBABILITY_FLOOR`` away from 0 and 1.

    Example:
        >>> half = torch.full((1, 2, 2), 0.5)
        >>> focal_loss(half, half > 1)  # 0.25 * log 2
        tensor(0.1733)
    """
    right = torch.where(truth, probability, 1 - probability)
    least, most = (2 * smoothing, 1) if smoothing else (PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    right = least + (most - least) * right  # keeps a gradient where clamping would end it
    return -((1 - right) ** gamma * right.log()).mean()


def dice_loss(
    anomaly_map: Float[Tensor, "batch height width"], mask: Bool[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    r"""Measure how far map and mask are from covering each other (Milletari et al., 3DV 2016).

    .. math:: 1 - \frac{2 \sum p\,g + 1}{\sum p + \sum g + 1} \text{, per image, then the mean}

    The loss of the complement is that of ``1 - anomaly_map`` and ``~mask``.

    Example:
        >>> mask = torch.tensor([[[True, False], [False, False]]])
        >>> dice_loss(mask.float(), mask)
        tensor(0.)
    """
    truth = mask.to(anomaly_map.dtype)
    overlap = 2 * (anomaly_map * truth).sum(dim=(1, 2)) + DICE_SMOOTHING
    total = anomaly_map.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)) + DICE_SMOOTHING
    return (1 - overlap / total).mean()


def alignment_loss(
    patch_tokens: Float[Tensor, "batch streams patches dim"], mask: Bool[Tensor, "batch grid_height grid_width"]
) -> Float[Tensor, ""]:
    r"""Ask that normal patches resemble each other, and anomalous ones too, more than they resemble the other kind.

    .. math::
        \mathrm{ReLU}\bigl(\mathrm{mean}_{g_i \ne g_j} \cos(v_i, v_j) - \mathrm{mean}_{g_i = g_j} \cos(v_i, v_j)\bigr)
        \text{, the mean over streams} \qquad \text{AF-CLIP, arXiv:2507.19949}

    Means are over all pairs within an image, of all images together. They follow from the sums of each kind's unit
    tokens, so that no table of pairs is needed. Without both kinds of patches in one image the loss is 0.

    Example:
        >>> tokens = torch.tensor([[[[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]]])
        >>> alignment_loss(tokens, torch.tensor([[[True, False, False, False]]]))  # 1/3 - 1/5
        tensor(0.1333)
    """
    units = F.normalize(patch_tokens.float(), dim=-1)
    kinds = torch.stack([mask.flatten(1), ~mask.flatten(1)]).to(units.dtype)  # (2, B, N)
    anomalous, normal = torch.einsum("kbn,bsnd->kbsd", kinds, units)
    num_anomalous, num_normal = kinds.sum(dim=2)
    num_unlike, num_alike = (2 * num_anomalous * num_normal).sum(), (num_anomalous**2 + num_normal**2).sum()
    unlike = 2 * (anomalous * normal).sum(dim=(0, 2)) / num_unlike.clamp(min=1)
    alike = (anomalous**2 + normal**2).sum(dim=(0, 2)) / num_alike
    return ((unlike - alike).relu() * (num_unlike > 0)).mean()


def separation_loss(prototypes: Float[Tensor, "batch 2 dim"], margin: float | None = None) -> Float[Tensor, ""]:
    r"""Ask that the normal and the abnormal direction that patches are compared with point apart.

    .. math::
        \bigl(\mathrm{mean} \cos(t_n, t_a)\bigr)^2 \quad \text{AA-CLIP, arXiv:2503.06661}, \qquad
        \mathrm{mean}\,\mathrm{ReLU}(\cos(t_n, t_a) + m) \quad \text{VisualAD, arXiv:2603.07952}

    Args:
        margin: How far beyond the right angle, as a cosine; ``None`` asks for the right angle itself.

    Example:
        >>> alike = torch.tensor([[[2.0, 0.0], [1.0, 0.0]]])
        >>> separation_loss(alike), separation_loss(alike, margin=0.5), separation_loss(torch.eye(2)[None])
        (tensor(1.), tensor(1.5000), tensor(0.))
    """
    normal, abnormal = F.normalize(prototypes.float(), dim=-1).unbind(dim=1)
    cosine = (normal * abnormal).sum(dim=-1)
    return cosine.mean() ** 2 if margin is None else (cosine + margin).relu().mean()


def on_grid(
    mask: Bool[Tensor, "batch height width"], size: tuple[int, int]
) -> Bool[Tensor, "batch grid_height grid_width"]:
    """Bring masks to the patch grid: a patch is anomalous where the mask around its centre mostly is."""
    if mask.shape[1:] == size:
        return mask
    return F.interpolate(mask[:, None].float(), size=size, mode="bilinear")[:, 0] > 0.5


def rows_as_images(values: Shaped[Tensor, "batch height width"]) -> Shaped[Tensor, "rows 1 width"]:
    """Make each row of each map or mask an image of its own."""
    return values.flatten(0, 1)[:, None]


class LossTerms(NamedTuple):
    """A loss and its weighted terms; focal, Dice, complement and L1 are summed over the trained maps.

    Attributes:
        l1: ``None``, as are alignment and separation, where its weight is 0.
    """

    total: Float[Tensor, ""]
    image: Float[Tensor, ""]
    focal: Float[Tensor, ""]
    dice: Float[Tensor, ""]
    complement: Float[Tensor, ""]
    l1: Float[Tensor, ""] | None = None
    alignment: Float[Tensor, ""] | None = None
    separation: Float[Tensor, ""] | None = None

    def by_name(self) -> dict[str, Tensor]:
        """Return the total and its terms, without those that are ``None``."""
        return {name: value for name, value in self._asdict().items() if value is not None}


@dataclass(frozen=True)
class AnomalyLoss:
    """Image loss + focal + Dice + Dice of the complement (+ L1 + alignment + separation), each with its weight.

    The terms of the map count once per trained map, those of maps on the patch grid against the mask on that grid.

    AFR-CLIP does not state its loss; it cites these terms. The losses of the compared methods are other weights of the
    same sum. Everything is computed in float32.

    Attributes:
        image_weight: Weight of the image score's cross-entropy, the mean over scores if there are several.
        dice_weight: Weight of the map's Dice loss.
        complement_weight: Weight of the Dice loss of ``1 - map`` against the normal pixels.
        l1_weight: Weight of the mean absolute difference of map and mask.
        alignment_weight: Weight of `alignment_loss`, for methods that give patch tokens.
        separation_weight: Weight of `separation_loss`, for methods that give prototypes.
        separation_margin: Its margin; ``None`` for none.
        focal_gamma: Focusing exponent of the maps' focal loss.
        image_gamma: Focusing exponent of the image score's cross-entropy; 0 leaves it as it is.
        focal_smoothing: Label smoothing of the maps' focal loss.
        image_smoothing: Label smoothing of the image score's loss.
        dice_per: What each Dice ratio is taken over: ``image``, or ``row`` of an image, as in AdaCLIP's public code.
            A row has fewer pixels, so its normal pixels weigh more.

    Raises:
        ValueError: If a number is negative, all weights are 0, or ``dice_per`` is unknown.
    """

    image_weight: float = 1.0
    focal_weight: float = 1.0
    dice_weight: float = 1.0
    complement_weight: float = 1.0
    l1_weight: float = 0.0
    alignment_weight: float = 0.0
    separation_weight: float = 0.0
    separation_margin: float | None = None
    focal_gamma: float = FOCAL_GAMMA
    image_gamma: float = 0.0
    focal_smoothing: float = 0.0
    image_smoothing: float = 0.0
    dice_per: str = "image"

    def __post_init__(self) -> None:
        of_maps = (self.focal_weight, self.dice_weight, self.complement_weight, self.l1_weight)
        weights = (self.image_weight, *of_maps, self.alignment_weight, self.separation_weight)
        others = (self.focal_gamma, self.image_gamma, self.focal_smoothing, self.image_smoothing)
        if min(*weights, *others) < 0 or not any(weights):
            msg = f"loss weights must not be negative and not all 0, got {self}. The default is 1 each, focal_gamma 2."
            raise ValueError(msg)
        if self.dice_per not in DICE_PER:
            msg = f"dice_per must be one of {', '.join(DICE_PER)}, got {self.dice_per!r}. Use image, the default."
            raise ValueError(msg)

    def __call__(
        self,
        trained_maps: Float[Tensor, "batch maps map_height map_width"],
        image_score: Float[Tensor, "batch ..."],
        mask: Bool[Tensor, "batch height width"],
        is_anomalous: Bool[Tensor, " batch"],
        patch_tokens: Float[Tensor, "batch streams patches dim"] | None = None,
        prototypes: Float[Tensor, "batch 2 dim"] | None = None,
    ) -> LossTerms:
        """Compute the loss of a batch; each trained map is compared with the mask, each image score with the label."""
        with torch.autocast(trained_maps.device.type, enabled=False):
            height, width = trained_maps.shape[2:]
            maps, mask = trained_maps.float().unbind(dim=1), on_grid(mask, (height, width))
            score, exponent, smoothing = image_score.float(), self.focal_gamma, self.focal_smoothing
            truth = is_anomalous if score.ndim == 1 else is_anomalous[:, None].expand_as(score)
            image = self.image_weight * focal_loss(score, truth, self.image_gamma, self.image_smoothing)
            if score.numel() == 0:  # no score is trained; the mean over none is NaN
                image = score.sum()
            focal = self.focal_weight * torch.stack([focal_loss(p, mask, exponent, smoothing) for p in maps]).sum()
            l1 = alignment = separation = None
            if self.l1_weight:
                l1 = self.l1_weight * torch.stack([F.l1_loss(p, mask.to(p.dtype)) for p in maps]).sum()
            if self.alignment_weight and patch_tokens is not None:
                alignment = self.alignment_weight * alignment_loss(patch_tokens, mask)
            if self.separation_weight and prototypes is not None:
                separation = self.separation_weight * separation_loss(prototypes, self.separation_margin)
            if self.dice_per == "row":
                maps, mask = tuple(rows_as_images(p) for p in maps), rows_as_images(mask)
            dice = self.dice_weight * torch.stack([dice_loss(p, mask) for p in maps]).sum()
            complement = self.complement_weight * torch.stack([dice_loss(1 - p, ~mask) for p in maps]).sum()
        total = image + focal + dice + complement
        for term in (l1, alignment, separation):
            total = total if term is None else total + term
        return LossTerms(total, image, focal, dice, complement, l1, alignment, separation)
