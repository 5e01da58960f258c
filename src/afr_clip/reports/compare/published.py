"""What other papers and repositories publish of zero-shot methods, to stand next to what was measured."""

from collections.abc import Collection
from functools import cache
from importlib.resources import files

import pandas as pd

from afr_clip.reports.layout.grid import COLUMNS, Grid, Heading, TableCell, text_headings

PUBLISHED_NOTE = (
    "As published, in percent, and not measured here: protocols, image sizes and ways to choose an epoch differ, so a "
    "difference of a point says little. An empty cell was not published. AF-CLIP, Crane and VisualAD publish PRO with "
    "a rescaled false positive rate, which is another metric and has no cell."
)

METRICS = ("image_auroc", "pixel_auroc", "pixel_ap", "pixel_f1_max", "pixel_aupro")


@cache
def published() -> pd.DataFrame:
    """Read the published numbers, one per row: method, venue, backbone, dataset, metric, value, trained_on, source."""
    with files("afr_clip.reports.compare").joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


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
            numbers = [TableCell("") if pd.isna(one) else TableCell(f"{one:.1f}", float(one)) for one in values]
            words = [TableCell(str(word)) for word in (method, venue, backbone, trained_on)]
            rows.append([*words, *numbers, TableCell(str(source))])
        if title in titles:
            grids.append(Grid(str(title), headings, rows))
    return grids
