"""Read sweeps, put their cells together, and write the tables and pictures in every form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.table import Table

from afr_clip.reports.compare.ablation import bootstrap, search_table, tables
from afr_clip.reports.compare.ablation.figures import draw_bars, draw_losses, names_as_they_are
from afr_clip.reports.compare.ablation.html import render_ablations
from afr_clip.reports.compare.ablation.measure import Ablation, ReadRuns, measure, read_folder
from afr_clip.reports.compare.ablation.notes import INTERVALS, PAPER, ablation_notices, table_notes
from afr_clip.reports.compare.ablation.paper import REFERENCES, settings_of
from afr_clip.reports.compare.ablation.record import Experiment, Search, Sweep, read_sweep
from afr_clip.reports.compare.ablation.search_figures import draw_best, draw_parallel
from afr_clip.reports.compare.ablation.tables import AblationTable
from afr_clip.reports.compare.gather import ComparisonError, RunResults
from afr_clip.reports.compare.text import escape_markdown, to_latex, to_markdown, to_rich
from afr_clip.reports.record.run_folder import write_csv, write_json, write_text

PAGE, DATA = "ablations.html", "ablations.json"


@dataclass(frozen=True)
class Ablations:
    """Everything that sweeps measured.

    Attributes:
        ablations: In the order of the page.
        searches: At most one.
    """

    ablations: Sequence[Ablation]
    searches: Sequence[Search]

    @cached_property
    def tables(self) -> list[AblationTable]:
        """One per experiment."""
        return [AblationTable(ablation) for ablation in self.ablations]

    def write(self, out: Path) -> Path:
        """Write data, tables, pictures and the page.

        Args:
            out: The folder; files of an earlier report are replaced.

        Returns:
            The page.
        """
        write_json(out / DATA, self.content())
        notices = [" ".join(filter(None, notice)) for notice in ablation_notices(self.ablations)]
        for table in self.tables:
            _write_table(out, table, notices)
        for search in self.searches:
            write_csv(out / "search.csv", search_table.search_header(search), search_table.search_records(search))
            if search.finished:
                with names_as_they_are():
                    draw_parallel(out / "search_parallel.png", search)
                    draw_best(out / "search_best.png", search)
        write_text(out / PAGE, render_ablations(self.ablations, self.searches, out))
        return out / PAGE

    def printed(self) -> list[Table]:
        """Return the tables for a terminal."""
        return [
            to_rich([grid], f"{table.title}, {grid.name} (percent)") for table in self.tables for grid in table.grids()
        ]

    def content(self) -> dict[str, Any]:
        """Return everything as plain values: the cells, every number, and how the intervals were made."""
        interval = {"level": bootstrap.LEVEL, "resamples": bootstrap.NUM_RESAMPLES, "seed": bootstrap.SEED}
        return {
            "bootstrap": interval,
            "experiments": [_content(table) for table in self.tables],
            "searches": [
                {
                    "objective": dict(search.objective),
                    "best": None if search.best is None else search.best.number,
                    "trials": [
                        dict(
                            zip(
                                ("number", "state", "value", "folder"),
                                (t.number, t.state, t.value, t.folder),
                                strict=True,
                            )
                        )
                        | {"params": dict(t.params)}
                        for t in search.trials
                    ],
                }
                for search in self.searches
            ],
        }


def collect(sweeps: Sequence[Sweep], others: Sequence[Experiment] = (), read: ReadRuns = read_folder) -> Ablations:
    """Put the cells of sweeps together.

    Args:
        sweeps: As they were read.
        others: Experiments that no sweep recorded.
        read: Reads the results of a folder; each folder is read once, however many experiments share it.

    Returns:
        Tables 3 to 6 first, then the readings, then what is not of the paper.

    Raises:
        ComparisonError: If cells contradict each other, or two sweeps have an experiment of the same name.
    """
    known: dict[Path, Sequence[RunResults]] = {}

    def read_once(folder: Path) -> Sequence[RunResults]:
        real = folder.resolve()
        if real not in known:
            known[real] = read(folder)
        return known[real]

    experiments = [experiment for sweep in sweeps for experiment in sweep.experiments] + list(others)
    searches = [sweep.search for sweep in sweeps if sweep.search is not None]
    _refuse_twice([experiment.name for experiment in experiments] + ["search"] * len(searches))
    order = list(REFERENCES)
    experiments.sort(key=lambda e: (order.index(e.name) if e.name in order else len(order), e.name))
    return Ablations([measure(experiment, read_once) for experiment in experiments], searches)


def paper_alone() -> Ablations:
    """Return tables 3 to 6 as the paper has them, without any measurement."""
    experiments = [Experiment(name, reference, ()) for name, reference in REFERENCES.items() if settings_of(name)]
    return Ablations([Ablation(experiment, ()) for experiment in experiments], ())


def write_ablations(sweep_dir: Path, out: Path) -> Path:
    """Write the ablations of a sweep: data, Markdown, LaTeX, CSV, pictures and one HTML page.

    Args:
        sweep_dir: The sweep folder.
        out: Where to.

    Returns:
        The page.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ComparisonError: If it is not a sweep's, or its cells contradict each other.
    """
    return collect([read_sweep(sweep_dir)]).write(out)


def _write_table(out: Path, table: AblationTable, notices: Sequence[str]) -> None:
    name, grids = table.name, table.grids()
    said = [PAPER, *([INTERVALS] if table.ablation.rows else []), *notices, *table_notes(table)]
    notes = "".join(f"\n{escape_markdown(note)}\n" for note in said)
    write_text(out / f"{name}.md", f"# {table.title}\n\nIn percent.\n\n{to_markdown(grids, 'Scored')}{notes}")
    caption = " ".join([f"{table.title.split(': ')[-1].capitalize()}, in percent.", *said])
    write_text(out / f"{name}.tex", to_latex(table.grids(with_keys=False), caption, f"tab:{name}"))
    write_csv(out / f"{name}.csv", tables.CSV_HEADER, table.records())
    if table.ablation.blocks:
        with names_as_they_are():
            draw_bars(out / f"{name}_bars.png", table)
            draw_losses(out / f"{name}_losses.png", table)


def _content(table: AblationTable) -> dict[str, Any]:
    experiment = table.ablation.experiment
    cells = [
        {"setting": row.name, "seed": cell.seed, "folder": str(cell.folder), "missing": row.missing.get(cell)}
        for row in table.ablation.rows
        for cell in row.cells
    ]
    differing: dict[str, Mapping[str, Any]] = {
        row.name: {
            key: {"setting": own, "reference": other} for key, (own, other) in table.ablation.differing(row).items()
        }
        for row in table.ablation.rows
        if row is not table.ablation.reference
    }
    return {
        "experiment": experiment.name,
        "title": table.title,
        "reference": experiment.reference,
        "overrides": list(experiment.overrides),
        "cells": cells,
        "differs_in": differing,
        "numbers": [dict(zip(tables.CSV_HEADER, record, strict=True)) for record in table.records()],
        "notes": table_notes(table),
    }


def _refuse_twice(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"A report must have one experiment of a name, got several called {', '.join(twice)}. Report them apart."
        raise ComparisonError(msg)
