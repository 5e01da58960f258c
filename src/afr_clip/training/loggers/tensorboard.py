"""TensorBoard: event files in the run folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from afr_clip.metrics.log_keys import LOSS_EPOCH, RESULTS_TABLE, table_columns
from afr_clip.metrics.protocol import METRICS
from afr_clip.training.loggers.mirror import Mirror, RunFacts, require_package
from afr_clip.training.loggers.published import Published

FOLDER = "tensorboard"


class TensorBoardMirror(Mirror):
    """Mirror a run in ``RUN/tensorboard``: curves, pictures, config and results as text. It has no place for files.

    Args:
        facts: Of the run.
        flush_secs: How long values may stay in memory.
        drop_from_step: TensorBoard forgets values of this and later steps, because a resumed training logs them again.
    """

    TITLE = "TensorBoard"

    def __init__(self, facts: RunFacts, *, flush_secs: int, drop_from_step: int | None = None) -> None:
        require_package("tensorboard", "logger=tensorboard")
        super().__init__(facts)
        self._flush_secs = flush_secs
        self._drop_from_step = drop_from_step or None  # a file that begins with a purge says nothing
        self._writer: Any = None

    @property
    def name(self) -> str:
        """The logger's name."""
        return "tensorboard"

    def _open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - takes seconds

        folder = str(self._facts.folder / FOLDER)
        self._writer = SummaryWriter(folder, purge_step=self._drop_from_step, flush_secs=self._flush_secs)
        self._writer.add_text("config", _as_code(self._facts.config))

    def _send_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)
        if LOSS_EPOCH in metrics:
            self._writer.flush()  # a training that is killed goes on after its last whole epoch

    def _send_picture(self, key: str, path: Path, step: int) -> None:
        with Image.open(path) as picture:
            self._writer.add_image(key, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def _publish(self, published: Published, means: Mapping[str, float]) -> None:
        self._send_metrics(means, 0)
        self._writer.add_text(RESULTS_TABLE, _as_table(published))

    def _close(self, succeeded: bool) -> None:
        self._writer.close()


def _as_code(config: Mapping[str, Any]) -> str:
    lines = json.dumps(config, indent=2, default=str).splitlines()
    return "\n".join(f"    {line}" for line in lines)


def _as_table(published: Published) -> str:
    rows = [list(table_columns()), ["---"] * len(table_columns())]
    for row in published.rows:
        values = (row.values.get(metric) for metric in METRICS)
        shown = ("-" if value is None else f"{100 * value:.1f}" for value in values)
        rows.append([row.dataset, row.category, *shown, str(row.num_normal), str(row.num_anomalous)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
