"""Pixel-level metrics of a category in constant memory."""

import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from afr_clip.metrics.additive import AdditiveMetric
from afr_clip.metrics.functional.binning import NUM_BINS, bin_index, check_probabilities
from afr_clip.metrics.functional.curves import auroc, average_precision, f1_max
from afr_clip.metrics.functional.regions import MAX_REGIONS, aupro, region_weights

NEGATIVE, POSITIVE = 0, 1
"""Rows of ``counts``."""


class PixelMetrics(AdditiveMetric):
    """P-AUROC, P-F1max, P-AP and AUPRO of all pixels seen, from one pass and about 1.5 MiB of counts.

    A test set has some 500 million pixels, too many to keep and sort. Scores are counted in 65,536 bins instead (see
    `bin_index`); scores that share a bin count as tied. All states are integers, so that batches and processes cannot
    change a single bit of the result.

    Example:
        >>> metrics = PixelMetrics()
        >>> mask = torch.tensor([[[False, False], [False, True]]])
        >>> metrics.update(torch.tensor([[[0.1, 0.2], [0.3, 0.9]]]), mask)
        >>> {name: value.item() for name, value in metrics.compute().items()}
        {'pixel_auroc': 1.0, 'pixel_f1_max': 1.0, 'pixel_ap': 1.0, 'pixel_aupro': 1.0}
    """

    counts: Tensor
    region_weight: Tensor
    num_regions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("counts", (2, NUM_BINS))
        self.add_sum("region_weight", (NUM_BINS,))
        self.add_sum("num_regions", ())

    def update(
        self, anomaly_map: Float32[Tensor, "batch height width"], mask: Bool[Tensor, "batch height width"]
    ) -> None:
        """Count the pixels of a batch, which may be empty; maps and masks are on the same device.

        Raises:
            ValueError: If a score is NaN or lies outside [0, 1]; nothing is counted then.
        """
        check_probabilities("anomaly_map", anomaly_map)
        device = self.counts.device
        for scores, truth in zip(anomaly_map, mask, strict=True):
            bins = bin_index(scores)
            total = torch.bincount(bins.flatten(), minlength=NUM_BINS)
            if truth.any():
                anomalous = bins[truth]
                positives = torch.bincount(anomalous, minlength=NUM_BINS)
                weights, num_regions = region_weights(truth)
                self.counts[POSITIVE] += positives.to(device)
                self.region_weight += torch.zeros_like(total).index_add_(0, anomalous, weights).to(device)
                self.num_regions += num_regions
                total -= positives
            self.counts[NEGATIVE] += total.to(device)

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
        negatives, positives = self.counts[NEGATIVE], self.counts[POSITIVE]
        return {
            "pixel_auroc": auroc(negatives, positives),
            "pixel_f1_max": f1_max(negatives, positives),
            "pixel_ap": average_precision(negatives, positives),
            "pixel_aupro": aupro(negatives, self.region_weight),
        }
