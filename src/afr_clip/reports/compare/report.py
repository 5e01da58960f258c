"""Reports: everything that folders contain, as tables in every form, pictures, and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from afr_clip.files import first_few, for_shell, shown
from afr_clip.reports.compare import paired
from afr_clip.reports.compare.ablation import AblationTable, ReadRuns, measure, read_folder
from afr_clip.reports.compare.diagnosed import NOTE, diagnosis_grid
from afr_clip.reports.compare.figures import draw_bars, draw_losses
from afr_clip.reports.compare.notes import (
    INTERVALS,
    PAPER,
    Notice,
    ablation_notes,
    ablation_notices,
    notes,
    notices,
)
from afr_clip.reports.compare.overview import COST_NOTE, overview
from afr_clip.reports.compare.pairwise import RANKS_NOTE, Pairwise
from afr_clip.reports.compare.paper import ABLATIONS, OVER_DATASETS
from afr_clip.reports.compare.peeking import PEEKING_HEADER, PEEKING_WARNING, peeked, peeking_grid
from afr_clip.reports.compare.published import (
    CATEGORIES_NOTE,
    PUBLISHED_NOTE,
    category_grids,
    category_sources,
    published_grids,
)
from afr_clip.reports.compare.search import draw_best, draw_parallel, search_grid, search_note, search_records
from afr_clip.reports.compare.sweeps import DONE, Experiment, Search, Sweep, separate
from afr_clip.reports.compare.tables import CategoryTables, ResultsTable, aggregate, as_dicts, run_grid
from afr_clip.reports.compare.tidy import write_values
from afr_clip.reports.compare.values import ComparisonError, Measured, RecordedRun, absent_from, combine, read_runs
from afr_clip.reports.layout.grid import PARTLY, Grid, Heading, TableCell
from afr_clip.reports.layout.html import render, render_sections
from afr_clip.reports.layout.text import escape_markdown, to_latex, to_markdown, to_rich, write_records
from afr_clip.reports.pictures.drawing import drawing_names
from afr_clip.reports.pictures.encode import SHEETS, EmbeddedPicture, PictureGroup, read_pictures
from afr_clip.reports.record.provenance import checklist
from afr_clip.reports.record.run_folder import write_json, write_text

COMPARISON_PAGE, ABLATIONS_PAGE, ABLATIONS_DATA = "report.html", "ablations.html", "ablations.json"

TOGETHER_PAGE, FIGURES = "paper.html", "figures"
"""The page that holds everything, and the folder next to it with the figures of ``afr-clip figure``."""

LEGEND = f"{PARTLY} Not the published test split."

CAPTIONS = {
    "bars": "What each setting measured, and its difference to the reference",
    "losses": "Training loss, with a band of one standard deviation over seeds",
    "parallel": "One line per trial through its parameters; the best one is wide",
    "best": "The value of each trial and the best so far",
}
"""What the pictures show, by the end of their file's name."""


def report_on(folders: Sequence[Path]) -> list["Ablations | Comparison"]:
    """Combine the contents of folders.

    Args:
        folders: Run folders, sweep folders, or folders that contain some; none gives the paper's tables alone.

    Returns:
        The ablations, if there are any, then tables 1 and 2, unless all runs are cells of ablations. Each names what
        could not be read.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ComparisonError: If nothing can be read, or runs contradict each other.
    """
    if not folders:
        return [paper_alone(), Comparison([], aggregate([]))]
    found = separate(folders)
    ablations = collect(found.sweeps, found.experiments, faults=found.faults)
    reports: list[Ablations | Comparison] = [ablations] if ablations.tables or ablations.searches else []
    if found.runs or not (reports or found.faults):
        reports.append(Comparison(found.runs, aggregate(found.runs), found.faults))
    if not reports:
        raise ComparisonError("\n".join(found.faults))
    if isinstance(reports[0], Comparison) and not reports[0].measured.series:
        raise ComparisonError("\n".join([_nothing_scored(found.runs), *found.faults]))
    return reports


def _nothing_scored(runs: Sequence[RecordedRun]) -> str:
    if not runs:
        return "No cell of the sweep has results yet. Run the sweep again, or read cell.log in the folder of a cell."
    reasons = first_few([f"{title} ({shown(reason)})" for title, reason in absent_from(runs).items()])
    return (
        f"Nothing was scored in {first_few([shown(run.folder) for run in runs])}{f': {reasons}' if reasons else ''}. "
        f"Score a dataset with afr-clip evaluate {for_shell(f'checkpoint={runs[0].folder}')} dataset=NAME."
    )


