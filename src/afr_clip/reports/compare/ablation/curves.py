"""The losses of a training over its epochs, from the `metrics.csv` of run folders."""

import csv
from collections.abc import Mapping
from pathlib import Path

from afr_clip.metrics.log_keys import LOSS_EPOCH
from afr_clip.reports.compare.ablation.measure import Row

Curve = Mapping[int, float]
"""Loss by epoch."""


def read_curve(run: Path) -> Curve:
    """Read the loss of a run.

    Args:
        run: The run folder.

    Returns:
        One value per epoch, the last where one was logged several times; none where nothing was logged.
    """
    path = run / "metrics.csv"
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {int(row["epoch"]): float(row["value"]) for row in csv.DictReader(file) if row["metric"] == LOSS_EPOCH}


def curves_of(row: Row) -> dict[str, list[Curve]]:
    """Read the losses of a setting.

    Args:
        row: Which one.

    Returns:
        One curve per seed, by what was trained on.
    """
    folders: dict[str, dict[Path, None]] = {}
    for (_, trained_on), dataset in row.datasets.items():
        runs = folders.setdefault(trained_on, {})
        runs |= dict.fromkeys(measurement.run for measurement in dataset.by_seed.values())
    curves = {name: [curve for run in runs if (curve := read_curve(run))] for name, runs in folders.items()}
    return {name: found for name, found in curves.items() if found}
