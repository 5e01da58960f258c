"""An ablation as pictures: bars with the differences to the reference, and the losses of its trainings."""

import csv
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from afr_clip.files import shown, write_encoded
from afr_clip.metrics.log_keys import LOSS_EPOCH
from afr_clip.reports.compare.ablation import AblationTable
from afr_clip.reports.compare.paper import ABLATED
from afr_clip.reports.compare.tables import Record, as_dicts
from afr_clip.reports.layout.grid import PARTLY
from afr_clip.reports.record.schema import LARGEST_NUMBER

CHANCE = 50.0
"""AUROC of a score that knows nothing, in percent; there the bars begin."""

BAR, REFERENCE_BAR, INK, PAPER = "#7aa6c2", "#28587b", "#1c2024", "#c4420f"
DPI = 110

LONGEST_LABEL = 48
"""In letters; a longer name leaves no room for what is drawn."""

MOST_INCHES = 300.0
"""Of a figure's side; matplotlib cannot draw more than 65,536 pixels."""

logger = logging.getLogger(__name__)

Curve = Mapping[int, float]
"""Loss by epoch."""

Colour = tuple[float, float, float, float]
"""Red, green, blue and opacity."""


@contextmanager
def drawing_names() -> Iterator[None]:
    """Draw names as they are: a dollar sign starts no formula, and letters that the font lacks become boxes."""
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def drawn_label(name: str) -> str:
    """Shorten a name; matplotlib takes one that begins with an underscore for hidden, so it gets a space before it."""
    short = name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 3]}..."
    return f" {short}" if short.startswith("_") else short


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    write_encoded(path, partial(figure.savefig, format="png", dpi=DPI))


@drawing_names()
def draw_bars(path: Path, table: AblationTable) -> None:
    """Draw what each setting measured and, below, its difference to the reference with its interval.

    The paper's number is a marker: filled where it stands for the same, hollow where it is for orientation only.

    Args:
        table: At least one of its settings has numbers.
    """
    labels = [drawn_label(one.label) for one in table.measured.series]
    blocks, metrics = table.blocks, table.spec.metrics
    height = min(2 * (1.1 + 0.34 * len(labels)) * len(blocks) + 0.6, MOST_INCHES)
    figure = Figure(figsize=(10, height), layout="constrained")
    panels = figure.subplots(2 * len(blocks), len(metrics), squeeze=False)
    for i, block in enumerate(blocks):
        for j, (metric, label) in enumerate(metrics.items()):
            places = table.records[["dataset", "trained_on", "metric"]]
            records = as_dicts(table.records[(places == [*block, metric]).all(axis=1)])
            values, differences = panels[2 * i, j], panels[2 * i + 1, j]
            for place, record in enumerate(records):
                is_reference = record["setting"] == table.experiment.reference
                _draw_value(values, place, record, is_reference=is_reference)
                _draw_difference(differences, place, record, is_reference=is_reference)
            values.axvline(CHANCE, color=INK, linewidth=0.8)
            values.set_xlabel(f"{label} in percent; bars begin at chance")
            differences.axvline(0, color=INK, linewidth=0.8)
            differences.set_xlabel(f"{label} minus the reference's, in points")
            for axis in (values, differences):
                _name_rows(axis, labels if j == 0 else [""] * len(labels))
        datasets = [number for (_, other), number in table.datasets.items() if other == block]
        is_partial = table.measured.datasets.is_partial[datasets].any()
        title = f"{table.heading(block)[:200]}{f' ({PARTLY} not the published test splits)' if is_partial else ''}"
        panels[2 * i, 0].set_title(title, loc="left", fontsize=10, fontweight="bold")
    figure.legend(handles=_legend(table), loc="outside lower left", ncols=2, fontsize=8, frameon=False)
    save_figure(figure, path)


def _draw_value(axis: Axes, place: int, record: Record, *, is_reference: bool) -> None:
    mean, paper = record["measured"], record["paper"]
    if mean is None:
        at = ("axes fraction", "data")
        axis.annotate(record["state"], (0.02, place), xycoords=at, va="center", fontsize=8, color=INK)
    else:
        axis.barh(place, mean - CHANCE, left=CHANCE, height=0.66, color=REFERENCE_BAR if is_reference else BAR)
        if record["deviation"] is not None:
            axis.errorbar(mean, place, xerr=record["deviation"], color=INK, capsize=3, linewidth=1.2)
    if paper is not None:
        face = PAPER if record["is_comparable"] else "white"
        axis.plot(paper, place, "D", markersize=6, markerfacecolor=face, markeredgecolor=PAPER, zorder=4)


