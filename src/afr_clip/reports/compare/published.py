"""What other papers and repositories publish of zero-shot methods, to stand next to what was measured."""

from collections.abc import Collection
from functools import cache
from importlib.resources import files
from itertools import starmap

import pandas as pd

from afr_clip.reports.compare.tables import CategoryTables
from afr_clip.reports.compare.values import NOTHING
from afr_clip.reports.layout.grid import (
    COLUMNS,
    Grid,
    Heading,
    TableCell,
    category_cells,
    marked,
    number_cell,
    text_headings,
)
from afr_clip.reports.record.results import MEAN_ROW

PUBLISHED_NOTE = (
    "As published, in percent, and not measured here: protocols, image sizes and ways to choose an epoch differ, so a "
    "difference of a point says little. An empty cell was not published. AF-CLIP, Crane and VisualAD publish PRO with "
    "a rescaled false positive rate, which is another metric and has no cell."
)

CATEGORIES_NOTE = (
    "What repositories publish stands below what was measured here. Protocols and image sizes differ, so a difference "
    "of a point says little. AF-CLIP publishes PRO with a rescaled false positive rate, which is another metric and "
    "has no cell."
)

METRICS = ("image_auroc", "pixel_auroc", "pixel_ap", "pixel_f1_max", "pixel_aupro")


def _read(name: str) -> pd.DataFrame:
    with files("afr_clip.reports.compare").joinpath(name).open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={"category": str})  # BTAD's categories are numbers


@cache
def published() -> pd.DataFrame:
    """Read the published numbers, one per row: method, venue, backbone, dataset, metric, value, trained_on, source."""
    return _read("published.csv")


@cache
def published_categories() -> pd.DataFrame:
    """Read what repositories publish by category, on published test splits, with all digits that they print.

    Returns:
        A row for each category of a method, with a column for each metric, in percent: method, backbone, dataset,
        category, the metrics, trained_on, protocol, repository, commit, file.
    """
    return _read("published_categories.csv")


def published_grids(titles: Collection[str]) -> list[Grid]:
    """Lay out what is published of each dataset that is named by its title."""
    headings = [*text_headings("Method", "Published", "Backbone", "Trained on")]
    headings += [Heading(*COLUMNS[metric]) for metric in METRICS]
    headings += text_headings("Source")
    grids = []
    for title, of_dataset in published().groupby("dataset", sort=False):
        rows = []
        keys = ["method", "venue", "backbone", "trained_on", "source"]
        for (method, venue, backbone, trained_on, source), own in of_dataset.groupby(keys, sort=False):
            values = own.set_index("metric").value.reindex(list(METRICS))
            words = [TableCell(str(word)) for word in (method, venue, backbone, trained_on)]
            rows.append([*words, *map(number_cell, values), TableCell(str(source))])
        if title in titles:
            grids.append(Grid(str(title), headings, rows))
    return grids


def category_grids(tables: CategoryTables) -> list[Grid]:
    """Lay out what is published of each measured category below what was measured of it, one grid per dataset."""
    by_category = published_categories().groupby(["dataset", "category"], sort=False)
    body: dict[str, dict[str, list[list[TableCell]]]] = {}
    for _, _, of_dataset in tables.named():
        first = of_dataset.iloc[0]
        setting = first.setting if first.label == first.dataset else f"{first.setting}: {first.label}"
        words = [TableCell(f"{setting}, measured"), TableCell(first.label_trained_on if first.auxiliary else NOTHING)]
        for _, of_row in of_dataset[of_dataset.row != MEAN_ROW].groupby("row", sort=False):
            category, *numbers = category_cells(of_row)[: 1 + len(COLUMNS)]
            numbers = [marked(one, is_partial=bool(first.target_lacks and one.value is not None)) for one in numbers]
            if (first.dataset, category.shown) in by_category.groups:
                rows = body.setdefault(first.dataset, {}).setdefault(category.shown, [])
                rows.append([category, *words, *numbers])
    for title, categories in body.items():
        for name, rows in categories.items():
            for _, own in by_category.get_group((title, name)).iterrows():
                named = map(TableCell, (own.category, f"{own.method}, published", own.trained_on))
                rows.append([*named, *map(number_cell, own[[*COLUMNS]])])
    headings = [*text_headings("Category", "Method", "Trained on"), *starmap(Heading, COLUMNS.values())]
    return [
        Grid(f"{title}: measured and published", headings, [row for rows in categories.values() for row in rows])
        for title, categories in body.items()
    ]


def category_sources(titles: Collection[str]) -> list[str]:
    """Name where what is published by category of these datasets comes from, a sentence for each method."""
    rows = published_categories()
    columns = ["method", "backbone", "protocol", "repository", "commit"]
    return [
        f"{method} ({backbone}): {protocol}; from the files of {repository} at commit {commit[:7]}."
        for method, backbone, protocol, repository, commit in rows[rows.dataset.isin(list(titles))][columns]
        .drop_duplicates()
        .itertuples(index=False, name=None)
    ]
