"""An ablation as pictures: bars with the differences to the reference, and the losses of its trainings."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean, stdev

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from afr_clip.files import written_whole
from afr_clip.reports.compare.ablation.curves import Curve, curves_of
from afr_clip.reports.compare.ablation.measure import Block, Row
from afr_clip.reports.compare.ablation.paper import paper_value
from afr_clip.reports.compare.ablation.tables import PAPER_BLOCK, SHOWN, AblationTable
from afr_clip.reports.compare.aggregate import PARTLY

CHANCE = 50.0
"""AUROC of a score that knows nothing, in percent; there the bars begin."""

BAR, REFERENCE_BAR, INK, PAPER = "#7aa6c2", "#28587b", "#1c2024", "#c4420f"
DPI = 110

Colour = tuple[float, float, float, float]
"""Red, green, blue and opacity."""


def names_as_they_are() -> AbstractContextManager[None]:
    """Draw dollar signs in names as such; otherwise what stands between two of them would be taken for a formula."""
    return rc_context({"text.parse_math": False})


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole, as PNG."""
    with written_whole(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=DPI)


def draw_bars(path: Path, table: AblationTable) -> None:
    """Draw what each setting measured and, below, its difference to the reference with its interval.

    The paper's number is a marker: filled where it stands for the same, hollow where it is for orientation only.

    Args:
        path: A PNG file.
        table: At least one of its cells has numbers.
    """
    blocks, num = table.blocks, len(table.ablation.rows)
    height = 1.1 + 0.34 * num
    figure = Figure(figsize=(10, 2 * height * len(blocks) + 0.6), layout="constrained")
    panels = figure.subplots(2 * len(blocks), len(SHOWN), squeeze=False)
    for i, block in enumerate(blocks):
        for j, (metric, label) in enumerate(SHOWN.items()):
            values, differences = panels[2 * i, j], panels[2 * i + 1, j]
            _draw_values(values, table, block, metric)
            values.set_xlabel(f"{label} in percent; bars begin at chance")
            _draw_differences(differences, table, block, metric)
            differences.set_xlabel(f"{label} minus the reference's, in points")
            for axis in (values, differences):
                _name_rows(axis, table.ablation.rows if j == 0 else [""] * num)
        panels[2 * i, 0].set_title(_title(table, block), loc="left", fontsize=10, fontweight="bold")
    figure.legend(handles=_legend(table), loc="outside lower left", ncols=2, fontsize=8, frameon=False)
    save_figure(figure, path)


def draw_losses(path: Path, table: AblationTable) -> bool:
    """Draw the training loss of each setting over its epochs, with a band of one standard deviation over seeds.

    Args:
        path: A PNG file.
        table: Whose trainings.

    Returns:
        Whether there was anything to draw.
    """
    curves = [(row, curves_of(row)) for row in table.ablation.rows]
    trained = sorted({name for _, found in curves for name in found})
    if not trained:
        return False
    figure = Figure(figsize=(10, 4.2 * len(trained)), layout="constrained")
    colours = colormaps["tab20" if len(curves) > 10 else "tab10"]
    styles = ("-", "--", ":")  # where there are more settings than colours
    for axis, name in zip(figure.subplots(len(trained), 1, squeeze=False)[:, 0], trained, strict=True):
        for i, (row, found) in enumerate(curves):
            if name in found:
                style = styles[i // colours.N % len(styles)]
                _draw_loss(axis, row.label, found[name], colours(i % colours.N), style)
        axis.set(xlabel="epoch", ylabel="training loss")
        axis.set_title(f"trained on {name}", loc="left", fontsize=10, fontweight="bold")
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save_figure(figure, path)
    return True


def _title(table: AblationTable, block: Block) -> str:
    is_partial = any(block in row.datasets and row.datasets[block].is_partial for row in table.ablation.rows)
    return f"{table.heading(block)}{f' ({PARTLY} not the published test splits)' if is_partial else ''}"


def _draw_values(axis: Axes, table: AblationTable, block: Block, metric: str) -> None:
    for place, row in enumerate(table.ablation.rows):
        spread, state = table.spread(row, block, metric)
        if spread is None:
            axis.annotate(state, (0.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=INK)
        else:
            colour = REFERENCE_BAR if row is table.ablation.reference else BAR
            mean = 100 * spread.mean
            axis.barh(place, mean - CHANCE, left=CHANCE, height=0.66, color=colour)
            if spread.deviation is not None:
                axis.errorbar(mean, place, xerr=100 * spread.deviation, color=INK, capsize=3, linewidth=1.2)
        paper = paper_value(row.name, metric)
        if paper is not None:
            face = PAPER if table.is_comparable(row, block) else "white"
            axis.plot(paper, place, "D", markersize=6, markerfacecolor=face, markeredgecolor=PAPER, zorder=4)
    axis.axvline(CHANCE, color=INK, linewidth=0.8)


def _draw_differences(axis: Axes, table: AblationTable, block: Block, metric: str) -> None:
    for place, row in enumerate(table.ablation.rows):
        paired = table.ablation.paired(row, block, metric)
        if row is table.ablation.reference:
            axis.plot(0, place, "|", markersize=14, color=REFERENCE_BAR, markeredgewidth=3)
        elif paired is not None:
            mean = 100 * paired.mean
            if paired.interval is not None:
                ends = (100 * paired.interval.low, 100 * paired.interval.high)
                axis.plot(ends, (place, place), color=BAR, linewidth=5, solid_capstyle="butt")
            axis.plot(mean, place, "o", color=INK, markersize=5)
    axis.axvline(0, color=INK, linewidth=0.8)


def _name_rows(axis: Axes, rows: Sequence[Row | str]) -> None:
    axis.set_yticks(range(len(rows)), [row if isinstance(row, str) else row.label for row in rows], fontsize=9)
    axis.set_ylim(len(rows) - 0.4, -0.6)  # the first setting on top
    axis.grid(axis="x", alpha=0.3)
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.label.set_fontsize(9)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _legend(table: AblationTable) -> list[Line2D]:
    places = [(row, block) for row in table.ablation.rows for block in table.blocks]
    has_paper = [
        table.is_comparable(*place) for place in places if paper_value(place[0].name, "image_auroc") is not None
    ]
    handles = [
        Line2D([], [], color=INK, label="standard deviation over seeds"),
        Line2D([], [], color=INK, linestyle="", marker="o", markersize=5, label="mean of the paired difference"),
        Line2D([], [], color=BAR, linewidth=5, label="95 % bootstrap interval of the paired difference"),
    ]
    for is_comparable, said in (
        (True, "the paper's number"),
        (False, f"the paper's, of {' after '.join(PAPER_BLOCK)}: for orientation only"),
    ):
        if is_comparable in has_paper:
            face = PAPER if is_comparable else "white"
            handles.append(
                Line2D([], [], linestyle="", marker="D", markerfacecolor=face, markeredgecolor=PAPER, label=said)
            )
    return handles


def _draw_loss(axis: Axes, label: str, curves: Sequence[Curve], colour: Colour, style: str) -> None:
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    means = [fmean(curve[epoch] for curve in curves) for epoch in epochs]
    said = f"{label} ({len(curves)} seeds)" if len(curves) > 1 else label
    axis.plot(epochs, means, color=colour, label=said, linestyle=style, marker="." if len(epochs) < 30 else "")
    if len(curves) > 1:
        deviations = [stdev(curve[epoch] for curve in curves) for epoch in epochs]
        low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
        high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
        axis.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
