"""Loggers: a CSV file that only grows, and Weights & Biases that goes offline by itself."""

import csv
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, WandbLogger

from afr_clip.files import written_whole

WANDB_URL = "https://api.wandb.ai"
NETWORK_PATIENCE = 3.0
"""Seconds to wait for an answer before Weights & Biases goes offline."""


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


def build_wandb(
    folder: Path, *, project: str, entity: str | None, group: str | None, tags: Sequence[str]
) -> WandbLogger:
    """Build the Weights & Biases logger, offline where there is no API key or no network.

    Args:
        folder: The run folder; its ``wandb/`` is written.
        project: Project name.
        entity: User or team; ``None`` for the default.
        group: Groups the runs of a sweep.
        tags: Labels of the run.

    Returns:
        The logger; ``WANDB_MODE`` wins where it is set.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # the last line on stdout is ours
    host = urlparse(os.environ.get("WANDB_BASE_URL", WANDB_URL)).hostname or ""
    offline = "WANDB_MODE" not in os.environ and not (_has_api_key(host) and _reaches(host))
    return WandbLogger(
        name=folder.name,
        save_dir=str(folder),
        offline=offline,
        project=project,
        entity=entity,
        group=group,
        tags=list(tags),
    )


def _has_api_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc().authenticators(host) is not None  # where `wandb login` puts it
    except (OSError, NetrcParseError):
        return False


def _reaches(host: str) -> bool:
    if getproxies():  # it is the proxy that knows the way
        return True
    try:
        with socket.create_connection((host, 443), timeout=NETWORK_PATIENCE):
            return True
    except OSError:
        return False


def close_loggers(loggers: Sequence[Logger]) -> None:
    """End what would otherwise stay open until the process ends, and swallow what the next run in it logs.

    Args:
        loggers: All loggers of a run.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def log_figures(loggers: Sequence[Logger], name: str, paths: Sequence[Path], step: int | None = None) -> None:
    """Send pictures to the loggers that take them.

    Args:
        loggers: All loggers of a run.
        name: Leading part of the key.
        paths: PNG files; their stems complete the key.
        step: Training step the pictures belong to.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            for path in paths:
                logger.log_image(key=f"figures/{name}/{path.stem}", images=[str(path)], step=step)
