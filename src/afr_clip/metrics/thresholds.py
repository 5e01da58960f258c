"""From image scores to decisions: thresholds, and what is found and falsely reported at each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_F1, NO_MISS, FEW_FALSE_ALARMS, PIXEL_MAX_F1 = "max_f1", "no_miss", "false_alarms_5_percent", "pixel_max_f1"
"""Rules by which a threshold is found; the last is of pixels."""

MOST_FALSE_ALARMS = 20
"""One false alarm in so many normal images is what `FEW_FALSE_ALARMS` allows."""

NUM_BINS = 20


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what it decides: images that score at least as high are reported as anomalous.

    Attributes:
        category: ``None`` for all images of the dataset together.
        found: Anomalous images that are reported; ``None``, like the other counts, for a threshold of pixels.
        missed: Anomalous images that are not.
        false_alarms: Normal images that are reported.
        passed: Normal images that are not.
    """

    category: str | None
    rule: str
    threshold: float
    found: int | None = None
    missed: int | None = None
    false_alarms: int | None = None
    passed: int | None = None


def image_thresholds(
    category: str | None, scores: NDArray[np.float64], is_anomalous: NDArray[np.bool_]
) -> tuple[Threshold, ...]:
    """Find the threshold of each rule on scored images; none unless both normal and anomalous images are there.

    Of several thresholds with the highest F1, the highest counts. Without a threshold among the scores that keeps the
    false alarms down, it lies just above them all.

    Example:
        >>> scores, truth = np.array([0.1, 0.4, 0.3, 0.8]), np.array([False, False, True, True])
        >>> for found in image_thresholds(None, scores, truth):
        ...     print(found.rule, found.threshold, found.found, found.missed, found.false_alarms, found.passed)
        max_f1 0.3 2 0 1 1
        no_miss 0.3 2 0 1 1
        false_alarms_5_percent 0.8 1 1 0 2
    """
    normal, anomalous = np.sort(scores[~is_anomalous]), np.sort(scores[is_anomalous])
    if not (len(normal) and len(anomalous)):
        return ()
    thresholds = np.unique(scores)
    thresholds = np.append(thresholds, math.nextafter(thresholds[-1], math.inf))
    found = len(anomalous) - np.searchsorted(anomalous, thresholds)
    false_alarms = len(normal) - np.searchsorted(normal, thresholds)
    f1 = 2 * found / (len(anomalous) + found + false_alarms)
    places = {
        MAX_F1: np.flatnonzero(f1 == f1.max())[-1],
        NO_MISS: np.flatnonzero(found == len(anomalous))[-1],
        FEW_FALSE_ALARMS: np.flatnonzero(MOST_FALSE_ALARMS * false_alarms <= len(normal))[0],
    }
    return tuple(
        Threshold(
            category,
            rule,
            float(thresholds[place]),
            int(found[place]),
            int(len(anomalous) - found[place]),
            int(false_alarms[place]),
            int(len(normal) - false_alarms[place]),
        )
        for rule, place in places.items()
    )


def all_thresholds(
    categories: Sequence[str], scores: Sequence[float], is_anomalous: Sequence[bool]
) -> tuple[Threshold, ...]:
    """Find the thresholds of each category, in order of first appearance, and of all images together."""
    names, values, truth = np.array(categories, dtype=object), np.array(scores), np.array(is_anomalous, dtype=bool)
    found: list[Threshold] = []
    for category in dict.fromkeys(categories):
        chosen = names == category
        found += image_thresholds(category, values[chosen], truth[chosen])
    return (*found, *image_thresholds(None, values, truth))


class Histogram(NamedTuple):
    """How many normal and anomalous images score within each of `NUM_BINS` equal parts of an interval."""

    normal: list[int]
    anomalous: list[int]


def score_histogram(scores: NDArray[np.float64], is_anomalous: NDArray[np.bool_], low: float, high: float) -> Histogram:
    """Count image scores, all of which lie in an interval; the highest belongs to the last part."""
    edges = np.linspace(low, high if high > low else low + 1, NUM_BINS + 1)
    normal, anomalous = (np.histogram(scores[chosen], edges)[0].tolist() for chosen in (~is_anomalous, is_anomalous))
    return Histogram(normal, anomalous)
