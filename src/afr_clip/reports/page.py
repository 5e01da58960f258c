"""One HTML page per run to read and to pass on, made from the files of the run folder alone."""

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from afr_clip.files import in_one_line, shown
from afr_clip.metrics.average import PUBLISHED_PRO
from afr_clip.metrics.thresholds import PIXEL_GIVEN, PIXEL_MAX_F1
from afr_clip.reports.decisions import OPTIMISTIC, Chart, score_charts, threshold_grid
from afr_clip.reports.diagnosis import read_diagnoses
from afr_clip.reports.layout.grid import COLUMNS, SATURATED_COLUMNS, Grid, category_grid
from afr_clip.reports.layout.html import render
from afr_clip.reports.pictures.encode import SHEETS, PictureGroup, read_pictures
from afr_clip.reports.record.provenance import backbone_notices, few_shot, list_facts, method_of, training_of
from afr_clip.reports.record.results import (
    RESULTS,
    ImageRow,
    published_pro_note,
    read_results,
    read_scores,
    read_thresholds,
    thresholds_of,
)
from afr_clip.reports.record.run_folder import RunFolderError, write_text

PAGE = "report.html"

MOST_TRAINING_SHEETS = 4

logger = logging.getLogger(__name__)


def write_page(run_folder: Path) -> Path:
    """Write ``report.html`` from ``results.json``, ``figures/`` and diagnoses; may be repeated at any time.

    Raises:
        RunFolderError: If nothing was scored in this folder.
    """
    path = run_folder / RESULTS
    content, values = read_results(path, for_display=True) if path.exists() else ({}, pd.DataFrame())
    if values.empty:
        msg = (
            f"{shown(run_folder)} contains no scored dataset. Pass the folder of a train run with targets, or of an "
            f"evaluate run."
        )
        raise RunFolderError(msg)
    manifest = content["manifest"]
    names = list(values.dataset.unique())
    scores = _scores_by_dataset(run_folder)
    decisions = {name: _decisions(name, content, scores.get(name, [])) for name in names}
    pictures = collect_pictures(run_folder, names)
    trained, links = training_of(manifest), []
    if len(names) > 1:
        links = [(f"results-{i}", name) for i, name in enumerate(names)]
        links += [(f"pictures-{i}", f"{heading}: pictures") for i, (heading, _) in enumerate(pictures)]
    learned = "nothing" if trained is None else f"{trained['auxiliary']['name']} with seed {trained['seed']}"
    shots = manifest["config"]["module"].get("network", {}).get("shots")
    scored = f"; scored with {few_shot(shots)}" if shots else ""
    page = render(
        "run.html",
        title=f"{method_of(manifest)} {manifest['command']}: {', '.join(names)}",
        method=method_of(manifest),
        subtitle=f"Trained on {learned}{scored}; started {str(manifest['started'])[:10]}",
        notices=backbone_notices(manifest["backbone"], manifest["config"]["module"]["name"]),
        links=links,
        results=[
            (
                name,
                grid,
                [
                    *_notes(content["categories_in_mean"][name], len(grid.body), content["vanished_defects"][name]),
                    *map(published_pro_note, of_dataset[of_dataset.metric == PUBLISHED_PRO].value[-1:].dropna()),
                ],
            )
            for name, of_dataset in values.groupby("dataset", sort=False)
            for grid in [results_grid(str(name), of_dataset)]
        ],
        decisions=[(name, *found) for name, found in decisions.items() if found[0].body],
        optimistic=OPTIMISTIC,
        diagnoses=read_diagnoses(run_folder),
        pictures=pictures,
        provenance=list_facts(manifest),
    )
    write_text(run_folder / PAGE, page)
    return run_folder / PAGE


def _scores_by_dataset(run_folder: Path) -> dict[str, list[ImageRow]]:
    scores: dict[str, list[ImageRow]] = {}
    try:
        for row in read_scores(run_folder):
            if not 0 <= row.image_score <= 1:
                msg = f"a score must lie in [0, 1], got {row.image_score}"
                raise ValueError(msg)
            scores.setdefault(in_one_line(row.dataset), []).append(replace(row, category=in_one_line(row.category)))
    except (OSError, ValueError, csv.Error) as error:
        logger.warning(
            "%s is left out of the page, because it cannot be read: %s", shown(run_folder / "scores.csv"), error
        )
        return {}
    return scores


def _decisions(name: str, content: Mapping[str, Any], rows: Sequence[ImageRow]) -> tuple[Grid, list[Chart]]:
    """Find the thresholds again, which a run of an earlier version did not record; those of pixels are recorded."""
    of_pixels = (one for one in read_thresholds(content, name) if one.rule in (PIXEL_MAX_F1, PIXEL_GIVEN))
    thresholds = (*thresholds_of(rows, ()), *of_pixels)
    return threshold_grid(name, thresholds), score_charts(rows, thresholds)


def results_grid(dataset: str, values: pd.DataFrame) -> Grid:
    """Lay out the results of a dataset: its categories, and the mean in the foot."""
    percent = values.assign(mean=100 * values.value, deviation=None, num_seeds=1)
    return category_grid(f"Results of {dataset}", percent)


def _notes(num_defined: Mapping[str, int], num_categories: int, vanished: Mapping[str, int]) -> Iterator[str]:
    partly = ", ".join(
        f"{label} {num_defined[m]}"
        for m, (label, _) in (COLUMNS | SATURATED_COLUMNS).items()
        if num_defined.get(m, num_categories) < num_categories
    )
    if partly:
        yield f'"-" is undefined and left out of the mean. Categories in the mean, of {num_categories}: {partly}.'
    lost = ", ".join(f"{category} {n}" for category, n in vanished.items() if n)
    if lost:
        yield f"Defect regions that lost their last pixel when masks were resized: {lost}."


def collect_pictures(run_folder: Path, datasets: Sequence[str]) -> list[PictureGroup]:
    """Read the sheets of each scored dataset, then those of the training; groups without any are left out."""
    captions: list[tuple[str, dict[str, str]]] = [
        (name, {f"figures/{name}/{sheet}.png": caption for sheet, caption in SHEETS.items()}) for name in datasets
    ]
    training = {"figures/curves.png": "Losses and learning rate over the epochs"}
    drawn = sorted((run_folder / "figures" / "training").glob("epoch_*.png"))
    epochs = {path: int(digits) for path in drawn if (digits := path.stem.removeprefix("epoch_")).isdecimal()}
    for path in spread(list(epochs), MOST_TRAINING_SHEETS):
        training[f"figures/training/{path.name}"] = f"First training batch of epoch {epochs[path] + 1}"
    groups = [read_pictures(heading, run_folder, of_group) for heading, of_group in [*captions, ("Training", training)]]
    return [(heading, pictures) for heading, pictures in groups if pictures]


def spread(paths: Sequence[Path], num: int) -> list[Path]:
    """Choose at most ``num`` (2 or more) of a sequence evenly, its first and its last among them."""
    if len(paths) <= num:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (num - 1))] for i in range(num)]
