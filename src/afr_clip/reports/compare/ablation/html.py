"""The page: every ablation with its notes and pictures, the search, and the cells behind them."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from afr_clip.reports.compare.ablation.measure import Ablation
from afr_clip.reports.compare.ablation.notes import INTERVALS, PAPER, ablation_notices, table_notes
from afr_clip.reports.compare.ablation.record import DONE, Search
from afr_clip.reports.compare.ablation.search_table import search_grid, search_note
from afr_clip.reports.compare.ablation.tables import AblationTable
from afr_clip.reports.layout.grid import Cell, Grid, Heading
from afr_clip.reports.layout.html import (
    render_contents,
    render_figures,
    render_grid,
    render_notices,
    render_section,
    render_shell,
    render_titled,
)
from afr_clip.reports.pictures.encode import read_pictures

CAPTIONS = {
    "bars": "What each setting measured, and its difference to the reference",
    "losses": "Training loss, with a band of one standard deviation over seeds",
    "parallel": "One line per trial through its parameters; the best one is wide",
    "best": "The value of each trial and the best so far",
}
"""What the pictures show, by the end of their file's name."""


def render_ablations(ablations: Sequence[Ablation], searches: Sequence[Search], folder: Path) -> str:
    """Lay out the whole page.

    Args:
        ablations: In their order.
        searches: At most one.
        folder: Holds the pictures.

    Returns:
        HTML that needs nothing from outside.
    """
    tables = [AblationTable(ablation) for ablation in ablations]
    has_cells = any(table.ablation.rows for table in tables)
    links = [(table.name, table.title) for table in tables]
    links += [("search", "Search")] if searches else []
    links += [("cells", "Cells")] if has_cells else []
    sections = [render_section(table.name, table.title, _table(table, folder)) for table in tables]
    sections += [render_section("search", "Search", _search(search, folder)) for search in searches]
    if has_cells:
        sections.append(render_section("cells", "Where these numbers come from", render_grid(cell_grid(ablations))))
    return render_shell(
        "ablation.html",
        title="AFR-CLIP: ablations of the paper and what was measured" if has_cells else "AFR-CLIP: ablations",
        subtitle=escape(_counted(ablations, searches)),
        notices=render_notices(ablation_notices(ablations)),
        notes=render_notices(("", note) for note in ([PAPER, INTERVALS] if has_cells else [PAPER])),
        contents=render_contents(links),
        sections="\n".join(sections),
    )


def cell_grid(ablations: Sequence[Ablation]) -> Grid:
    """Say in what state every cell is, and where it is.

    Args:
        ablations: Whose cells.

    Returns:
        One row per experiment, setting and seed.
    """
    words = ("Experiment", "Setting", "Seed", "State", "Folder", "Commit")
    rows = [
        [
            Cell(ablation.experiment.name),
            Cell(row.name),
            Cell(str(cell.seed), float(cell.seed)),
            Cell(row.missing.get(cell, DONE)),
            Cell(str(cell.folder)),
            Cell(row.commits.get(cell, "")),
        ]
        for ablation in ablations
        for row in ablation.rows
        for cell in row.cells
    ]
    return Grid("Cells", [Heading(word, is_text=word != "Seed") for word in words], rows)


def _table(table: AblationTable, folder: Path) -> str:
    parts = [*map(render_titled, table.grids()), render_notices(("", note) for note in table_notes(table))]
    return "\n".join([*parts, _pictures(folder, table.name, table.title, ("bars", "losses"))])


def _search(search: Search, folder: Path) -> str:
    pictures = _pictures(folder, "search", "Search", ("parallel", "best"))
    return "\n".join([render_notices([("", search_note(search))]), pictures, render_grid(search_grid(search))])


def _pictures(folder: Path, name: str, heading: str, kinds: Sequence[str]) -> str:
    _, pictures = read_pictures(heading, {folder / f"{name}_{kind}.png": CAPTIONS[kind] for kind in kinds})
    return render_figures(pictures) if pictures else ""


def _counted(ablations: Sequence[Ablation], searches: Sequence[Search]) -> str:
    cells = [cell for ablation in ablations for row in ablation.rows for cell in row.cells]
    if not cells and not searches:
        return "No run was given."
    without = sum(len(row.missing) for ablation in ablations for row in ablation.rows)
    folders = len({cell.folder.resolve() for cell in cells})
    trials = f"; trials: {sum(len(search.trials) for search in searches)}" if searches else ""
    cells_said = f"cells: {len(cells)} in {folders} run folders; without numbers: {without}"
    return f"Experiments: {len(ablations)}; {cells_said}{trials}"
