"""One HTML page per run to read and to pass on, made from the files of the run folder alone."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from afr_clip.reports.layout.grid import COLUMNS, COUNT_HEADINGS, METRIC_HEADINGS, Cell, Grid, Heading, counts, percent
from afr_clip.reports.layout.html import (
    backbone_notices,
    render_contents,
    render_facts,
    render_grid,
    render_notices,
    render_pictures,
    render_shell,
)
from afr_clip.reports.pictures.encode import SHEETS, PictureGroup, read_pictures
from afr_clip.reports.record.provenance import list_facts, method_of, training_of
from afr_clip.reports.record.results import TableRow, read_tables
from afr_clip.reports.record.run_folder import RunFolderError, write_text

PAGE = "report.html"

MOST_TRAINING_SHEETS = 4


def write_page(run_folder: Path) -> Path:
    """Write ``report.html`` from ``results.json`` and ``figures/``; may be repeated at any time.

    Args:
        run_folder: A run that scored at least one dataset.

    Returns:
        The page.

    Raises:
        RunFolderError: If nothing was scored in this folder.
    """
    results = run_folder / "results.json"
    content = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    if not content.get("results"):
        msg = (
            f"A page must have at least one scored dataset, got none in {run_folder}. "
            f"Name the folder of a train run with targets, or of an evaluate run."
        )
        raise RunFolderError(msg)
    groups = collect_pictures(run_folder / "figures", list(read_tables(content["results"])))
    write_text(run_folder / PAGE, render_page(content, groups))
    return run_folder / PAGE


def collect_pictures(figures: Path, datasets: Sequence[str]) -> list[PictureGroup]:
    """Read the sheets of each dataset, then those of the training.

    Args:
        figures: The folder of figures; it need not exist.
        datasets: Names of the datasets that were scored.

    Returns:
        One group per dataset that has pictures, and one for the training if it has.
    """
    said = {name: {figures / name / f"{sheet}.png": told for sheet, told in SHEETS.items()} for name in datasets}
    training = {figures / "curves.png": "Losses and learning rate over the epochs"}
    for path in spread(sorted((figures / "training").glob("epoch_*.png")), MOST_TRAINING_SHEETS):
        training[path] = f"First training batch of epoch {int(path.stem.removeprefix('epoch_'))}"
    groups = [read_pictures(heading, captions) for heading, captions in [*said.items(), ("Training", training)]]
    return [(heading, pictures) for heading, pictures in groups if pictures]


def spread(paths: Sequence[Path], num: int) -> list[Path]:
    """Choose at most ``num`` (2 or more) of a sequence evenly, its first and its last among them."""
    if len(paths) <= num:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (num - 1))] for i in range(num)]


def render_page(content: Mapping[str, Any], groups: Sequence[PictureGroup]) -> str:
    """Lay out the whole page.

    Args:
        content: What ``results.json`` holds.
        groups: The pictures.

    Returns:
        HTML that needs nothing from outside.
    """
    manifest, tables = content["manifest"], read_tables(content["results"])
    sections = []
    for i, (name, rows) in enumerate(tables.items()):
        notes = _notes(content["categories_in_mean"][name], len(rows) - 1, content["vanished_defects"][name])
        said = render_notices(("", note) for note in notes)
        sections.append(f'<h3 id="results-{i}">{escape(name)}</h3>\n{render_grid(results_grid(name, rows))}\n{said}')
    return render_shell(
        "run.html",
        title=f"{method_of(manifest)} {manifest['command']}: {', '.join(tables)}",
        method=escape(method_of(manifest)),
        subtitle=escape(f"{_trained(training_of(manifest))}; started {str(manifest['started'])[:10]}"),
        notices=render_notices(backbone_notices(manifest["backbone"], manifest["config"]["module"]["name"])),
        contents=_contents(tables, groups),
        results="".join(sections),
        pictures=render_pictures(groups, "This run drew no pictures."),
        provenance=render_facts(list_facts(manifest)),
    )


def results_grid(dataset: str, rows: Sequence[TableRow]) -> Grid:
    """Lay out the results of a dataset.

    Args:
        dataset: Its name.
        rows: Its categories, then the mean.

    Returns:
        A table in percent with the mean in its foot.
    """
    headings = [Heading("Category", is_text=True), *METRIC_HEADINGS, *COUNT_HEADINGS]
    *body, mean = map(_cells, rows)
    return Grid(f"Results of {dataset}", headings, body, [mean])


def _contents(tables: Mapping[str, Any], groups: Sequence[PictureGroup]) -> str:
    if len(tables) == 1:
        return ""
    links = [(f"results-{i}", name) for i, name in enumerate(tables)]
    links += [(f"pictures-{i}", f"{heading}: pictures") for i, (heading, _) in enumerate(groups)]
    return render_contents(links)


def _trained(training: Mapping[str, Any] | None) -> str:
    if training is None:
        return "Trained on nothing"
    return f"Trained on {training['auxiliary']['name']} with seed {training['seed']}"


def _cells(row: TableRow) -> list[Cell]:
    values = [percent(row.values[metric]) for metric in COLUMNS]
    return [Cell(row.category), *values, *counts(row.num_normal, row.num_anomalous)]


def _notes(num_defined: Mapping[str, int], num_categories: int, vanished: Mapping[str, int]) -> list[str]:
    partly = ", ".join(f"{COLUMNS[metric][0]} {n}" for metric, n in num_defined.items() if n < num_categories)
    lost = ", ".join(f"{category} {n}" for category, n in vanished.items() if n)
    notes = {
        f'"-" is undefined and left out of the mean. Categories in the mean, of {num_categories}: {partly}.': partly,
        f"Defect regions that lost their last pixel when masks were resized: {lost}.": lost,
    }
    return [note for note, said in notes.items() if said]