def write_table(out: Path, table: ResultsTable | AblationTable, remarks: Sequence[str]) -> None:
    """Write a table as Markdown, LaTeX and CSV; the LaTeX has remarks and provenance in a comment."""
    spec = table.spec
    below = "".join(f"\n{escape_markdown(remark)}\n" for remark in remarks)
    text = f"# {escape_markdown(spec.title)}\n\nIn percent.\n\n{to_markdown(table.grids(), table.block)}{below}"
    write_text(out / f"{spec.stem}.md", text)
    labels = [f"Setting: {one.label}" for one in table.measured.series]
    comments = [*labels, *(f"{term}: {fact}" for term, fact in checklist(manifests_of(table.measured))), *remarks]
    grids = table.print_grids()
    cells = (cell.shown for grid in grids for row in (*grid.body, *grid.foot) for cell in row)
    caption = f"{spec.caption} {LEGEND}" if any(PARTLY in shown for shown in cells) else spec.caption
    write_text(out / f"{spec.stem}.tex", to_latex(grids, caption, f"tab:{spec.stem}", comments))
    write_records(out / f"{spec.stem}.csv", table.records, table.header, table.renamed)


def manifests_of(*measured: Measured) -> list[Mapping[str, Any]]:
    """Return the manifests of all runs that measured something, each once."""
    runs = (run for one in measured for series in one.series for run in series.runs)
    return list({run.folder: run.manifest for run in runs if run.setting is not None}.values())


def _left_out(faults: Sequence[str]) -> list[Notice]:
    return [("Left out.", fault) for fault in faults]


def _sentences(found: Sequence[Notice]) -> list[str]:
    return [" ".join(filter(None, notice)) for notice in found]


