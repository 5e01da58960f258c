"""Results as data first: ``results.csv``, ``results.json``, ``scores.csv``; then as a table to read."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from afr_clip.data.records import AnomalySample
from afr_clip.metrics.protocol import METRICS, CategoryResult, MacroAverage, macro_average
from afr_clip.reports.record.run_folder import write_csv, write_json

RESULTS_HEADER = ("dataset", "category", "metric", "value", "num_normal", "num_anomalous")
SCORES_HEADER = ("dataset", "category", "image", "is_anomalous", "image_score")


@dataclass(frozen=True)
class DatasetResult:
    """What one target dataset gave.

    Attributes:
        dataset: Its name.
        categories: One result each.
        vanished_defects: Per category, how many defect regions lost their last pixel when masks were resized.
    """

    dataset: str
    categories: tuple[CategoryResult, ...]
    vanished_defects: Mapping[str, int]

    @property
    def mean(self) -> MacroAverage:
        """The macro average over the categories."""
        return macro_average(self.categories)


@dataclass(frozen=True)
class ImageRow:
    """One row of ``scores.csv``.

    Attributes:
        dataset: Name of the image's dataset.
        category: Its category.
        image: Its path, as it was read.
        is_anomalous: The truth; ``None`` where it is unknown.
        image_score: Anomaly probability.
    """

    dataset: str
    category: str
    image: str
    is_anomalous: bool | None
    image_score: float

    @classmethod
    def of(cls, sample: AnomalySample, is_anomalous: bool | None, image_score: float) -> "ImageRow":
        """Make the row of a sample."""
        return cls(sample.dataset, sample.category, str(sample.image_path), is_anomalous, image_score)


@dataclass(frozen=True)
class ScoredDataset:
    """A target dataset once it is scored.

    Attributes:
        facts: What the manifest says of it, down to the content of its images.
        result: What was measured.
        rows: Its images.
    """

    facts: Mapping[str, Any]
    result: DatasetResult
    rows: Sequence[ImageRow]


def write_results(folder: Path, results: Sequence[DatasetResult], manifest: Mapping[str, Any]) -> None:
    """Write ``results.csv`` and ``results.json``.

    Values are fractions in [0, 1]. Undefined ones are ``nan`` in the CSV and ``null`` in the JSON, and are named there.

    Args:
        folder: The run folder.
        results: Everything scored so far.
        manifest: Goes into the JSON.
    """
    rows = [row for result in results for row in _result_rows(result)]
    write_csv(folder / "results.csv", RESULTS_HEADER, rows)
    write_json(folder / "results.json", as_content(results, manifest))


def as_content(results: Sequence[DatasetResult], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``results.json`` holds.

    Args:
        results: Everything scored so far.
        manifest: Goes in as it is.

    Returns:
        Plain values; undefined ones are ``None``.
    """
    rows = [row for result in results for row in _result_rows(result)]
    named = [dict(zip(RESULTS_HEADER, (*row[:3], _null_if_nan(row[3]), *row[4:]), strict=True)) for row in rows]
    return {
        "results": named,
        "undefined": [f"{r['dataset']}/{r['category']}/{r['metric']}" for r in named if r["value"] is None],
        "categories_in_mean": {result.dataset: dict(result.mean.num_defined) for result in results},
        "vanished_defects": {result.dataset: dict(result.vanished_defects) for result in results},
        "manifest": dict(manifest),
    }


def write_scores(folder: Path, rows: Iterable[ImageRow]) -> None:
    """Write ``scores.csv``: one image a row, its score with all digits.

    Args:
        folder: The run folder.
        rows: The images.
    """
    table = [
        (
            row.dataset,
            row.category,
            row.image,
            "" if row.is_anomalous is None else int(row.is_anomalous),
            repr(row.image_score),
        )
        for row in rows
    ]
    write_csv(folder / "scores.csv", SCORES_HEADER, table)


def read_scores(folder: Path) -> list[ImageRow]:
    """Read ``scores.csv`` back, digit for digit.

    Args:
        folder: The run folder.

    Returns:
        The images in the order of the file; none where there is no file.
    """
    path = folder / "scores.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        _, *table = csv.reader(file)
    return [
        ImageRow(dataset, category, image, bool(int(truth)) if truth else None, float(score))
        for dataset, category, image, truth, score in table
    ]


def results_table(result: DatasetResult) -> Table:
    """Lay a dataset's result out for reading, in percent.

    Args:
        result: What was measured.

    Returns:
        A table with one row per category and the macro average below; undefined values are dashes.
    """
    table = Table(title=f"{result.dataset} (percent)")
    table.add_column("category")
    table.add_column("normal / anomalous", justify="right")
    for metric in METRICS:
        table.add_column(metric, justify="right")
    for row in (*result.categories, result.mean):
        if row.category == result.mean.category:
            table.add_section()
        values = [_percent(row.values[metric]) for metric in METRICS]
        table.add_row(row.category, f"{row.num_normal} / {row.num_anomalous}", *values)
    partly = {m: n for m, n in result.mean.num_defined.items() if n < len(result.categories)}
    if partly:
        counts = ", ".join(f"{metric} {n}" for metric, n in partly.items())
        table.caption = f"Categories in the mean, of {len(result.categories)}: {counts}; undefined in the others."
    return table


def _result_rows(result: DatasetResult) -> list[tuple[str, str, str, float, int, int]]:
    return [
        (result.dataset, row.category, metric, row.values[metric], row.num_normal, row.num_anomalous)
        for row in (*result.categories, result.mean)
        for metric in METRICS
    ]


def _null_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
