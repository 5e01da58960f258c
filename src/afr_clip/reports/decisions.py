"""From scores to decisions: thresholds and histograms, laid out for a terminal and for the page of a run."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from afr_clip.metrics.thresholds import (
    FEW_FALSE_ALARMS,
    MAX_F1,
    NO_MISS,
    NUM_BINS,
    PIXEL_GIVEN,
    PIXEL_MAX_F1,
    Histogram,
    Threshold,
    score_histogram,
)
from afr_clip.reports.layout.grid import UNDEFINED, Grid, Heading, TableCell, number_cell, text_headings
from afr_clip.reports.record.results import ImageRow

OPTIMISTIC = (
    "These thresholds were found on the scored images themselves, so the counts are optimistic: on other images expect "
    "more misses and more false alarms. Choose a threshold on images of known condition, and test it on others."
)

_HEADINGS = [
    Heading("at", "An image that scores at least this much is reported", "Max F1"),
    Heading("found", "Anomalous images that are reported", "Max F1"),
    Heading("missed", "Anomalous images that are not reported", "Max F1"),
    Heading("false alarms", "Normal images that are reported", "Max F1"),
    Heading("passed", "Normal images that are not reported", "Max F1"),
    Heading("at", "The highest threshold that reports every anomalous image", "No miss"),
    Heading("false alarms", "Normal images that are reported", "No miss"),
    Heading("at", "The lowest threshold that reports at most one normal image in 20", "5 % false alarms"),
    Heading("missed", "Anomalous images that are not reported", "5 % false alarms"),
    Heading("at", "A pixel that scores at least this much is counted as anomalous", "Pixel max F1"),
]

_GIVEN = [
    Heading("at", "A pixel that scores above this is counted as anomalous", "Pixel given"),
    Heading("F1", "F1 of the pixels above the threshold that was given", "Pixel given"),
]


def threshold_grid(dataset: str, thresholds: Sequence[Threshold]) -> Grid:
    """Lay out the thresholds of a dataset: a row for each category, and all images together in the foot."""
    by_category: dict[str | None, dict[str, Threshold]] = {}
    for one in thresholds:
        by_category.setdefault(one.category, {})[one.rule] = one
    together = by_category.pop(None, {})
    is_given = any(one.rule == PIXEL_GIVEN for one in thresholds)
    rows = [[TableCell(str(category)), *_cells(found, is_given)] for category, found in by_category.items()]
    foot = [[TableCell("all images"), *_cells(together, is_given)]] if together else []
    headings = [*text_headings("Category"), *_HEADINGS, *(_GIVEN if is_given else ())]
    return Grid(f"Thresholds of {dataset}", headings, rows, foot)


def _cells(found: Mapping[str, Threshold], is_given: bool) -> list[TableCell]:
    rules = (MAX_F1, NO_MISS, FEW_FALSE_ALARMS, PIXEL_MAX_F1, PIXEL_GIVEN)
    best, none, few, pixels, given = (found.get(rule) for rule in rules)
    counts = (None,) * 4 if best is None else (best.found, best.missed, best.false_alarms, best.passed)
    return [
        _at(best),
        *(number_cell(num, "", UNDEFINED) for num in counts),
        *(_at(none), TableCell(UNDEFINED) if none is None else _share(none.false_alarms, none.passed)),
        *(_at(few), TableCell(UNDEFINED) if few is None else _share(few.missed, few.found)),
        _at(pixels),
        *((_at(given), _f1(given)) if is_given else ()),
    ]


def _f1(given: Threshold | None) -> TableCell:
    return TableCell(UNDEFINED) if given is None or given.f1 is None else TableCell(f"{100 * given.f1:.1f}", given.f1)


def _at(found: Threshold | None) -> TableCell:
    return number_cell(None if found is None else found.threshold, ".5g", UNDEFINED)


def _share(num: int | None, others: int | None) -> TableCell:
    share = 100 * (num or 0) / max(1, (num or 0) + (others or 0))
    return TableCell(f"{num} ({share:.0f} %)", share)


class Chart(NamedTuple):
    """A histogram of image scores, in a square of 100 units with the origin at the upper left.

    Attributes:
        bars: Kind of images, left and upper edge, width and height of each bar.
        threshold: Where the threshold of the highest F1 stands; ``None`` without one.
        ends: The scores at the left and the right edge.
    """

    name: str
    alt: str
    bars: list[tuple[str, float, float, float, float]]
    threshold: float | None
    ends: tuple[str, str]


def score_charts(rows: Sequence[ImageRow], thresholds: Sequence[Threshold]) -> list[Chart]:
    """Draw how the normal and anomalous images of each category score, then all of them, on one scale of scores."""
    rows = [row for row in rows if row.is_anomalous is not None]
    if not rows:
        return []
    low, high = min(row.image_score for row in rows), max(row.image_score for row in rows)
    at = {one.category: one.threshold for one in thresholds if one.rule == MAX_F1}
    categories: dict[str | None, list[ImageRow]] = {}
    for row in rows:
        categories.setdefault(row.category, []).append(row)
    if len(categories) > 1:
        categories[None] = rows
    charts = []
    for category, of_category in categories.items():
        scores = np.array([row.image_score for row in of_category])
        truth = np.array([row.is_anomalous for row in of_category], dtype=bool)
        name = "all images" if category is None else category
        place = 100 * (at[category] - low) / (high - low) if category in at and high > low else None
        charts.append(
            Chart(
                name,
                f"Image scores of {name} from {low:.4g} to {high:.4g}: {int((~truth).sum())} normal and "
                f"{int(truth.sum())} anomalous images",
                _bars(score_histogram(scores, truth, low, high)),
                place,
                (f"{low:.4g}", f"{high:.4g}"),
            )
        )
    return charts


def _bars(histogram: Histogram) -> list[tuple[str, float, float, float, float]]:
    most, width = max(*histogram.normal, *histogram.anomalous, 1), 100 / NUM_BINS
    return [
        (kind, (i + half) * width, 100 - 100 * count / most, width / 2, 100 * count / most)
        for kind, half, counts in (("normal", 0, histogram.normal), ("anomalous", 0.5, histogram.anomalous))
        for i, count in enumerate(counts)
        if count
    ]