@dataclass(frozen=True)
class Comparison:
    """Runs next to tables 1 and 2 of the paper.

    Attributes:
        faults: What could not be read, in a sentence each.
    """

    runs: Sequence[RecordedRun]
    measured: Measured
    faults: Sequence[str] = ()

    @property
    def all_measured(self) -> list[Measured]:
        """Everything it stands on."""
        return [self.measured]

    @cached_property
    def tables(self) -> list[ResultsTable]:
        """Tables 1 and 2."""
        return [ResultsTable(spec, self.measured) for spec in OVER_DATASETS]

    @cached_property
    def categories(self) -> CategoryTables:
        """Everything measured, by category."""
        return CategoryTables(self.measured)

    @cached_property
    def pairwise(self) -> Pairwise:
        """Its settings against each other."""
        return Pairwise(self.measured)

    @cached_property
    def peeked(self) -> pd.DataFrame:
        """What choosing an epoch on a target would have gained, of the runs whose every epoch was scored."""
        return peeked(self.measured)

    def write(self, out: Path) -> Path:
        """Write every table and the page, in place of those of an earlier report."""
        warnings = _sentences(self._notices())
        remarks = [*warnings, *notes(self.measured, self.runs)]
        for table in self.tables:
            write_table(out, table, remarks)
        write_records(out / "categories.csv", self.categories.records, self.categories.header)
        parts = ["# Measured, by category\n\n"]
        parts.append("In percent.\n" if self.measured.series else "Nothing has been measured yet.\n")
        outside = self.categories.outside()
        grids = [outside] if outside.body else []
        for grid in [*grids, *self.categories.grids()]:
            parts.append(f"\n## {escape_markdown(grid.name)}\n\n{to_markdown([grid])}")
        write_text(out / "categories.md", "".join(parts))
        write_records(out / "pairwise.csv", self.pairwise.records, self.pairwise.header)
        if not self.peeked.empty:
            write_records(out / "peeking.csv", self.peeked, PEEKING_HEADER)
        write_text(out / COMPARISON_PAGE, render("comparison.html", **self.parts(out)))
        return out / COMPARISON_PAGE

    def printed(self) -> list[Table]:
        """Return the tables for a terminal, where one fits for each setting; without any, the paper's."""
        groups = [(f", {one.label}", self.measured.only(one)) for one in self.measured.series] or [("", self.measured)]
        tables = [
            to_rich(ResultsTable(spec, measured).grids(only_measured=True), f"{spec.title}{label} (percent)")
            for spec in OVER_DATASETS
            for label, measured in groups
        ]
        outside = self.categories.outside()
        return [*tables, to_rich([outside], outside.name)] if outside.body else tables

    def _notices(self) -> list[Notice]:
        return [*_left_out(self.faults), *notices(self.measured)]

    def parts(self, _out: Path) -> dict[str, Any]:
        """Return what the page shows."""
        return self._parts

    @cached_property
    def _parts(self) -> dict[str, Any]:
        outside = self.categories.outside()
        glance, peeking = (overview(self.measured) if self.measured.series else None), peeking_grid(self.peeked)
        diagnosis = diagnosis_grid(self.measured)
        links = [("glance", glance.name)] if glance else []
        links += [(table.spec.stem, table.spec.title) for table in self.tables]
        links += [("outside", outside.name)] if outside.body else []
        pairs, ranks = self.pairwise.grids(), self.pairwise.ranks()
        links += [("pairwise", "Settings against each other")] if len(self.measured.series) > 1 else []
        others = published_grids(set(self.measured.datasets.target)) if self.measured.series else []
        links += [("published", "Published by others")] if others else []
        links += [("text", diagnosis.name)] if diagnosis else []
        links += [("peeking", peeking.name)] if peeking else []
        links += [("categories", "By category"), ("pictures", "Pictures"), ("runs", "Runs")] if self.runs else []
        facts = checklist(manifests_of(self.measured))
        links += [("again", "Reproducibility")] if facts else []
        num = len(self.measured.datasets)
        counted = f"Runs: {len(self.runs)}; settings: {len(self.measured.series)}; measured datasets: {num}"
        return {
            "title": f"AFR-CLIP: the paper's tables{' and what was measured' if self.runs else ''}",
            "subtitle": counted if self.runs else "No run was given.",
            "notices": self._notices(),
            "links": links,
            "notes": notes(self.measured, self.runs),
            "glance": glance,
            "cost_note": COST_NOTE,
            "tables": self.tables,
            "outside": outside,
            "pairs": pairs,
            "pairs_note": self.pairwise.note if len(self.measured.series) > 1 else "",
            "ranks": ranks,
            "ranks_note": RANKS_NOTE,
            "others": others,
            "others_note": PUBLISHED_NOTE,
            "diagnosis": diagnosis,
            "diagnosis_note": NOTE,
            "peeking": peeking,
            "peeking_warning": PEEKING_WARNING,
            "categories": self.categories.grids(),
            "others_by_category": category_grids(self.categories),
            "others_by_category_note": CATEGORIES_NOTE,
            "others_sources": category_sources(set(self.measured.datasets.target)),
            "pictures": self.pictures(),
            "runs": run_grid(self.runs, self.measured) if self.runs else None,
            "facts": facts,
        }

    def pictures(self) -> list[PictureGroup]:
        """Read the heat maps of everything measured, of the lowest seed if there are several."""
        groups = []
        for number, name, _ in self.categories.named():
            dataset = self.measured.datasets.loc[number]
            heading = name if len(dataset.seeds) == 1 else f"{name}, seed {dataset.seed}"
            named = Path("figures", dataset["name"])
            sheets = {str(named / f"{sheet}.png"): SHEETS[sheet] for sheet in ("highest", "worst_ranked")}
            groups.append(read_pictures(heading, Path(dataset.run), sheets))
        return [(heading, pictures) for heading, pictures in groups if pictures]


def write_reports(reports: Sequence["Ablations | Comparison"], out: Path, *, with_parquet: bool = False) -> list[Path]:
    """Write reports with all values as one table, and return the pages.

    If there are several reports, or figures, one more page combines them.

    Raises:
        NoParquetError: If pyarrow is not installed.
    """
    pages = [report.write(out) for report in reports]
    measured = [one for report in reports for one in report.all_measured]
    has_runs = any(one.series for one in measured)
    if has_runs and (len(reports) > 1 or any((out / FIGURES).glob("figure*.png"))):
        pages.append(write_together(reports, out))
    write_values(measured, out, with_parquet=with_parquet)
    return pages


