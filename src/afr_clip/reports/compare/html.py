"""The page: both tables, everything measured by category, and the heat maps behind it."""

from collections.abc import Sequence
from html import escape

from afr_clip.reports.compare.aggregate import MeasuredSetting
from afr_clip.reports.compare.gather import RunResults
from afr_clip.reports.compare.measured_tables import category_grid, measured, run_grid
from afr_clip.reports.compare.notes import notes_of, notices_of
from afr_clip.reports.compare.paper_tables import PaperTable
from afr_clip.reports.layout.grid import Grid
from afr_clip.reports.layout.html import (
    render_contents,
    render_grid,
    render_notices,
    render_pictures,
    render_section,
    render_shell,
    render_titled,
)
from afr_clip.reports.pictures.encode import SHEETS, PictureGroup, read_pictures

SHOWN = ("highest", "worst_ranked")


def render_comparison(
    tables: Sequence[PaperTable], outside: Grid, runs: Sequence[RunResults], settings: Sequence[MeasuredSetting]
) -> str:
    """Lay out the whole page.

    Args:
        tables: Tables 1 and 2.
        outside: What the paper does not have.
        runs: Everything read.
        settings: The same put together.

    Returns:
        HTML that needs nothing from outside.
    """
    groups = collect_pictures(settings)
    links = [(f"table-{table.number}", table.title) for table in tables]
    links += [("outside", outside.name)] if outside.body else []
    links += [("categories", "By category"), ("pictures", "Pictures"), ("runs", "Runs")] if runs else []
    sections = [render_section(f"table-{t.number}", t.title, "".join(map(render_titled, t.grids()))) for t in tables]
    if outside.body:
        sections.append(render_section("outside", outside.name, render_grid(outside)))
    if runs:
        categories = "".join(render_titled(category_grid(dataset, name)) for _, dataset, name in measured(settings))
        sections.append(render_section("categories", "By category", categories))
        sections.append(render_section("pictures", "Pictures", render_pictures(groups, "These runs drew no pictures.")))
        labels = {setting.setting.key: setting.label for setting in settings}
        sections.append(render_section("runs", "Where these numbers come from", render_grid(run_grid(runs, labels))))
    return render_shell(
        "comparison.html",
        title="AFR-CLIP: the paper's tables and what was measured" if runs else "AFR-CLIP: the paper's tables",
        subtitle=escape(_counted(runs, settings)),
        notices=render_notices(notices_of(settings)),
        notes=render_notices(("", note) for note in notes_of(settings, runs)),
        contents=render_contents(links),
        sections="\n".join(sections),
    )


def collect_pictures(settings: Sequence[MeasuredSetting]) -> list[PictureGroup]:
    """Read the heat maps of everything measured, of the lowest seed where there are several.

    Args:
        settings: What was measured.

    Returns:
        One group per setting and dataset that has pictures.
    """
    groups = []
    for _, dataset, name in measured(settings):
        first = dataset.first
        heading = name if len(dataset.by_seed) == 1 else f"{name}, seed {first.seed}"
        groups.append(read_pictures(heading, {first.figures / f"{sheet}.png": SHEETS[sheet] for sheet in SHOWN}))
    return [(heading, pictures) for heading, pictures in groups if pictures]


def _counted(runs: Sequence[RunResults], settings: Sequence[MeasuredSetting]) -> str:
    if not runs:
        return "No run was given."
    num = sum(len(setting.datasets) for setting in settings)
    return f"Runs: {len(runs)}; settings: {len(settings)}; measured datasets: {num}"
