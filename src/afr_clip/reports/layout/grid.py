"""A table ready to be laid out: the same one becomes HTML, Markdown, LaTeX or text in a terminal."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, starmap
from typing import TYPE_CHECKING, SupportsFloat

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "image_auroc": ("I-AUROC", "Image level: area under the ROC curve; 50 is chance"),
    "image_ap": ("I-AP", "Image level: average precision"),
    "image_f1_max": ("I-F1max", "Image level: F1 at the best threshold"),
    "pixel_auroc": ("P-AUROC", "Pixel level: area under the ROC curve; 50 is chance"),
    "pixel_ap": ("P-AP", "Pixel level: average precision"),
    "pixel_f1_max": ("P-F1max", "Pixel level: F1 at the best threshold"),
    "pixel_aupro": ("PRO", "Pixel level: per-region overlap up to a false positive rate of 0.3"),
}
"""Heading and explanation of each metric, in the order of the table."""

SATURATED_COLUMNS = {
    "pixel_auspro": ("sPRO", "Pixel level: saturated overlap up to a false positive rate of 0.05, mean of both kinds"),
    "pixel_auspro_logical": ("sPRO logical", "The same of logical anomalies"),
    "pixel_auspro_structural": ("sPRO structural", "The same of structural anomalies"),
}
"""Metrics that only some datasets have, shown where they were measured."""

UNDEFINED = "-"

PARTLY = "\N{DAGGER}"
"""Marks a number over another number of images or categories than the published test split has."""


@dataclass(frozen=True)
class Heading:
    """The head of a column.

    Attributes:
        group: Stands once above all neighbouring columns that share it.
        is_text: Whether the column holds words, which are sorted as such.
    """

    label: str
    meaning: str = ""
    group: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class TableCell:
    """One entry.

    Attributes:
        value: The exact number behind it, by which it is sorted; ``None`` for words, or if there is none.
    """

    shown: str
    value: float | None = None
    is_strong: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        name: What it shows, in a few words.
        headings: One per column; the first column names the rows.
        foot: Rows that stay below, however the body is sorted.
    """

    name: str
    headings: Sequence[Heading]
    body: Sequence[Sequence[TableCell]]
    foot: Sequence[Sequence[TableCell]] = field(default=())

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Neighbouring columns that share a group, as its name and their number."""
        return [(name, len(list(columns))) for name, columns in groupby(self.headings, lambda heading: heading.group)]


def text_headings(*labels: str) -> list[Heading]:
    """Head columns of words."""
    return [Heading(label, is_text=True) for label in labels]


def number_cell(value: SupportsFloat | None, form: str = ".1f", otherwise: str = "") -> TableCell:
    """Show a number in a format, or what stands for one that is ``None`` or NaN."""
    if value is None or math.isnan(value):
        return TableCell(otherwise)
    return TableCell(format(value, form), float(value))


def measured_cell(
    percent: float | None,
    deviation: float | None,
    num: int | None,
    otherwise: str = UNDEFINED,
    *,
    is_partial: bool = False,
) -> TableCell:
    """Show a measured number with one decimal, with its deviation and the number of seeds behind it.

    Args:
        percent: ``None`` or NaN if there is none.
        otherwise: Shown if there is no number.
        is_partial: Whether it stands on something other than published test splits.
    """
    if percent is None or math.isnan(percent):
        return TableCell(otherwise)
    over = "" if deviation is None or math.isnan(deviation) else f" \N{PLUS-MINUS SIGN} {deviation:.1f} ({num})"
    return marked(TableCell(f"{percent:.1f}{over}", percent), is_partial=is_partial)


def difference_cell(points: float | None, ends: Iterable[float | None] = (), *, is_partial: bool = False) -> TableCell:
    """Show a difference in points and, in brackets, the ends of its interval; empty if there is none."""
    if points is None:
        return TableCell("")
    between = ", ".join(signed(end) for end in ends if end is not None)
    return marked(TableCell(signed(points) + (f" [{between}]" if between else ""), points), is_partial=is_partial)


def signed(points: float) -> str:
    """Write a difference with its sign and one decimal."""
    return f"{round(points, 1) + 0:+.1f}"  # adding 0 turns the -0.0 of a rounded difference into 0.0


def marked(cell: TableCell, *, is_partial: bool) -> TableCell:
    """Mark a number that was not measured on published test splits."""
    return replace(cell, shown=cell.shown + PARTLY) if is_partial else cell


def category_grid(name: str, values: "pd.DataFrame") -> Grid:
    """Lay out the categories of a dataset, with the mean in the foot.

    Args:
        values: One category and metric per row, the mean last: ``row``, ``category``, ``metric``, ``mean`` and
            ``deviation`` (in percent), ``num_seeds``, ``num_normal``, ``num_anomalous``.
    """
    columns = COLUMNS | {name: column for name, column in SATURATED_COLUMNS.items() if (values.metric == name).any()}
    rows = [category_cells(of_row, list(columns)) for _, of_row in values.groupby("row", sort=False)]
    headings = [*text_headings("Category"), *starmap(Heading, columns.values()), *IMAGE_HEADINGS]
    return Grid(name, headings, rows[:-1], rows[-1:])


def category_cells(of_row: "pd.DataFrame", metrics: Sequence[str] = tuple(COLUMNS)) -> list[TableCell]:
    """Show one category: its name, metrics, and how many images it has."""
    columns = of_row[["metric", "mean", "deviation", "num_seeds"]].itertuples(index=False, name=None)
    by_metric = {metric: number for metric, *number in columns}
    numbers = [measured_cell(*by_metric.get(metric, (None, None, None))) for metric in metrics]
    first = of_row.iloc[0]
    counts = [number_cell(count, "") for count in (first.num_normal, first.num_anomalous)]
    return [TableCell(first.category), *numbers, *counts]


IMAGE_HEADINGS = [Heading("Normal", "Normal images"), Heading("Anomalous", "Anomalous images")]

METRIC_HEADINGS = [*starmap(Heading, COLUMNS.values()), *IMAGE_HEADINGS]
"""Above the numbers of `category_cells`."""
