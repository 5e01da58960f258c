"""From image scores to decisions: thresholds, and what is found and falsely reported at each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_F1, NO_MISS, FEW_FALSE_ALARMS = "max_f1", "no_miss", "false_alarms_5_percent"
FEW_ESCAPES, SOME_ESCAPES = "escape_2_percent", "escape_5_percent"
"""Rules by which a threshold of image scores is found."""

PIXEL_MAX_F1, PIXEL_GIVEN = "pixel_max_f1", "pixel_given"
"""Rules of pixels: the threshold of the highest F1, and the one that was asked for."""

MOST_FALSE_ALARMS = 20
"""One false alarm in so many normal images is what `FEW_FALSE_ALARMS` allows."""

MOST_ESCAPES = {NO_MISS: 0.0, FEW_ESCAPES: 0.02, SOME_ESCAPES: 0.05}
"""The share of anomalous images that may be missed."""

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
        f1: Of the pixels above the threshold, if it was given; ``None`` for other rules.
    """

    category: str | None
    rule: str
    threshold: float
    found: int | None = None
    missed: int | None = None
    false_alarms: int | None = None
    passed: int | None = None
    f1: float | None = None

    @property
    def overkill(self) -> float | None:
        """The share of normal images that are reported."""
        return _share(self.false_alarms, self.passed)

    @property
    def escape(self) -> float | None:
        """The share of anomalous images that are missed."""
        return _share(self.missed, self.found)


def _share(part: int | None, rest: int | None) -> float | None:
    return None if part is None or rest is None or not part + rest else part / (part + rest)


def overkill_at_escape(
    normal: NDArray[np.float64], anomalous: NDArray[np.float64], escape: float = MOST_ESCAPES[FEW_ESCAPES]
) -> float:
    """Return the share of normal images that are reported if at most a share of the anomalous ones may be missed.

    The threshold is the highest that misses no more, and what scores at least as high is reported: a normal image that
    ties with the last anomalous one to be found counts as a false alarm. NaN unless both kinds are there.

    Example:
        >>> overkill_at_escape(np.array([0.1, 0.3, 0.4]), np.array([0.3, 0.5, 0.6, 0.7]), 0.25)
        0.0
        >>> round(overkill_at_escape(np.array([0.1, 0.3, 0.4]), np.array([0.3, 0.5, 0.6, 0.7]), 0.2), 3)
        0.667
    """
    if not (len(normal) and len(anomalous)):
        return math.nan
    may_miss = min(math.floor(len(anomalous) * Fraction(str(escape))), len(anomalous) - 1)
    return float(np.mean(normal >= np.sort(anomalous)[may_miss]))


def escape_at_overkill(
    normal: NDArray[np.float64], anomalous: NDArray[np.float64], overkill: float = 1 / MOST_FALSE_ALARMS
) -> float:
    """Return the share of anomalous images that are missed if at most a share of the normal ones may be reported.

    The threshold lies just above the highest normal image that must pass: an anomalous image that ties with it is
    missed. NaN unless both kinds are there.

    Example:
        >>> escape_at_overkill(np.array([0.1, 0.3, 0.4]), np.array([0.3, 0.5, 0.6, 0.7]), 0.34)
        0.25
    """
    if not (len(normal) and len(anomalous)):
        return math.nan
    may_report = min(math.floor(len(normal) * Fraction(str(overkill))), len(normal) - 1)
    return float(np.mean(anomalous <= np.sort(normal)[len(normal) - 1 - may_report]))


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
        escape_2_percent 0.3 2 0 1 1
        escape_5_percent 0.3 2 0 1 1
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
        **{
            rule: np.flatnonzero(len(anomalous) - found <= math.floor(len(anomalous) * Fraction(str(most))))[-1]
            for rule, most in MOST_ESCAPES.items()
        },
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
