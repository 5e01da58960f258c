"""What choosing an epoch on the target would have gained: the last epoch next to the one that is best there."""

import logging
from typing import Any

import pandas as pd

from afr_clip.files import shown
from afr_clip.reports.compare.overview import FIRST
from afr_clip.reports.compare.values import NO_SEED, Measured
from afr_clip.reports.layout.grid import COLUMNS, Grid, Heading, TableCell, difference_cell, number_cell, text_headings
from afr_clip.reports.record.results import EPOCHS, read_epochs
from afr_clip.reports.record.schema import RecordError

logger = logging.getLogger(__name__)

PEEKING_WARNING = (
    "Peeking, not results.",
    "The best epoch is found with the truth of the target, which a zero-shot method does not have, and is the largest "
    "of several noisy numbers. Other tables have the last epoch alone.",
)

PEEKING_HEADER = (
    *("setting", "dataset", "trained_on", "seed", "metric", "num_epochs"),
    *("last_epoch", "last", "best_epoch", "best", "difference"),
)


def peeked(measured: Measured) -> pd.DataFrame:
    """Return one row per run, dataset and metric, in percent, from the runs whose every epoch was scored."""
    rows: list[dict[str, Any]] = []
    places = measured.values.drop_duplicates(["run", "name"])
    folders = {str(run.folder): run.folder for one in measured.series for run in one.runs}
    for place in places.itertuples():
        folder = folders[str(place.run)]
        if not (folder / EPOCHS).is_file():
            continue
        try:
            epochs = read_epochs(folder)
        except (RecordError, OSError) as error:
            logger.warning("%s is left out, because it cannot be read: %s", shown(folder / EPOCHS), error)
            continue
        of = {"setting": place.series_label, "dataset": place.target, "trained_on": place.trained_on}
        for metric, found in epochs[epochs.dataset == place.name].groupby("metric", sort=False):
            values = 100 * found.set_index("epoch").value.dropna()
            if len(values):
                last, best = int(values.index.max()), int(values.idxmax())
                numbers = {"num_epochs": len(values), "last_epoch": last, "last": values[last], "best_epoch": best}
                numbers |= {"best": values[best], "difference": values[best] - values[last]}
                rows.append(of | {"seed": place.seed, "metric": metric} | numbers)
    return pd.DataFrame(rows, columns=list(PEEKING_HEADER))


def peeking_grid(records: pd.DataFrame) -> Grid | None:
    """Lay out what `peeked` found; ``None`` if no run was scored at every epoch."""
    if records.empty:
        return None
    headings = text_headings("Setting", "Dataset", "Trained on")
    headings.append(Heading("Seed"))
    for metric in FIRST:
        label, meaning = COLUMNS[metric]
        headings += [
            Heading("last epoch", meaning, label),
            Heading("best on target", "With its epoch in brackets", label),
            Heading("gain", "In points, of choosing on the target", label),
        ]
    body = []
    for (setting, dataset, trained_on, seed), own in records.groupby(list(PEEKING_HEADER[:4]), sort=False):
        by_metric = {record["metric"]: record for record in own.to_dict("records")}
        row = [TableCell(str(word)) for word in (setting, dataset, trained_on)]
        row.append(number_cell(None if seed == NO_SEED else int(str(seed)), ""))
        for metric in FIRST:
            if (record := by_metric.get(metric)) is None:
                row += [TableCell("-")] * 3
                continue
            best = f"{record['best']:.1f} ({record['best_epoch']} of {record['last_epoch']})"
            row += [number_cell(record["last"]), TableCell(best, float(record["best"]))]
            row.append(difference_cell(record["difference"]))
        body.append(row)
    return Grid("Last epoch and best epoch on the target", headings, body)
