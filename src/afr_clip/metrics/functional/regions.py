"""Per-region overlap: every connected region of defect pixels counts once, however small it is."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from scipy import ndimage
from torch import Tensor

MAX_FPR = 0.3
"""False-positive rate up to which AUPRO integrates, from Bergmann et al. (IJCV 2021)."""

MAX_SATURATED_FPR = 0.05
"""The same for the saturated overlap, the limit of MVTec LOCO AD's benchmark; from Bergmann et al. (IJCV 2022)."""

EIGHT_CONNECTED = np.ones((3, 3), dtype=np.int8)
"""Pixels that touch by an edge or a corner belong to one region."""

REGION_UNIT = 2**40
"""Fixed-point weight of one region. Sums of integers do not depend on their order."""

MAX_REGIONS = 2**63 // REGION_UNIT // 2
"""More regions than this could overflow an int64 sum; half of the range leaves room for rounding."""


def region_weights(mask: Bool[Tensor, "height width"]) -> tuple[Int64[Tensor, " anomalous"], int]:
    """Share one unit of weight among the pixels of each 8-connected region; the labelling runs on the CPU.

    Returns:
        The weight of each anomalous pixel, ``2 ** 40 / |region|`` rounded, in the order of ``scores[mask]``; and the
        number of regions.

    Example:
        >>> mask = torch.tensor([[True, False, False], [False, True, False], [False, False, False]])
        >>> region_weights(mask)[0] / REGION_UNIT  # the corner joins the two pixels
        tensor([0.5000, 0.5000])
    """
    labels, num_regions = ndimage.label(mask.cpu().numpy(), structure=EIGHT_CONNECTED)
    region = labels[labels > 0]
    size = np.bincount(region, minlength=num_regions + 1).clip(min=1)  # no pixel carries label 0, the background
    weight = (REGION_UNIT + size // 2) // size
    return torch.from_numpy(weight[region]).to(mask.device), int(num_regions)


def saturated_weights(
    scores: Float32[Tensor, "height width"], region: Bool[Tensor, "height width"], share: float
) -> tuple[Int64[Tensor, " chosen"], Int64[Tensor, " chosen"]]:
    r"""Share one unit of weight among those pixels of a region that suffice to saturate its overlap.

    .. math:: \mathrm{sPRO}(P) = \frac{1}{|R|} \sum_{r \in R} \min\left(\frac{|P \cap r|}{s_r}, 1\right)
        \qquad \text{Bergmann et al., Beyond dents and scratches, IJCV 2022}

    Where the prediction ``P`` is all pixels above a threshold, the overlap with a region grows pixel by pixel in the
    order of their scores, and stops after ``s_r`` of them. So the pixels of the ``s_r`` highest scores carry the whole
    weight. Sums of these weights by score form the exact curve, and `aupro` integrates it: no map has to be kept. Which
    of several equal scores is chosen does not matter, because they are counted together.

    Args:
        share: ``s_r``, the saturation area, as a share of the region's. It need not be a whole number of pixels: the
            last one has what is left of the unit.

    Returns:
        The places of the chosen pixels in the flattened map, and the weight of each; empty for an empty region.

    Example:
        >>> scores = torch.tensor([[0.9, 0.1], [0.7, 0.8]])
        >>> places, weights = saturated_weights(scores, torch.ones(2, 2, dtype=torch.bool), share=0.625)
        >>> places, weights / REGION_UNIT  # two and a half pixels
        (tensor([0, 3, 2]), tensor([0.4000, 0.4000, 0.2000]))
    """
    places = region.flatten().nonzero().flatten()
    area = share * len(places)
    best = scores.flatten()[places].topk(math.ceil(area)).indices
    weights = torch.full_like(best, int(REGION_UNIT / max(area, 1)))
    weights[-1:] += REGION_UNIT - weights.sum()
    return places[best], weights


def aupro(
    negatives: Int64[Tensor, " bins"], region_weight: Int64[Tensor, " bins"], max_fpr: float = MAX_FPR
) -> Float64[Tensor, ""]:
    r"""Integrate the mean per-region overlap over the false-positive rate.

    .. math:: \mathrm{AUPRO} = \frac{1}{f} \int_0^f \mathrm{PRO}(\mathrm{FPR}) \, d\,\mathrm{FPR}

    The curve is linear between thresholds and is cut at ``f`` by interpolation. The rate is taken over the normal
    pixels of all images, normal images included, and is not rescaled.

    Args:
        negatives: Number of normal pixels per ascending score.
        region_weight: Sum of `region_weights` per ascending score, or of `saturated_weights` for the area under sPRO.
        max_fpr: ``f``, where the integral ends.

    Returns:
        A value in [0, 1]; NaN without normal pixels or without regions.

    Raises:
        ValueError: If ``max_fpr`` is not in (0, 1].

    Example:
        >>> aupro(torch.tensor([10, 0]), torch.tensor([0, REGION_UNIT]))  # every region found before any false alarm
        tensor(1., dtype=torch.float64)
    """
    if not 0 < max_fpr <= 1:
        msg = f"max_fpr must lie in (0, 1], got {max_fpr}. The usual limit is {MAX_FPR}."
        raise ValueError(msg)
    if not (negatives.any() and region_weight.any()):
        return torch.tensor(float("nan"), dtype=torch.float64, device=negatives.device)
    fpr, overlap = _share_from_above(negatives), _share_from_above(region_weight)
    reached = fpr.clamp(max=max_fpr)
    width = reached.diff()  # 0 for segments beyond the limit
    slope = overlap.diff() / fpr.diff().clamp(min=torch.finfo(fpr.dtype).tiny)
    # A vertical step has no width: its huge slope is multiplied by 0.
    area = width * (overlap[:-1] + slope * width / 2)
    return area.sum() / max_fpr


def published_aupro(
    negatives_above: Float64[Tensor, " thresholds"], overlap: Float64[Tensor, " thresholds"], max_fpr: float = MAX_FPR
) -> Float64[Tensor, ""]:
    r"""Integrate the overlap as AnomalyCLIP, APRIL-GAN and others do for the metric that they call PRO.

    The result differs from `aupro` and is often far lower. Their thresholds are 200 equal steps between the lowest and
    the highest score, so a map with heavy tails has few where they matter. Only points with a false positive rate below
    ``max_fpr`` are kept, without interpolation at ``max_fpr``, and their rates are stretched to [0, 1].

    Args:
        negatives_above: Share of the normal pixels above each ascending threshold.
        overlap: Mean share of each region above each threshold.

    Returns:
        NaN where the published code fails, which is if no point is kept or all kept points have the same rate.

    Example:
        >>> fpr, overlap = torch.tensor([0.9, 0.2, 0.1, 0.0]), torch.tensor([1.0, 0.8, 0.6, 0.0])
        >>> published_aupro(fpr.double(), overlap.double())  # half of each step from 0 to 0.6 and from 0.6 to 0.8
        tensor(0.5000, dtype=torch.float64)
    """
    is_kept = negatives_above < max_fpr
    fpr, kept = negatives_above[is_kept].flip(0), overlap[is_kept].flip(0)
    if not (len(fpr) and fpr[-1] > fpr[0]):
        return negatives_above.new_tensor(float("nan"))
    return torch.trapezoid(kept, (fpr - fpr[0]) / (fpr[-1] - fpr[0]))


def _share_from_above(weight: Int64[Tensor, " bins"]) -> Float64[Tensor, " points"]:
    """Share of the total at or above each threshold, from 0 above all scores to exactly 1 at the lowest."""
    total_above = weight.flip(0).cumsum(0)
    return torch.cat([total_above.new_zeros(1), total_above]) / weight.sum().double()
