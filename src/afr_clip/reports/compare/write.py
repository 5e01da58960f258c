"""Read runs, compare them with the paper, and write the tables in every form."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.table import Table

from afr_clip.reports.compare import measured_tables, paper_tables
from afr_clip.reports.compare.aggregate import MeasuredSetting, aggregate
from afr_clip.reports.compare.gather import RunResults, read_runs
from afr_clip.reports.compare.html import render_comparison
from afr_clip.reports.compare.notes import notes_of, notices_of
from afr_clip.reports.compare.paper import LEVELS
from afr_clip.reports.compare.paper_tables import PaperTable
from afr_clip.reports.compare.stacked import stacked_grids
from afr_clip.reports.compare.text import to_latex, to_markdown, to_rich
from afr_clip.reports.layout.grid import Grid
from afr_clip.reports.page import PAGE
from afr_clip.reports.record.run_folder import write_csv, write_text


@dataclass(frozen=True)
class Comparison:
    """Runs beside the paper.

    Attributes:
        runs: As they were read.
        settings: What they measured, put together over seeds.
    """

    runs: Sequence[RunResults]
    settings: Sequence[MeasuredSetting]

    @cached_property
    def tables(self) -> list[PaperTable]:
        """Tables 1 and 2."""
        return [PaperTable(number, self.settings) for number in LEVELS]

    @property
    def outside(self) -> Grid:
        """The datasets that the paper does not have."""
        return measured_tables.outside_grid(self.settings)

    def write(self, out: Path) -> Path:
        """Write every table and the page.

        Args:
            out: The folder; files of an earlier report are replaced.

        Returns:
            The page.
        """
        notices = [" ".join(filter(None, notice)) for notice in notices_of(self.settings)]
        notes = "".join(f"\n{note}\n" for note in [*notices, *notes_of(self.settings, self.runs)])
        for table in self.tables:
            name, grids = f"table{table.number}", table.grids()
            write_text(out / f"{name}.md", f"# {table.title}\n\nIn percent.\n\n{to_markdown(grids, 'Domain')}{notes}")
            write_text(
                out / f"{name}.tex", to_latex(stacked_grids(table), " ".join([table.caption, *notices]), f"tab:{name}")
            )
            write_csv(out / f"{name}.csv", paper_tables.CSV_HEADER, table.records())
        write_csv(out / "categories.csv", measured_tables.CSV_HEADER, measured_tables.records(self.settings))
        write_text(out / "categories.md", self._categories())
        page = render_comparison(self.tables, self.outside, self.runs, self.settings)
        write_text(out / PAGE, page)
        return out / PAGE

    def printed(self) -> list[Table]:
        """Return the tables for a terminal, where one fits for each setting; without any, the paper's."""
        groups = [(f", {setting.label}", [setting]) for setting in self.settings] or [("", [])]
        tables = [
            to_rich(PaperTable(table.number, group).grids(only_measured=True), f"{table.title}{label} (percent)")
            for table in self.tables
            for label, group in groups
        ]
        return [*tables, to_rich([self.outside], self.outside.name)] if self.outside.body else tables

    def _categories(self) -> str:
        said = "In percent." if self.settings else "Nothing has been measured yet."
        parts = [f"# Measured, by category\n\n{said}\n"]
        if self.outside.body:
            parts.append(f"\n## {self.outside.name}\n\n{to_markdown([self.outside])}")
        for _, dataset, name in measured_tables.measured(self.settings):
            parts.append(f"\n## {name}\n\n{to_markdown([measured_tables.category_grid(dataset, name)])}")
        return "".join(parts)


def compare(folders: Sequence[Path]) -> Comparison:
    """Read runs and put them together.

    Args:
        folders: Run folders, or folders that hold some; none gives the paper's tables alone.

    Returns:
        The comparison.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ComparisonError: If a file is not a run's, or runs contradict each other.
    """
    runs = read_runs(folders)
    return Comparison(runs, aggregate(runs))


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write the paper's tables with what runs measured: Markdown, LaTeX, CSV and one HTML page.

    Args:
        folders: Run folders, or folders that hold some.
        out: Where to.

    Returns:
        The page.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ComparisonError: If a file is not a run's, or runs contradict each other.
    """
    return compare(folders).write(out)