def _draw_difference(axis: Axes, place: int, record: Record, *, is_reference: bool) -> None:
    if is_reference:
        axis.plot(0, place, "|", markersize=14, color=REFERENCE_BAR, markeredgewidth=3)
    elif record["difference"] is not None:
        if record["low"] is not None:
            ends = (record["low"], record["high"])
            axis.plot(ends, (place, place), color=BAR, linewidth=5, solid_capstyle="butt")
        axis.plot(record["difference"], place, "o", color=INK, markersize=5)


def _name_rows(axis: Axes, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), labels, fontsize=9)
    axis.set_ylim(len(labels) - 0.4, -0.6)  # the first setting on top
    axis.grid(axis="x", alpha=0.3)
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.label.set_fontsize(9)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _legend(table: AblationTable) -> list[Line2D]:
    handles = [
        Line2D([], [], color=INK, label="standard deviation over seeds"),
        Line2D([], [], color=INK, linestyle="", marker="o", markersize=5, label="mean of the paired difference"),
        Line2D([], [], color=BAR, linewidth=5, label="95 % bootstrap interval of the paired difference"),
    ]
    comparable = set(table.records.is_comparable[table.records.paper.notna()])
    for is_comparable, label in (
        (1, "the paper's number"),
        (0, f"the paper's, of {' after '.join(ABLATED)}: for orientation only"),
    ):
        if is_comparable in comparable:
            face = PAPER if is_comparable else "white"
            handles.append(
                Line2D([], [], linestyle="", marker="D", markerfacecolor=face, markeredgecolor=PAPER, label=label)
            )
    return handles


@drawing_names()
def draw_losses(path: Path, table: AblationTable) -> bool:
    """Draw the training loss of each setting over its epochs, with a band of one standard deviation over seeds.

    Returns:
        Whether there was anything to draw.
    """
    curves = [(one.label, read_curves(table, one.name)) for one in table.measured.series]
    trained = sorted({name for _, found in curves for name in found})
    if not trained:
        return False
    figure = Figure(figsize=(10, min(4.2 * len(trained), MOST_INCHES)), layout="constrained")
    colours = colormaps["tab20" if len(curves) > 10 else "tab10"]
    styles = ("-", "--", ":")  # where there are more settings than colours
    for axis, name in zip(figure.subplots(len(trained), 1, squeeze=False)[:, 0], trained, strict=True):
        for i, (label, found) in enumerate(curves):
            if name in found:
                style = styles[i // colours.N % len(styles)]
                _draw_loss(axis, label, found[name], colours(i % colours.N), style)
        axis.set(xlabel="epoch", ylabel="training loss")
        axis.set_title(f"trained on {drawn_label(name)}", loc="left", fontsize=10, fontweight="bold")
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save_figure(figure, path)
    return True


def read_curves(table: AblationTable, setting: str) -> dict[str, list[Curve]]:
    """Read the losses of a setting from the ``metrics.csv`` of its runs: one curve per seed, by what was trained on."""
    values = table.measured.values
    runs = values[values.series == setting].drop_duplicates(["trained_on", "run"])
    found: dict[str, list[Curve]] = {}
    for trained_on, run in zip(runs.trained_on, runs.run, strict=True):
        path = Path(run) / "metrics.csv"
        if not path.exists():
            continue
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if row["metric"] == LOSS_EPOCH]
            # The last where one was logged several times.
            curve = {int(row["epoch"]): float(row["value"]) for row in rows}
        except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
            logger.warning("%s is left out of the losses, because it cannot be read: %s", shown(path), error)
            continue
        curve = {epoch: loss for epoch, loss in curve.items() if abs(loss) < LARGEST_NUMBER}  # not NaN either
        if curve:
            found.setdefault(trained_on, []).append(curve)
    return found


def _draw_loss(axis: Axes, label: str, curves: Sequence[Curve], colour: Colour, style: str) -> None:
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    means = [fmean(curve[epoch] for curve in curves) for epoch in epochs]
    counted = [epoch + 1 for epoch in epochs]  # people count epochs from 1
    label = drawn_label(label)
    named = f"{label} ({len(curves)} seeds)" if len(curves) > 1 else label
    axis.plot(counted, means, color=colour, label=named, linestyle=style, marker="." if len(epochs) < 30 else "")
    if len(curves) > 1:
        deviations = [stdev(curve[epoch] for curve in curves) for epoch in epochs]
        low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
        high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
        axis.fill_between(counted, low, high, color=colour, alpha=0.18, linewidth=0)