def write_together(reports: Sequence["Ablations | Comparison"], out: Path) -> Path:
    """Write one page with the tables of all reports, which were written to ``out``, and the figures that lie there."""
    pages = [(report, report.parts(out)) for report in reversed(reports)]  # tables 1 and 2 first
    links = [link for _, parts in pages for link in parts["links"]]
    found = sorted((out / FIGURES).glob("figure*.png"))
    captions = {path.name: path.stem.replace("figure", "Figure ").replace("_", ": ", 1) for path in found}
    figures = read_pictures("Figures", out / FIGURES, captions)[1]
    sections = [
        render_sections(f"{'ablation' if isinstance(report, Ablations) else 'comparison'}_sections.html", **parts)
        for report, parts in pages
    ]
    page = render(
        "together.html",
        title="AFR-CLIP: tables and figures of the paper, and what was measured",
        subtitle=". ".join(parts["subtitle"] for _, parts in pages),
        notices=list(dict.fromkeys(notice for _, parts in pages for notice in parts["notices"])),
        links=[("figures", "Figures"), *links] if figures else links,
        notes=list(dict.fromkeys(note for _, parts in pages for note in parts["notes"])),
        figures=figures,
        sections=sections,
    )
    write_text(out / TOGETHER_PAGE, page)
    return out / TOGETHER_PAGE


