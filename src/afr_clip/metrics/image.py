"""Image-level scores and metrics; exact, because images are few."""

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from afr_clip.metrics.additive import AdditiveMetric
from afr_clip.metrics.functional.binning import check_probabilities, counts_by_score
from afr_clip.metrics.functional.curves import auroc, average_precision, f1_max


class ImageScores(AdditiveMetric):
    """The score of every image, gathered from all processes.

    Each image has its own place, so that processes may see the images in any order and number, and an image that was
    left out or scored twice is noticed.

    Raises:
        ValueError: If ``num_images`` is not positive.

    Example:
        >>> scores = ImageScores(num_images=3)
        >>> scores.update(torch.tensor([0.5, 0.25]), index=torch.tensor([2, 0]))
        >>> scores.update(torch.tensor([0.75]), index=torch.tensor([1]))
        >>> scores.compute()
        tensor([0.2500, 0.7500, 0.5000], dtype=torch.float64)
    """

    score: Tensor
    times_seen: Tensor

    def __init__(self, num_images: int) -> None:
        super().__init__()
        if num_images < 1:
            msg = f"num_images must be positive, got {num_images}. Leave out categories without images."
            raise ValueError(msg)
        self.num_images = num_images
        self.add_sum("score", (num_images,), dtype=torch.float64)
        self.add_sum("times_seen", (num_images,))

    def update(self, image_score: Float[Tensor, " batch"], index: Int[Tensor, " batch"]) -> None:
        """Put scores in their places.

        Raises:
            ValueError: If a score is NaN or lies outside [0, 1], or if an index is out of range.
        """
        check_probabilities("image_score", image_score)
        check_index(index, self.num_images)
        place = index.to(self.score.device)
        self.score.index_add_(0, place, image_score.to(self.score))
        self.times_seen.index_add_(0, place, torch.ones_like(place, dtype=torch.int64))

    def compute(self) -> Float64[Tensor, " images"]:
        """Return the scores in order; torchmetrics drops the axis of a single one.

        Raises:
            ValueError: If an image was never scored, or more than once.
        """

        def seen(times: int) -> str:
            place = (self.times_seen.clamp(max=2) == times).nonzero().flatten().tolist()
            return f"{len(place)} (first: index {place[0]})" if place else "0"

        if (self.times_seen != 1).any():
            msg = (
                f"Each of {self.num_images} images must be scored exactly once, got {seen(0)} never scored "
                f"and {seen(2)} scored more than once. Evaluate the whole data set, reset between "
                "evaluations, and use a distributed sampler that does not pad with duplicates."
            )
            raise ValueError(msg)
        return self.score


def image_metrics(
    score: Float[Tensor, " images"], is_anomalous: Bool[Tensor, " images"]
) -> dict[str, Float64[Tensor, ""]]:
    """Compute I-AUROC, I-F1max and I-AP exactly; each is NaN unless both classes are present.

    Raises:
        ValueError: If a score is NaN or lies outside [0, 1].

    Example:
        >>> values = image_metrics(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([False, False, True, True]))
        >>> {name: round(value.item(), 3) for name, value in values.items()}
        {'image_auroc': 0.875, 'image_f1_max': 0.8, 'image_ap': 0.833}
    """
    negatives, positives = counts_by_score(score, is_anomalous)
    return {
        "image_auroc": auroc(negatives, positives),
        "image_f1_max": f1_max(negatives, positives),
        "image_ap": average_precision(negatives, positives),
    }


def check_index(index: Int[Tensor, " batch"], num_images: int) -> None:
    """Raise a ``ValueError`` if an index is negative or not below ``num_images``."""
    outside = index[(index < 0) | (index >= num_images)].tolist()
    if outside:
        msg = (
            f"index must lie in 0..{num_images - 1}, got {outside[0]}. "
            "It is the position in the list of samples the metric was built for."
        )
        raise ValueError(msg)
