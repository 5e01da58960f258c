"""A search as a table, as a line per trial through all parameters, and as the best value so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from afr_clip.files import counted
from afr_clip.reports.compare.figures import INK, MOST_INCHES, PAPER, drawing_names, drawn_label, save_figure
from afr_clip.reports.compare.sweeps import Search
from afr_clip.reports.layout.grid import UNDEFINED, Grid, Heading, TableCell, number_cell
from afr_clip.reports.record.schema import Trial

COLOURS = "viridis"
WITHOUT_VALUE = "#b9bfc5"
COLUMNS = ("number", "state", "value", "folder")


def search_records(search: Search) -> pd.DataFrame:
    """Return the trials with all digits, one per row, and a column for each parameter."""
    rows = [{name: getattr(trial, name) for name in COLUMNS} | dict(trial.params) for trial in search.trials]
    return pd.DataFrame(rows, columns=[*COLUMNS, *search.parameters], dtype=object)


def search_grid(search: Search) -> Grid:
    """Lay out one row per trial, the best in bold."""
    tried = {name: [_cell(trial.params.get(name)) for trial in search.trials] for name in search.parameters}
    headings = [Heading("Trial"), Heading("State", is_text=True), Heading("Value")]
    for name in search.parameters:
        is_text = any(_cell(trial.params[name]).value is None for trial in search.trials if name in trial.params)
        headings.append(Heading(".".join(name.split(".")[-2:]), name, is_text=is_text))
    rows = []
    for i, trial in enumerate(search.trials):
        value = TableCell(UNDEFINED)
        if trial.value is not None:
            value = TableCell(f"{trial.value:.4f}", trial.value, trial is search.best)
        rows.append(
            [number_cell(trial.number, ""), TableCell(trial.state), value, *(cells[i] for cells in tried.values())]
        )
    return Grid("Trials", headings, rows)


def _cell(value: Any) -> TableCell:  # noqa: ANN401  # of any type a config has
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_cell(value, ".4g")
    return TableCell("" if value is None else str(value))


def search_note(search: Search) -> str:
    """Write the objective and the best trial."""
    objective = f"Objective: {search.aim or 'not recorded'}."
    best = search.best
    if best is None:
        return f"{objective} No trial has a value yet."
    params = ", ".join(f"{name}={value}" for name, value in best.params.items())
    found = f"trial {best.number}, {best.value:.4f}, with {params}"
    return f"{objective} Best of {counted(len(search.finished), 'trial')} with a value: {found}."


@dataclass(frozen=True)
class Axis:
    """One upright line of parallel coordinates.

    Attributes:
        is_logarithmic: Whether equal ratios are equally far apart.
    """

    label: str
    values: Sequence[Any]
    is_logarithmic: bool = False

    @property
    def is_numeric(self) -> bool:
        """Whether values are placed by size; otherwise they are evenly spaced."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    @property
    def levels(self) -> list[Any]:
        """The different values from bottom to top."""
        if self.is_numeric:
            return sorted(set(self.values))
        return sorted({_written(value): value for value in self.values}.values(), key=_written)

    def place(self, value: Any) -> float:  # noqa: ANN401  # of any type a config has
        """Return the height of a value on the axis, from 0 to 1; in the middle if it is the only one."""
        levels = self.levels
        if len(levels) < 2:
            return 0.5
        if not self.is_numeric:
            return [_written(level) for level in levels].index(_written(value)) / (len(levels) - 1)
        low, high, here = map(self._scaled, (levels[0], levels[-1], value))
        return (here - low) / (high - low) if high > low else 0.5  # whole numbers may be too close for a float

    def _scaled(self, value: float | int) -> float:
        return math.log(value) if self.is_logarithmic and min(self.values) > 0 else float(value)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and their labels: the ends of a range and its middle, or every value that is not a number."""
        levels = self.levels
        if not self.is_numeric or len(levels) < 2:
            return [(self.place(level), _written(level)) for level in levels]
        low, high = self._scaled(levels[0]), self._scaled(levels[-1])
        middle = (low + high) / 2
        middle = math.exp(middle) if self.is_logarithmic and min(self.values) > 0 else middle
        return [(0.0, _written(levels[0])), (0.5, _written(middle)), (1.0, _written(levels[-1]))]


@drawing_names()
def draw_parallel(path: Path, search: Search) -> None:
    """Draw one line per trial through its parameters, in the colour of its value; the best one stands out.

    At least one trial must have a value.
    """
    axes = parameter_axes(search)
    names = list(axes)
    values = Axis("value", [trial.value for trial in search.finished])
    figure = Figure(figsize=(min(max(8.0, 1.9 * (len(names) + 1)), MOST_INCHES), 4.8), layout="constrained")
    axis = figure.subplots()
    colours = colormaps[COLOURS]
    best = search.best
    for trial in sorted(search.trials, key=lambda t: (t.value is not None, t is best)):
        places = [axes[n].place(trial.params[n]) if n in trial.params else math.nan for n in names]
        if trial.value is None:
            axis.plot(range(len(names)), places, color=WITHOUT_VALUE, linewidth=1, linestyle=":")
        else:
            wide = 3.5 if trial is best else 1.4
            heights = [*places, values.place(trial.value)]
            axis.plot(range(len(heights)), heights, color=colours(values.place(trial.value)), linewidth=wide, alpha=0.9)
    for i, one in enumerate([*axes.values(), values]):
        axis.axvline(i, color=INK, linewidth=1)
        for height, label in one.ticks:
            axis.annotate(label, (i, height), xytext=(5, 0), textcoords="offset points", fontsize=8, va="center",
                          bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8})  # fmt: skip
    labels = [f"{one.label}\n(log)" if one.is_logarithmic else one.label for one in (*axes.values(), values)]
    axis.set_xticks(range(len(labels)), labels, fontsize=9)
    axis.set(xlim=(-0.1, len(names) + 0.35), ylim=(-0.06, 1.06), yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(_title(search), loc="left", fontsize=10, fontweight="bold")
    save_figure(figure, path)


@drawing_names()
def draw_best(path: Path, search: Search) -> None:
    """Draw the value of every trial and the best one so far; at least one trial must have a value."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    numbers = [trial.number for trial in search.finished]
    axis.plot(numbers, _values(search.finished), "o", color=INK, alpha=0.55, label="trial")
    axis.step(numbers, best_so_far(search), where="post", color=PAPER, linewidth=2, label="best so far")
    axis.set(xlabel="trial", ylabel="value")
    axis.set_title(_title(search), loc="left", fontsize=10, fontweight="bold")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save_figure(figure, path)


def parameter_axes(search: Search) -> dict[str, Axis]:
    """Lay out one axis per parameter, labelled with the last two parts of its key."""
    return {
        name: Axis(
            ".\n".join(drawn_label(part) for part in name.split(".")[-2:]),
            [trial.params[name] for trial in search.trials if name in trial.params],
            name in search.logarithmic,
        )
        for name in search.parameters
    }


def best_so_far(search: Search) -> list[float]:
    """Return the best value up to each trial that has one."""
    return list(accumulate(_values(search.finished), min if search.is_minimised else max))


def _values(trials: Sequence[Trial]) -> list[float]:
    return [trial.value for trial in trials if trial.value is not None]


def _title(search: Search) -> str:
    return f"{len(search.finished)} of {counted(len(search.trials), 'trial')} with a value" + (
        f"; {search.aim[:200]}" if search.aim else ""
    )


def _written(value: Any) -> str:  # noqa: ANN401  # of any type a config has
    return f"{value:.3g}" if isinstance(value, float) else drawn_label(str(value))
