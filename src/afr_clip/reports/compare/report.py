"""Reports: everything that folders contain, as tables in every form, pictures, and a page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from afr_clip.files import first_few, for_shell, shown
from afr_clip.reports.compare import paired
from afr_clip.reports.compare.ablation import AblationTable, ReadRuns, measure, read_folder
from afr_clip.reports.compare.figures import draw_bars, draw_losses
from afr_clip.reports.compare.notes import INTERVALS, PAPER, Notice, ablation_notes, ablation_notices, notes, notices
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
from afr_clip.reports.diagnosis import NOTE, diagnosis_grid
from afr_clip.reports.layout.grid import PARTLY, Grid, Heading, TableCell, number_cell
from afr_clip.reports.layout.html import Page, Section
from afr_clip.reports.layout.text import escape_markdown, to_latex, to_markdown, to_rich, write_records
from afr_clip.reports.pictures.encode import SHEETS, EmbeddedPicture, PictureGroup, read_pictures
from afr_clip.reports.record.provenance import checklist
from afr_clip.reports.record.run_folder import write_json, write_text

COMPARISON_PAGE, ABLATIONS_PAGE, ABLATIONS_DATA = "report.html", "ablations.html", "ablations.json"

TOGETHER_PAGE, FIGURES = "paper.html", "figures"
"""The page that holds everything, and the folder next to it with the figures of ``afr-clip figure``."""

ABOUT_TABLES = (
    "Tables 1 and 2 of the paper, in percent; higher is better. Next to the paper's numbers is what was measured, each "
    "column under the setting that gave it. Bold is the best of the paper. Click on a column's name to sort by it."
)
ABOUT_ABLATIONS = (
    "Ablations in percent; higher is better. Each setting is held against one of them, the reference. Click on a "
    "column's name to sort by it. A CSV next to this page has every metric with all digits."
)
ABOUT_TOGETHER = (
    "Tables in percent; higher is better. Next to the paper's numbers is what was measured. Click on a column's name "
    "to sort by it."
)
ORIGIN = "Where these numbers come from"

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

    def write(self, out: Path) -> Page:
        """Write every table and the page, in place of those of an earlier report."""
        page = self._page(out / COMPARISON_PAGE)
        remarks = [*(" ".join(filter(None, notice)) for notice in page.notices), *page.notes]
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
        page.write()
        return page

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

    def _page(self, path: Path) -> Page:
        num = len(self.measured.datasets)
        counted = f"Runs: {len(self.runs)}; settings: {len(self.measured.series)}; measured datasets: {num}"
        return Page(
            path,
            title=f"AFR-CLIP: the paper's tables{' and what was measured' if self.runs else ''}",
            subtitle=counted if self.runs else "No run was given.",
            about=ABOUT_TABLES,
            notices=[*_left_out(self.faults), *notices(self.measured)],
            notes=notes(self.measured, self.runs),
            sections=list(self._sections()),
        )

    def _sections(self) -> Iterator[Section]:
        series = self.measured.series
        if series:
            glance = overview(self.measured)
            yield Section("glance", glance.name, [("table", glance), ("notes", [COST_NOTE])])
        for table in self.tables:
            yield Section(table.spec.stem, table.spec.title, [("titled", table.grids())])
        outside = self.categories.outside()
        if outside.body:
            yield Section("outside", outside.name, [("table", outside)])
        if len(series) > 1:
            ranks = self.pairwise.ranks()
            ranked = [("paragraph", RANKS_NOTE), ("table", ranks)] if ranks else []
            pairs = [("paragraph", self.pairwise.note), ("folded", self.pairwise.grids())]
            yield Section("pairwise", "Settings against each other", [*ranked, *pairs])
        others = published_grids(set(self.measured.datasets.target)) if series else []
        if others:
            yield Section("published", "Published by others", [("paragraph", PUBLISHED_NOTE), ("titled", others)])
        if diagnosis := diagnosis_grid(self.measured):
            yield Section("text", diagnosis.name, [("paragraph", NOTE), ("table", diagnosis)])
        if peeking := peeking_grid(self.peeked):
            yield Section("peeking", peeking.name, [("notices", [PEEKING_WARNING]), ("table", peeking)])
        if self.runs:
            yield Section("categories", "By category", self._category_blocks())
            pictures = ("picture_groups", self.pictures(), "These runs drew no pictures.")
            yield Section("pictures", "Pictures", [pictures])
            yield Section("runs", ORIGIN, [("table", run_grid(self.runs, self.measured))], link="Runs")
        if facts := checklist(manifests_of(self.measured)):
            yield Section("again", "Reproducibility", [("facts", facts)])

    def _category_blocks(self) -> list[tuple[Any, ...]]:
        measured, published = ("folded", self.categories.grids()), category_grids(self.categories)
        if not published:
            return [measured]
        words = [("heading", "Next to what repositories publish"), ("paragraph", CATEGORIES_NOTE)]
        sources = ("notes", category_sources(set(self.measured.datasets.target)))
        return [measured, *words, sources, ("folded", published)]

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
    """
    pages = [report.write(out) for report in reports]
    measured = [one for report in reports for one in report.all_measured]
    has_runs = any(one.series for one in measured)
    if has_runs and (len(pages) > 1 or any((out / FIGURES).glob("figure*.png"))):
        pages.append(write_together(pages, out))
    write_values(measured, out, with_parquet=with_parquet)
    return [page.path for page in pages]


