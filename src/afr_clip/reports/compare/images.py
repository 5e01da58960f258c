"""How a difference of image AUROC varies with the images, for a dataset that has no categories to vary over."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy import stats

from afr_clip.files import shown
from afr_clip.reports.record.results import SCORES, read_scores

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OfImages:
    """The variance of a mean difference over images that might have been others.

    Attributes:
        freedom: Degrees of freedom.
    """

    variance: float
    freedom: int


def placements(
    scores: Float[ndarray, " images"], is_anomalous: Bool[ndarray, " images"]
) -> tuple[Float[ndarray, " anomalous"], Float[ndarray, " normal"]]:
    r"""Return, for each image, the share of images of the other kind that it is ranked correctly against.

    A tie counts half. Both means are the image AUROC (DeLong, DeLong and Clarke-Pearson, 1988).

    Example:
        >>> anomalous, normal = placements(np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False]))
        >>> anomalous.tolist(), normal.tolist()
        ([1.0, 0.75], [0.75, 1.0])
    """
    ranks = stats.rankdata(scores)
    above = ranks[is_anomalous] - stats.rankdata(scores[is_anomalous])
    below = ranks[~is_anomalous] - stats.rankdata(scores[~is_anomalous])
    return above / (~is_anomalous).sum(), 1 - below / is_anomalous.sum()


def variance_over_images(
    own: Sequence[Float[ndarray, " images"]],
    other: Sequence[Float[ndarray, " images"]],
    is_anomalous: Bool[ndarray, " images"],
) -> OfImages | None:
    """Return how the mean difference of image AUROC over pairs of runs varies with the images (DeLong et al., 1988).

    Args:
        own: The image scores of one setting, by pair.
        other: Those of the other setting, of the same images in the same order.

    Returns:
        ``None`` with fewer than two normal or two anomalous images.
    """
    if min(is_anomalous.sum(), (~is_anomalous).sum()) < 2:
        return None
    kinds: tuple[list[Float[ndarray, " of_kind"]], ...] = ([], [])
    for mine, its in zip(own, other, strict=True):
        for found, a, b in zip(kinds, placements(mine, is_anomalous), placements(its, is_anomalous), strict=True):
            found.append(a - b)
    means = [np.mean(found, axis=0) for found in kinds]
    return OfImages(float(sum(mean.var(ddof=1) / len(mean) for mean in means)), len(is_anomalous) - 2)


def read_image_scores(
    folder: Path, dataset: str
) -> tuple[list[str], Bool[ndarray, " images"], Float[ndarray, " images"]]:
    """Read the images of a dataset, their truth and scores, in the order of their names; empty if there are none."""
    try:
        rows = [row for row in read_scores(folder) if row.dataset == dataset and row.is_anomalous is not None]
    except (OSError, ValueError) as error:
        logger.warning("%s is not used, because it cannot be read: %s", shown(folder / SCORES), error)
        rows = []
    rows.sort(key=lambda row: row.image)
    truth = np.array([bool(row.is_anomalous) for row in rows], dtype=bool)
    return [row.image for row in rows], truth, np.array([row.image_score for row in rows], dtype=np.float64)
