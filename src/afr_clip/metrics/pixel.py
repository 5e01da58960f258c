"""Pixel-level metrics of a category in constant memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp
from torchmetrics import Metric

from afr_clip.metrics.additive import AdditiveMetric
from afr_clip.metrics.average import PUBLISHED_PRO, SATURATED_KINDS, SATURATED_PRO
from afr_clip.metrics.functional.binning import (
    NUM_BINS,
    ScoreBins,
    check_probabilities,
    score_of_rank,
    score_rank,
)
from afr_clip.metrics.functional.curves import auroc, average_precision, best_f1
from afr_clip.metrics.functional.regions import (
    MAX_REGIONS,
    MAX_SATURATED_FPR,
    aupro,
    published_aupro,
    region_weights,
    saturated_weights,
)

PUBLISHED_THRESHOLDS = 200
"""Of AnomalyCLIP's and APRIL-GAN's PRO."""

ALL, ANOMALOUS, REGION = 0, 1, 2
"""Rows of ``counts``: all pixels, the anomalous ones among them, and the region weight of those."""

KINDS = 3
"""First row of those for saturated overlap: per kind, the normal pixels of its images, and its `saturated_weights`."""


@dataclass(frozen=True)
class AnnotatedRegions:
    """The regions of an anomalous image, of which only a share has to be found.

    Attributes:
        kind: One of `SATURATED_KINDS`.
        regions: Where each region lies, and the share of it at which its overlap saturates. Regions may overlap.
    """

    kind: str
    regions: Sequence[tuple[Bool[Tensor, "height width"], float]]


class PixelMetrics(AdditiveMetric):
    """P-AUROC, P-F1max, P-AP and AUPRO of all pixels seen, from one pass in constant memory.

    A test set has some 500 million pixels, too many to keep and sort. Scores are counted in bins instead (see
    `ScoreBins`); scores that share a bin count as tied. All counts are integers, so that how the pixels are spread over
    batches and processes cannot change a single bit of the result, unless some bins are crowded.

    Args:
        published_pro: Whether to compute ``pixel_aupro_published`` as well, see `published_aupro`.
        threshold: Where to compute an F1 as well.
        saturated: Whether to compute `SATURATED_PRO` as well, up to a false positive rate of `MAX_SATURATED_FPR`. As in
            the benchmark's own program, each kind is measured on its images and the normal ones, and the curve
            counts every region alike; the result is the mean of the kinds, NaN if one has no region.

    Attributes:
        f1_threshold: Once computed, the lowest score of the pixels that the best F1 counts as anomalous; NaN where F1
            is undefined.
        f1_given: Once computed, the F1 of the pixels above ``threshold``; NaN without one.

    Example:
        >>> metrics = PixelMetrics()
        >>> mask = torch.tensor([[[False, False], [False, True]]])
        >>> metrics.update(torch.tensor([[[0.1, 0.2], [0.3, 0.9]]]), mask)
        >>> {name: value.item() for name, value in metrics.compute().items()}
        {'pixel_auroc': 1.0, 'pixel_f1_max': 1.0, 'pixel_ap': 1.0, 'pixel_aupro': 1.0}
    """

    counts: Tensor
    num_regions: Tensor

    def __init__(self, *, published_pro: bool = False, threshold: float | None = None, saturated: bool = False) -> None:
        super().__init__()
        self.published_pro = published_pro
        self.saturated = saturated
        self.threshold = threshold
        self.bins = ScoreBins()
        self.f1_threshold = math.nan
        self.f1_given = math.nan
        self.add_sum("counts", (KINDS + 2 * len(SATURATED_KINDS) if saturated else KINDS, NUM_BINS))
        self.add_sum("num_regions", ())

    def update(
        self,
        anomaly_map: Float32[Tensor, "batch height width"],
        mask: Bool[Tensor, "batch height width"],
        annotated: Sequence[AnnotatedRegions | None] = (),
    ) -> None:
        """Count the pixels of a batch, which may be empty.

        Args:
            annotated: The regions of each image for saturated overlap, ``None`` for a normal one.

        Raises:
            ValueError: If a score is NaN or lies outside [0, 1]; nothing is counted then.
        """
        check_probabilities("anomaly_map", anomaly_map)
        device = self.counts.device
        marked = annotated or [None] * len(mask)
        for scores, truth, regions in zip(anomaly_map.to(device), mask.to(device), marked, strict=True):
            rank = score_rank(scores).flatten()
            place = self.bins(rank)
            if place.min() < 0:
                closed = (place < 0).nonzero().flatten()
                moves = self.bins.make_room(rank[closed], self.counts[ALL])
                if moves is None:  # the other bins stay, so only the new ones are looked up
                    place[closed] = self.bins(rank[closed])
                else:
                    self._move(moves)
                    place = self.bins(rank)
            used = self.bins.num_used
            self.counts[ALL, :used] += torch.bincount(place, minlength=used)
            if truth.any():
                anomalous = place[truth.flatten()]
                weights, num_regions = region_weights(truth)
                self.counts[ANOMALOUS, :used] += torch.bincount(anomalous, minlength=used)
                self.counts[REGION].index_add_(0, anomalous, weights)
                self.num_regions += num_regions
            if regions is not None:
                row = KINDS + 2 * SATURATED_KINDS.index(regions.kind)
                self.counts[row, :used] += torch.bincount(place[~truth.flatten()], minlength=used)
                for region, share in regions.regions:
                    chosen, weights = saturated_weights(scores, region.to(device), share)
                    self.counts[row + 1].index_add_(0, place[chosen], weights)

    def compute(self) -> dict[str, Float64[Tensor, ""]]:
        """Evaluate the curves; each metric is NaN unless both normal and anomalous pixels were seen.

        Raises:
            ValueError: If there are more regions than the fixed-point sums can hold.
        """
        if self.num_regions > MAX_REGIONS:
            msg = (
                f"Masks must have at most {MAX_REGIONS} regions together, got {int(self.num_regions)}. "
                "Masks this scattered are usually noise: check them and their threshold."
            )
            raise ValueError(msg)
        if not self.bins.is_ascending:
            self._move(self.bins.rebuild(self.bins.bits.clone()))
        pixels, positives, region_weight, *of_kinds = self.counts[:, : self.bins.num_used]
        negatives = pixels - positives
        f1, place = best_f1(negatives, positives)
        self.f1_threshold = math.nan if place is None else score_of_rank(self.bins.lowest_rank()[place]).item()
        if self.threshold is not None:
            self.f1_given = self._f1_above(pixels, positives, self.threshold)
        values = {
            "pixel_auroc": auroc(negatives, positives),
            "pixel_f1_max": f1,
            "pixel_ap": average_precision(negatives, positives),
            "pixel_aupro": aupro(negatives, region_weight),
        }
        if self.published_pro:
            values[PUBLISHED_PRO] = self._published_aupro(negatives, region_weight)
        if self.saturated:
            of_images, weights = of_kinds[::2], of_kinds[1::2]
            of_normal_images = negatives - torch.stack(of_images).sum(dim=0)
            areas = [
                aupro(of_normal_images + own, weight, MAX_SATURATED_FPR)
                for own, weight in zip(of_images, weights, strict=True)
            ]
            values |= zip(SATURATED_PRO, (torch.stack(areas).mean(), *areas), strict=True)
        return values

    def _f1_above(self, pixels: Int64[Tensor, " bins"], positives: Int64[Tensor, " bins"], threshold: float) -> float:
        if not positives.any() or torch.equal(pixels, positives):
            return math.nan
        at = torch.tensor([threshold], dtype=torch.float64, device=pixels.device)
        found, reported = (self.bins.share_above(weight, at) * weight.sum() for weight in (positives, pixels))
        return float(2 * found / (positives.sum() + reported))

    def _published_aupro(self, negatives: Tensor, region_weight: Tensor) -> Float64[Tensor, ""]:
        if not (negatives.any() and region_weight.any()):
            return torch.tensor(torch.nan, dtype=torch.float64, device=negatives.device)
        scores = score_of_rank(self.bins.lowest_rank()[(negatives + region_weight) > 0])
        low, high = scores[0].item(), scores[-1].item()
        if low == high:
            return scores.new_tensor(torch.nan)
        # NumPy, because its rounding of the steps decides which scores equal a threshold.
        steps = np.arange(low, high, (high - low) / PUBLISHED_THRESHOLDS)
        threshold = torch.from_numpy(steps).to(scores.device)
        fpr, overlap = (self.bins.share_above(weight, threshold) for weight in (negatives, region_weight))
        return published_aupro(fpr, overlap)

    def reset(self) -> None:
        """Forget all pixels."""
        super().reset()
        self.bins.reset()

    def sync(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: ProcessGroup | None = None,
        should_sync: bool = True,
        distributed_available: Callable[[], bool] | None = None,
    ) -> None:
        """Give all processes the same bins, whose counts torchmetrics then adds up."""
        if should_sync and (distributed_available or self.distributed_available_fn)():
            bits, in_cell = self.bins.layout(self.counts[ALL])
            torch.distributed.all_reduce(bits, ReduceOp.MIN, group=process_group)
            torch.distributed.all_reduce(in_cell, ReduceOp.SUM, group=process_group)
            self._move(self.bins.adopt(bits, in_cell))
        super().sync(dist_sync_fn, process_group, should_sync, distributed_available)

    def merge_state(self, incoming_state: "dict[str, Any] | Metric") -> None:
        """Add the pixels of another metric; both get the same bins.

        Raises:
            TypeError: If only the other's state is given: its counts mean nothing without its bins.
        """
        if not isinstance(incoming_state, PixelMetrics):
            msg = (
                f"PixelMetrics can only be merged with PixelMetrics, got {type(incoming_state).__name__}. "
                "Pass the metric itself instead of its state."
            )
            raise TypeError(msg)
        metrics = (self, incoming_state)
        bits, in_cell = zip(*(metric.bins.layout(metric.counts[ALL]) for metric in metrics), strict=True)
        for metric in metrics:
            metric._move(metric.bins.adopt(torch.minimum(*bits), in_cell[0] + in_cell[1]))
        super().merge_state(incoming_state)

    def _move(self, place: Int64[Tensor, " bins"]) -> None:
        self.counts = torch.zeros_like(self.counts).index_add_(1, place, self.counts)
