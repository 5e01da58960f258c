"""Differences between a setting and its reference, paired by seed and category, and how certain their mean is."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from afr_clip.reports.compare.values import Measured
from afr_clip.reports.record.results import MEAN_ROW

LEVEL = 0.95
NUM_RESAMPLES = 10_000
SEED = 0

SEEDS, CATEGORIES = "seeds", "categories"


@dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Attributes:
        over: What was resampled: seeds, categories, or both.
    """

    low: float
    high: float
    over: tuple[str, ...]


@dataclass(frozen=True)
class Paired:
    """A paired difference.

    Attributes:
        mean: Over the pairs, as a fraction.
        interval: Of the mean; ``None`` if a single pair gives none.
        categories: Those defined in both with every one of these seeds.
        num_left_out: Incomplete pairs, of all that the cells and categories of both would make.
    """

    mean: float
    interval: Interval | None
    seeds: tuple[int, ...]
    categories: tuple[str, ...]
    num_left_out: int


def paired_difference(
    measured: Measured, own: int, reference: int, metric: str, wanted: AbstractSet[int]
) -> Paired | None:
    """Compare a measured dataset with that of the reference.

    Args:
        wanted: The seeds of all cells of both, finished or not.

    Returns:
        The difference; ``None`` if there is no complete pair, or they do not come from the same images.
    """
    if not same_images(measured, own, reference):
        return None
    mine, other = (_by_seed(measured, number, metric) for number in (own, reference))
    seeds = [seed for seed in mine.index if seed in other.index]
    difference = mine.loc[seeds] - other.loc[seeds]
    complete = ~difference.isna().any(axis=0)
    if not seeds or not complete.any():
        return None
    matrix = np.ascontiguousarray(difference.to_numpy())[:, complete.to_numpy()]
    names = measured.cells.category
    return Paired(
        float(matrix.mean()),
        bootstrap_interval(matrix),
        tuple(seeds),
        tuple(names[own, row, metric] for row in difference.columns[complete]),
        len(wanted) * len(complete) - matrix.size,
    )


def same_images(measured: Measured, own: int, other: int) -> bool:
    """Whether two measured datasets come from the same images, both scored and trained on."""
    shas = measured.datasets[["target_sha256", "auxiliary_sha256"]]
    return bool((shas.loc[own] == shas.loc[other]).all())


def _by_seed(measured: Measured, number: int, metric: str) -> pd.DataFrame:
    values = measured.values
    chosen = values[(values.dataset == number) & (values.metric == metric) & (values.row != MEAN_ROW)]
    return chosen.pivot(index="seed", columns="row", values="value")


def bootstrap_interval(differences: NDArray[np.float64]) -> Interval | None:
    """Give the interval of the mean of paired differences.

    The seeds and the categories that were run are samples of those that might have been, so both are drawn again, with
    replacement and independently of each other; the mean is taken over the rows and columns drawn (Owen's pigeonhole
    bootstrap, 2007). The ends are percentiles of `NUM_RESAMPLES` such means. The draws are the same for every matrix of
    a size, so that a table does not change when it is made again. An axis with a single entry is not drawn: what one
    seed or one category varies by is not known.

    Args:
        differences: One row per seed and one column per category, all of them defined.

    Returns:
        The interval; ``None`` if there is neither a second seed nor a second category.

    Raises:
        ValueError: If the matrix is empty or holds NaN.

    Example:
        >>> bootstrap_interval(np.array([[0.0, 1.0], [0.0, 1.0]]))
        Interval(low=0.0, high=1.0, over=('seeds', 'categories'))
    """
    if differences.ndim != 2 or differences.size == 0 or np.isnan(differences).any():
        msg = (
            f"Paired differences must be a matrix of seeds by categories without NaN, got shape {differences.shape} "
            f"with {int(np.isnan(differences).sum())} NaN. Leave incomplete pairs out."
        )
        raise ValueError(msg)
    num_seeds, num_categories = differences.shape
    over = tuple(name for name, num in ((SEEDS, num_seeds), (CATEGORIES, num_categories)) if num > 1)
    if not over:
        return None
    # (resamples, seeds) @ (seeds, categories), then each resample's own weights of the categories
    means = ((_weights(num_seeds, 0) @ differences) * _weights(num_categories, 1)).sum(axis=1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Interval(float(low), float(high), over)


@cache
def _weights(num: int, axis: int) -> NDArray[np.float64]:
    """The weight of each entry of an axis in each resample: the fraction of the draws that picked it."""
    generator = np.random.default_rng((SEED, axis))  # a stream of its own, so that the axes are independent
    return generator.multinomial(num, np.full(num, 1 / num), size=NUM_RESAMPLES) / num
