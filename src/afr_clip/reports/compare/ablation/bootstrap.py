"""How sure a paired difference is: an interval from resampled seeds and resampled categories."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
NUM_RESAMPLES = 10_000
SEED = 0

SEEDS, CATEGORIES = "seeds", "categories"


@dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        over: What was resampled: seeds, categories, or both.
    """

    low: float
    high: float
    over: tuple[str, ...]


def bootstrap_interval(differences: NDArray[np.float64]) -> Interval | None:
    """Give the interval of the mean of paired differences.

    The seeds and the categories that were run are samples of those that might have been, so both are drawn again, with
    replacement and independently of each other; the mean is taken over the rows and columns drawn (Owen's pigeonhole
    bootstrap, 2007). The ends are percentiles of `NUM_RESAMPLES` such means. The draws are the same for every matrix of
    a size, so that a table does not change when it is made again, and none for an axis with a single entry: what one
    seed or one category varies by is not known.

    Args:
        differences: One row per seed and one column per category, all of them defined.

    Returns:
        The interval; ``None`` where there is neither a second seed nor a second category.

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
    """How much each entry of an axis counts in each resample: how often it was drawn, of how many draws."""
    generator = np.random.default_rng((SEED, axis))  # a stream of its own, so that the axes are independent
    return generator.multinomial(num, np.full(num, 1 / num), size=NUM_RESAMPLES) / num
