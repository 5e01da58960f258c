"""Slow references for metrics, written from the definitions, and the kinds of scores they are compared on."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SCORE_KINDS = ("random", "tied", "constant", "narrow_band", "saturated", "spread_evenly")


def make_scores(kind: str, truth: Bools, rng: np.random.Generator) -> NDArray[np.float32]:
    """Make float32 probabilities that lean towards the truth, except for ``"constant"``."""
    lean = rng.normal(size=truth.shape) + truth
    score = {
        "random": 1 / (1 + np.exp(-lean)),
        "tied": np.clip(np.round(lean), -2, 3) / 5 + 0.4,
        "constant": np.full(truth.shape, 0.37),
        "narrow_band": 0.5 + lean / 500,
        "spread_evenly": rng.random(truth.shape) * 0.8 + 0.2 * truth,
        "saturated": 1 / (1 + np.exp(-12 * lean)),  # a twelfth is exactly 1 in float32, as much lies below 1e-7
    }[kind]
    return score.astype(np.float32)


def sklearn_metrics(score: NDArray[np.number], truth: Bools) -> dict[str, float]:
    """AUROC, F1max and AP by scikit-learn; NaN unless both classes are present."""
    score, truth = score.ravel(), truth.ravel()
    if truth.all() or not truth.any():
        return dict.fromkeys(("auroc", "f1_max", "ap"), math.nan)
    precision, recall, _ = precision_recall_curve(truth, score)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
    return {
        "auroc": float(roc_auc_score(truth, score)),
        "f1_max": float(f1.max()),
        "ap": float(average_precision_score(truth, score)),
    }


def naive_regions(mask: Bools) -> list[Bools]:
    """Find the 8-connected regions of a mask by flood fill."""
    left, regions = {(int(y), int(x)) for y, x in np.argwhere(mask)}, []
    while left:
        region, front = np.zeros_like(mask), [left.pop()]
        while front:
            y, x = front.pop()
            region[y, x] = True
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front += near
        regions.append(region)
    return regions


def naive_aupro(anomaly_maps: NDArray[np.number], masks: Bools, max_fpr: float = 0.3) -> float:
    """Area under the per-region overlap, which saturates with the last pixel of a region."""
    regions = [[(region, float(region.sum())) for region in naive_regions(mask)] for mask in masks]
    return naive_auspro(anomaly_maps, regions, max_fpr)


def naive_auspro(
    anomaly_maps: NDArray[np.number], regions: Sequence[Sequence[tuple[Bools, float]]], max_fpr: float
) -> float:
    """Area under the saturated overlap, one loop over all distinct thresholds and one over all regions.

    Args:
        regions: Of each image, with the number of pixels at which the overlap saturates.
    """
    maps = anomaly_maps.astype(np.float64)
    found = [(scores[region], area) for scores, own in zip(maps, regions, strict=True) for region, area in own]
    marked = np.array([np.any([region for region, _ in own] or [np.zeros(maps.shape[1:])], axis=0) for own in regions])
    normal = maps[~marked.astype(bool)]
    total, last_fpr, last_overlap = 0.0, 0.0, 0.0
    for threshold in np.unique(maps)[::-1]:
        fpr = float(np.mean(normal >= threshold))
        overlap = float(np.mean([min(np.sum(scores >= threshold) / area, 1) for scores, area in found]))
        if fpr > max_fpr:
            at_limit = last_overlap + (overlap - last_overlap) * (max_fpr - last_fpr) / (fpr - last_fpr)
            return (total + (max_fpr - last_fpr) * (last_overlap + at_limit) / 2) / max_fpr
        total += (fpr - last_fpr) * (last_overlap + overlap) / 2
        last_fpr, last_overlap = fpr, overlap
    return total / max_fpr


def naive_published_aupro(anomaly_maps: NDArray[np.number], masks: Bools) -> float:
    """The area that is published as PRO: 200 equal steps of the threshold, rates below 0.3 stretched to [0, 1]."""
    maps = anomaly_maps.astype(np.float64)
    regions = [m[region] for m, mask in zip(maps, masks, strict=True) for region in naive_regions(mask)]
    points = []
    for threshold in np.arange(maps.min(), maps.max(), (maps.max() - maps.min()) / 200)[::-1]:
        fpr = float(np.mean(maps[~masks] > threshold))
        if fpr < 0.3:
            points.append((fpr, float(np.mean([np.mean(scores > threshold) for scores in regions]))))
    if not points:
        return math.nan
    rate, overlap = np.array(points).T
    return float(trapezoid(overlap, (rate - rate.min()) / (rate.max() - rate.min())))
