"""A search as pictures: a line per trial through all parameters, and the best value so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from afr_clip.reports.compare.ablation.figures import INK, PAPER, save_figure
from afr_clip.reports.compare.ablation.record import Search, Trial

COLOURS = "viridis"
WITHOUT_VALUE = "#b9bfc5"


@dataclass(frozen=True)
class Axis:
    """One upright line of parallel coordinates.

    Attributes:
        label: What it shows.
        values: Everything that was tried.
        is_logarithmic: Whether equal ratios are equally far apart.
    """

    label: str
    values: Sequence[Any]
    is_logarithmic: bool = False

    @property
    def is_numeric(self) -> bool:
        """Whether the values have places of their own; anything else is evenly spaced."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    @property
    def levels(self) -> list[Any]:
        """The different values from bottom to top."""
        if self.is_numeric:
            return sorted(set(self.values))
        return sorted({_said(value): value for value in self.values}.values(), key=_said)

    def place(self, value: Any) -> float:  # noqa: ANN401  # of any type a config has
        """Return how high a value stands, from 0 to 1; in the middle where there is no other."""
        levels = self.levels
        if len(levels) < 2:
            return 0.5
        if not self.is_numeric:
            return [_said(level) for level in levels].index(_said(value)) / (len(levels) - 1)
        low, high, here = map(self._scaled, (levels[0], levels[-1], value))
        return (here - low) / (high - low)

    def _scaled(self, value: float | int) -> float:
        return math.log(value) if self.is_logarithmic and min(self.values) > 0 else float(value)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and what stands there: the ends of a range and its middle, or every value that is no number."""
        levels = self.levels
        if not self.is_numeric or len(levels) < 2:
            return [(self.place(level), _said(level)) for level in levels]
        low, high = self._scaled(levels[0]), self._scaled(levels[-1])
        middle = (low + high) / 2
        middle = math.exp(middle) if self.is_logarithmic and min(self.values) > 0 else middle
        return [(0.0, _said(levels[0])), (0.5, _said(middle)), (1.0, _said(levels[-1]))]


def draw_parallel(path: Path, search: Search) -> None:
    """Draw one line per trial through its parameters, in the colour of its value; the best one stands out.

    Args:
        path: A PNG file.
        search: At least one of its trials has parameters and a value.
    """
    axes = parameter_axes(search)
    names = list(axes)
    values = Axis("value", [trial.value for trial in search.finished])
    figure = Figure(figsize=(max(8.0, 1.9 * (len(names) + 1)), 4.8), layout="constrained")
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
        for height, said in one.ticks:
            axis.annotate(said, (i, height), xytext=(5, 0), textcoords="offset points", fontsize=8, va="center",
                          bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8})  # fmt: skip
    labels = [f"{one.label}\n(log)" if one.is_logarithmic else one.label for one in (*axes.values(), values)]
    axis.set_xticks(range(len(labels)), labels, fontsize=9)
    axis.set(xlim=(-0.1, len(names) + 0.35), ylim=(-0.06, 1.06), yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(_title(search), loc="left", fontsize=10, fontweight="bold")
    save_figure(figure, path)


def draw_best(path: Path, search: Search) -> None:
    """Draw the value of every trial and the best one so far.

    Args:
        path: A PNG file.
        search: At least one of its trials has a value.
    """
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    trials = search.finished
    axis.plot([t.number for t in trials], values_of(trials), "o", color=INK, alpha=0.55, label="trial")
    best = best_so_far(search, trials)
    axis.step([t.number for t in trials], best, where="post", color=PAPER, linewidth=2, label="best so far")
    axis.set(xlabel="trial", ylabel="value")
    axis.set_title(_title(search), loc="left", fontsize=10, fontweight="bold")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save_figure(figure, path)


def parameter_axes(search: Search) -> dict[str, Axis]:
    """Lay out one axis per parameter, named by the last two parts of its key."""
    names = dict.fromkeys(name for trial in search.trials for name in trial.params)
    return {
        name: Axis(
            ".\n".join(name.split(".")[-2:]),
            [trial.params[name] for trial in search.trials if name in trial.params],
            name in search.logarithmic,
        )
        for name in names
    }


def best_so_far(search: Search, trials: Sequence[Trial]) -> list[float]:
    """Return the best value up to each trial."""
    better = min if search.is_minimised else max
    return list(accumulate(values_of(trials), better))


def values_of(trials: Sequence[Trial]) -> list[float]:
    """Return the values of those trials that have one."""
    return [trial.value for trial in trials if trial.value is not None]


def _title(search: Search) -> str:
    return f"{len(search.finished)} of {len(search.trials)} trials with a value" + (
        f"; {search.aim}" if search.aim else ""
    )


def _said(value: Any) -> str:  # noqa: ANN401  # of any type a config has
    return f"{value:.3g}" if isinstance(value, float) else str(value)
