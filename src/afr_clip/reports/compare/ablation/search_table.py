"""A search as a table: one row per trial."""

from collections.abc import Iterator
from typing import Any

from afr_clip.reports.compare.ablation.record import Search
from afr_clip.reports.layout.grid import UNDEFINED, Cell, Grid, Heading


def search_grid(search: Search) -> Grid:
    """Lay out the trials.

    Args:
        search: Whose trials.

    Returns:
        One row per trial, the best in bold.
    """
    names = parameters_of(search)
    headings = [Heading("Trial"), Heading("State", is_text=True), Heading("Value")]
    headings += [Heading(".".join(name.split(".")[-2:]), name, is_text=_is_text(search, name)) for name in names]
    rows = []
    for trial in search.trials:
        value = (
            Cell(UNDEFINED) if trial.value is None else Cell(f"{trial.value:.4f}", trial.value, trial is search.best)
        )
        params = [_cell(trial.params.get(name)) for name in names]
        rows.append([Cell(str(trial.number), float(trial.number)), Cell(trial.state), value, *params])
    return Grid("Trials", headings, rows)


def search_note(search: Search) -> str:
    """Say what was looked for and what was found."""
    aim = search.aim
    best = search.best
    if best is None:
        return f"Objective: {aim or 'not recorded'}. No trial has a value yet."
    params = ", ".join(f"{name}={value}" for name, value in best.params.items())
    found = f"trial {best.number}, {best.value:.4f}, with {params}"
    return f"Objective: {aim or 'not recorded'}. Best of {len(search.finished)} trials with a value: {found}."


def search_header(search: Search) -> list[str]:
    """Name the columns of `search_records`."""
    return ["number", "state", "value", "folder", *parameters_of(search)]


def search_records(search: Search) -> Iterator[tuple[object, ...]]:
    """Return the trials with all digits."""
    for trial in search.trials:
        params = [trial.params.get(name) for name in parameters_of(search)]
        yield (trial.number, trial.state, trial.value, trial.folder, *params)


def parameters_of(search: Search) -> list[str]:
    """Name everything that was tried."""
    return list(dict.fromkeys(name for trial in search.trials for name in trial.params))


def _is_text(search: Search, name: str) -> bool:
    return any(_cell(trial.params[name]).value is None for trial in search.trials if name in trial.params)


def _cell(value: Any) -> Cell:  # noqa: ANN401  # of any type a config has
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(f"{value:.4g}", float(value))
    return Cell("" if value is None else str(value))
