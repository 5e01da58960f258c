"""The record of a training: a CSV file that only grows."""

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from afr_clip.files import written_whole
from afr_clip.metrics.log_keys import EPOCH

LoggedValues = tuple[dict[str, float], int]
"""What was logged at one moment, the epoch among it, and the step."""


class MetricsCSV(Logger):
    """Append every logged value to ``metrics.csv`` as ``epoch,step,metric,value``.

    One row per value keeps the file valid whatever is logged later and wherever a run is killed.

    Args:
        path: The file; continued if it exists.
        drop_from_step: Rows of this and later steps, and those of targets, are dropped first, because a resumed
            training logs them again.
        kept_targets: The targets that it does not score again, and whose rows stay.
    """

    HEADER = ("epoch", "step", "metric", "value")

    def __init__(self, path: Path, drop_from_step: int | None = None, kept_targets: Collection[str] = ()) -> None:
        super().__init__()
        self._path = path
        self._kept = tuple(f"target/{name}/" for name in kept_targets)
        if drop_from_step is not None or not path.exists():
            self._restart(drop_from_step or 0)

    @rank_zero_only
    def _restart(self, drop_from_step: int) -> None:
        kept = self._rows_before(drop_from_step)
        with written_whole(self._path) as unfinished, unfinished.open("w", newline="") as file:
            csv.writer(file).writerows([self.HEADER, *kept])

    def _rows_before(self, step: int) -> list[Sequence[str]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="") as file:
            whole = [line for line in file if line.endswith("\n")]  # a killed run may leave half a line
        rows = [row for row in csv.reader(whole) if len(row) == len(self.HEADER)]
        # Whether a target is scored again does not hang on the step it was logged at, which is the training's last.
        return [
            row
            for row in rows[1:]
            if (row[2].startswith(self._kept) if row[2].startswith("target/") else int(row[1]) < step)
        ]

    @property
    def name(self) -> str:
        """The logger's name."""
        return "csv"

    @property
    def version(self) -> str:
        """The logger's version."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row per value."""
        epoch = metrics.get("epoch", "")
        rows = [
            (str(epoch), str(step or 0), key, repr(float(value))) for key, value in metrics.items() if key != "epoch"
        ]
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerows(rows)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` and ``manifest.json`` hold them."""


def read_metrics(path: Path) -> Iterator[LoggedValues]:
    """Read ``metrics.csv`` as it was logged: the values of one moment together.

    Args:
        path: The file; it need not exist.

    Yields:
        Values by name, the epoch among them, and the step.
    """
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        for (epoch, step), rows in groupby(csv.DictReader(file), key=lambda row: (row["epoch"], row["step"])):
            values: dict[str, float] = {}
            for row in rows:
                if row["metric"] in values:  # the same value twice is the next moment
                    yield values | _epoch(epoch), int(step)
                    values = {}
                values[row["metric"]] = float(row["value"])
            yield values | _epoch(epoch), int(step)


def _epoch(epoch: str) -> dict[str, float]:
    return {EPOCH: float(epoch)} if epoch else {}