def write_together(pages: Sequence[Page], out: Path) -> Page:
    """Write one page with the sections of all pages, and the figures that lie in ``out``."""
    pages = pages[::-1]  # tables 1 and 2 first
    found = sorted((out / FIGURES).glob("figure*.png"))
    captions = {path.name: path.stem.replace("figure", "Figure ").replace("_", ": ", 1) for path in found}
    figures = read_pictures("Figures", out / FIGURES, captions)[1]
    drawn = [Section("figures", "Figures 1, 3 and 4", [("figures", figures)], link="Figures")] if figures else []
    together = Page(
        out / TOGETHER_PAGE,
        title="AFR-CLIP: tables and figures of the paper, and what was measured",
        subtitle=". ".join(page.subtitle for page in pages),
        about=ABOUT_TOGETHER,
        notices=list(dict.fromkeys(notice for page in pages for notice in page.notices)),
        notes=list(dict.fromkeys(note for page in pages for note in page.notes)),
        sections=[*drawn, *(section for page in pages for section in page.sections)],
    )
    together.write()
    return together


def compare(folders: Sequence[Path]) -> Comparison:
    """Read runs, see `read_runs`, and put them next to the paper's tables, which stand alone without any."""
    runs = read_runs(folders)
    return Comparison(runs, aggregate(runs))


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

    def write(self, out: Path) -> Page:
        """Write data, tables, pictures and the page, in place of those of an earlier report."""
        write_json(out / ABLATIONS_DATA, self.content())
        found = [*_left_out(self.faults), *ablation_notices(self.tables)]
        warnings = [" ".join(filter(None, notice)) for notice in found]
        for table in self.tables:
            remarks = [PAPER, *([INTERVALS] if table.measured.series else []), *warnings, *ablation_notes(table)]
            write_table(out, table, remarks)
            if table.datasets:
                draw_bars(out / f"{table.spec.stem}_bars.png", table)
                draw_losses(out / f"{table.spec.stem}_losses.png", table)
        for search in self.searches:
            records = search_records(search)
            write_records(out / "search.csv", records, list(records.columns))
            if search.finished:
                draw_parallel(out / "search_parallel.png", search)
                draw_best(out / "search_best.png", search)
        page = self._page(out / ABLATIONS_PAGE, found)
        page.write()
        return page

    def printed(self) -> list[Table]:
        """Return the tables for a terminal."""
        return [
            to_rich([grid], f"{table.spec.title}, {grid.name} (percent)")
            for table in self.tables
            for grid in table.grids()
        ]

    def content(self) -> dict[str, Any]:
        """Return everything as plain values: the cells, every number, and how the intervals were made."""
        searches = [
            {
                "objective": dict(search.objective),
                "best": None if search.best is None else search.best.number,
                "trials": [
                    {"number": t.number, "state": t.state, "value": t.value}
                    | {"folder": t.folder or "", "params": dict(t.params)}
                    for t in search.trials
                ],
            }
            for search in self.searches
        ]
        return {
            "bootstrap": {"level": paired.LEVEL, "resamples": paired.NUM_RESAMPLES, "seed": paired.SEED},
            "experiments": [_content(table) for table in self.tables],
            "searches": searches,
        }

    def cells(self) -> Grid:
        """Lay out the state and the folder of every cell."""
        rows = [
            [
                *(TableCell(table.spec.name), TableCell(one.name), number_cell(cell.seed, "")),
                *map(TableCell, (table.missing.get(cell, DONE), shown(cell.folder), table.commits.get(cell, ""))),
            ]
            for table in self.tables
            for one in table.measured.series
            for cell in table.cells(one.name)
        ]
        words = ("Experiment", "Setting", "Seed", "State", "Folder", "Commit")
        return Grid("Cells", [Heading(word, is_text=word != "Seed") for word in words], rows)

    def _page(self, path: Path, found: Sequence[Notice]) -> Page:
        cells = [cell for table in self.tables for cell in table.experiment.cells]
        has_cells = any(table.measured.series for table in self.tables)
        counted = (
            f"Experiments: {len(self.tables)}; cells: {len(cells)} in {len({c.folder.resolve() for c in cells})} run "
        )
        counted += f"folders; without numbers: {sum(len(table.missing) for table in self.tables)}"
        counted += f"; trials: {sum(len(search.trials) for search in self.searches)}" if self.searches else ""
        return Page(
            path,
            title=f"AFR-CLIP: ablations{' of the paper and what was measured' if has_cells else ''}",
            subtitle=counted if cells or self.searches else "No run was given.",
            about=ABOUT_ABLATIONS,
            notices=found,
            notes=[PAPER, INTERVALS] if has_cells else [PAPER],
            sections=list(self._sections(path.parent)),
        )

    def _sections(self, folder: Path) -> Iterator[Section]:
        for table in self.tables:
            pictures = _pictures(folder, table.spec.stem, table.spec.title, ("bars", "losses"))
            blocks = [("titled", table.grids()), ("notes", ablation_notes(table)), ("figures", pictures)]
            yield Section(table.spec.stem, table.spec.title, blocks)
        for search in self.searches:
            pictures = _pictures(folder, "search", "Search", ("parallel", "best"))
            blocks = [("notes", [search_note(search)]), ("figures", pictures), ("table", search_grid(search))]
            yield Section("search", "Search", blocks)
        cells = self.cells()
        if cells.body:
            yield Section("cells", ORIGIN, [("table", cells)], link="Cells")
        if facts := checklist(manifests_of(*self.all_measured)):
            yield Section("again_ablations", "Reproducibility of the ablations", [("facts", facts)])


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