def compare(folders: Sequence[Path]) -> Comparison:
    """Read runs and put them next to the paper's tables, which stand alone without any.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ComparisonError: If a file is not a run's, or runs contradict each other.
    """
    runs = read_runs(folders)
    return Comparison(runs, aggregate(runs))


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write tables 1 and 2 with what runs measured, see `compare`, and return the page."""
    return compare(folders).write(out)


@dataclass(frozen=True)
class Ablations:
    """Everything that sweeps measured: tables in the order of the page, and at most one search.

    Attributes:
        faults: What could not be read, in a sentence each.
    """

    tables: Sequence[AblationTable]
    searches: Sequence[Search]
    faults: Sequence[str] = ()

    @property
    def all_measured(self) -> list[Measured]:
        """Everything it stands on."""
        return [table.measured for table in self.tables]

    def write(self, out: Path) -> Path:
        """Write data, tables, pictures and the page, in place of those of an earlier report."""
        write_json(out / ABLATIONS_DATA, self.content())
        warnings = _sentences(self._notices())
        for table in self.tables:
            remarks = [PAPER, *([INTERVALS] if table.measured.series else []), *warnings, *ablation_notes(table)]
            write_table(out, table, remarks)
            if table.datasets:
                with drawing_names():
                    draw_bars(out / f"{table.spec.stem}_bars.png", table)
                    draw_losses(out / f"{table.spec.stem}_losses.png", table)
        for search in self.searches:
            records = search_records(search)
            write_records(out / "search.csv", records, list(records.columns))
            if search.finished:
                with drawing_names():
                    draw_parallel(out / "search_parallel.png", search)
                    draw_best(out / "search_best.png", search)
        write_text(out / ABLATIONS_PAGE, render("ablation.html", **self.parts(out)))
        return out / ABLATIONS_PAGE

    def printed(self) -> list[Table]:
        """Return the tables for a terminal."""
        return [
            to_rich([grid], f"{table.spec.title}, {grid.name} (percent)")
            for table in self.tables
            for grid in table.grids()
        ]

    def content(self) -> dict[str, Any]:
        """Return everything as plain values: the cells, every number, and how the intervals were made."""
        return {
            "bootstrap": {"level": paired.LEVEL, "resamples": paired.NUM_RESAMPLES, "seed": paired.SEED},
            "experiments": [_content(table) for table in self.tables],
            "searches": [
                {
                    "objective": dict(search.objective),
                    "best": None if search.best is None else search.best.number,
                    "trials": [
                        {"number": t.number, "state": t.state, "value": t.value, "folder": t.folder}
                        | {"params": dict(t.params)}
                        for t in search.trials
                    ],
                }
                for search in self.searches
            ],
        }

    def cells(self) -> Grid:
        """Lay out the state and the folder of every cell."""
        rows = [
            [
                TableCell(table.spec.name),
                TableCell(one.name),
                TableCell(str(cell.seed), float(cell.seed)),
                TableCell(table.missing.get(cell, DONE)),
                TableCell(shown(cell.folder)),
                TableCell(table.commits.get(cell, "")),
            ]
            for table in self.tables
            for one in table.measured.series
            for cell in table.cells(one.name)
        ]
        words = ("Experiment", "Setting", "Seed", "State", "Folder", "Commit")
        return Grid("Cells", [Heading(word, is_text=word != "Seed") for word in words], rows)

    def _notices(self) -> list[Notice]:
        return [*_left_out(self.faults), *ablation_notices(self.tables)]

    def parts(self, folder: Path) -> dict[str, Any]:
        """Return what the page shows; its pictures lie in the folder."""
        cells = [cell for table in self.tables for cell in table.experiment.cells]
        has_cells = any(table.measured.series for table in self.tables)
        links = [(table.spec.stem, table.spec.title) for table in self.tables]
        links += [("search", "Search")] if self.searches else []
        links += [("cells", "Cells")] if has_cells else []
        facts = checklist(manifests_of(*self.all_measured))
        links += [("again_ablations", "Reproducibility of the ablations")] if facts else []
        counted = (
            f"Experiments: {len(self.tables)}; cells: {len(cells)} in {len({c.folder.resolve() for c in cells})} run "
        )
        counted += f"folders; without numbers: {sum(len(table.missing) for table in self.tables)}"
        counted += f"; trials: {sum(len(search.trials) for search in self.searches)}" if self.searches else ""
        return {
            "title": f"AFR-CLIP: ablations{' of the paper and what was measured' if has_cells else ''}",
            "subtitle": counted if cells or self.searches else "No run was given.",
            "notices": self._notices(),
            "links": links,
            "notes": [PAPER, INTERVALS] if has_cells else [PAPER],
            "tables": [
                (table, ablation_notes(table), _pictures(folder, table.spec.stem, table.spec.title, ("bars", "losses")))
                for table in self.tables
            ],
            "searches": [
                (search_grid(search), search_note(search), _pictures(folder, "search", "Search", ("parallel", "best")))
                for search in self.searches
            ],
            "cells": self.cells(),
            "facts": facts,
        }


def _pictures(folder: Path, name: str, heading: str, kinds: Sequence[str]) -> list[EmbeddedPicture]:
    return read_pictures(heading, folder, {f"{name}_{kind}.png": CAPTIONS[kind] for kind in kinds})[1]


def _content(table: AblationTable) -> dict[str, Any]:
    differing: dict[str, Mapping[str, Any]] = {
        one.name: {key: {"setting": own, "reference": other} for key, (own, other) in table.differing(one).items()}
        for one in table.measured.series
        if one is not table.reference
    }
    return {
        "experiment": table.spec.name,
        "title": table.spec.title,
        "reference": table.experiment.reference,
        "overrides": list(table.experiment.overrides),
        "cells": [
            {"setting": one.name, "seed": cell.seed, "folder": shown(cell.folder), "missing": table.missing.get(cell)}
            for one in table.measured.series
            for cell in table.cells(one.name)
        ],
        "differs_in": differing,
        "numbers": as_dicts(table.records),
        "notes": ablation_notes(table),
    }


def collect(
    sweeps: Sequence[Sweep],
    others: Sequence[Experiment] = (),
    read: ReadRuns = read_folder,
    faults: list[str] | None = None,
) -> Ablations:
    """Combine the cells of sweeps.

    Args:
        faults: Takes a sentence for each experiment whose cells contradict each other; without it, the first is raised.
        read: Reads the results of a folder; each folder is read once, however many experiments share it.

    Returns:
        Tables 3 to 6 first, then the readings, then what is not of the paper.

    Raises:
        ComparisonError: If cells contradict each other, or two sweeps have an experiment of the same name.
    """
    known: dict[Path, Sequence[RecordedRun]] = {}

    def read_once(folder: Path) -> Sequence[RecordedRun]:
        real = folder.resolve()
        if real not in known:
            known[real] = read(folder)
        return known[real]

    experiments = [experiment for sweep in sweeps for experiment in sweep.experiments] + list(others)
    searches = [sweep.search for sweep in sweeps if sweep.search is not None]
    names = [experiment.name for experiment in experiments]
    twice = sorted({name for name in names if names.count(name) > 1}) + ["search"] * (len(searches) > 1)
    if twice:
        msg = f"Experiments of a report must have different names, got {', '.join(twice)} twice. Report them apart."
        raise ComparisonError(msg)
    order = list(ABLATIONS)
    experiments.sort(key=lambda e: (order.index(e.name) if e.name in order else len(order), e.name))
    tables = []
    for experiment in experiments:
        try:
            tables.append(measure(experiment, read_once))
        except ComparisonError as error:
            if faults is None:
                raise
            faults.append(f"{experiment.name}: {error}")
    return Ablations(tables, searches, faults or ())


def paper_alone() -> Ablations:
    """Return tables 3 to 6 as the paper has them, without any measurement."""
    specs = [spec for spec in ABLATIONS.values() if spec.settings]
    tables = [AblationTable(s, Experiment(s.name, s.reference, ()), combine([]), {}, {}) for s in specs]
    return Ablations(tables, ())
