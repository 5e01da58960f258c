"""metrics.csv, the record of a training: a file that only grows."""

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from afr_clip.files import written_whole
from afr_clip.metrics.log_keys import EPOCH

LoggedValues = tuple[dict[str, float], int]
"""What was logged at one moment, with the epoch, and the step."""


class MetricsCSV(Logger):
    """Append every logged value to ``metrics.csv`` as ``epoch,step,metric,value``; epochs count from 0.

    One row per value keeps the file valid whatever is logged later and wherever a run is killed.

    Args:
        path: The file; continued if it exists.
        drop_from_step: A resumed training logs these and later steps again, so their rows are dropped first.
        kept_targets: Targets that a resumed run does not score again; the rows of all others are dropped.
    """

    HEADER = ("epoch", "step", "metric", "value")

    def __init__(self, path: Path, drop_from_step: int | None = None, kept_targets: Collection[str] = ()) -> None:
        super().__init__()
        self._path = path
        self._ahead: set[tuple[str, ...]] = set()
        self._kept = tuple(f"target/{name}/" for name in kept_targets)
        if drop_from_step is not None or not path.exists():
            self._restart(drop_from_step or 0)

    @rank_zero_only
    def _restart(self, drop_from_step: int) -> None:
        rows: list[list[str]] = []
        if self._path.exists():
            with self._path.open(newline="") as file:
                # A killed run may leave half a line.
                whole = csv.reader([line for line in file if line.endswith("\n")])
                rows = [row for row in whole if len(row) == len(self.HEADER)][1:]
        # Targets are logged at the training's last step, which does not say whether they are scored again.
        kept = [
            row
            for row in rows
            if (row[2].startswith(self._kept) if row[2].startswith("target/") else int(row[1]) < drop_from_step)
        ]
        with written_whole(self._path) as unfinished, unfinished.open("w", newline="") as file:
            csv.writer(file).writerows([self.HEADER, *kept])

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
        epoch = str(metrics.get(EPOCH, ""))
        rows = [(epoch, str(step or 0), key, repr(float(value))) for key, value in metrics.items() if key != EPOCH]
        rows, self._ahead = [row for row in rows if row[:-1] not in self._ahead], set()
        self._append(rows)

    @rank_zero_only
    def log_ahead(self, metrics: Mapping[str, float], step: int) -> None:
        """Append values that Lightning logs next, ahead of a checkpoint that must not be on disk without them."""
        self.log_metrics(metrics, step)
        self._ahead = {(str(metrics[EPOCH]), str(step), key) for key in metrics}

    def _append(self, rows: Iterable[Sequence[str]]) -> None:
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerows(rows)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` and ``manifest.json`` hold them."""


def read_metrics(path: Path) -> Iterator[LoggedValues]:
    """Yield what was logged at each moment, from a file that need not exist."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        for (epoch, step), rows in groupby(csv.DictReader(file), key=lambda row: (row["epoch"], row["step"])):
            at = {EPOCH: float(epoch)} if epoch else {}
            values: dict[str, float] = {}
            for row in rows:
                if row["metric"] in values:  # the same value twice is the next moment
                    yield values | at, int(step)
                    values = {}
                values[row["metric"]] = float(row["value"])
            yield values | at, int(step)
