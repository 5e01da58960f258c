"""TensorBoard: event files in the run folder."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from afr_clip.metrics.log_keys import LOSS_EPOCH, RESULTS_TABLE, table_columns
from afr_clip.training.loggers.mirror import Backend, Picture, Published, RunFacts

FOLDER = "tensorboard"


class TensorBoard(Backend, TensorBoardLogger):
    """Write curves and figures, and name, config and results as text, to ``RUN/tensorboard``.

    TensorBoard keeps no files, and lists runs by their folders.

    Args:
        flush_secs: Most seconds that values stay in memory.
        drop_from_step: TensorBoard forgets values of this and later steps, because a resumed training logs them again.
    """

    TITLE = "TensorBoard"

    def __init__(self, facts: RunFacts, *, flush_secs: int, drop_from_step: int | None = None) -> None:
        # 0 would write a purge event into a file that has nothing to purge.
        super().__init__(facts.folder, FOLDER, version="", purge_step=drop_from_step or None, flush_secs=flush_secs)
        lines = json.dumps(facts.config, indent=2, default=str).splitlines()
        self.experiment.add_text("name", facts.name or facts.folder.name)
        self.experiment.add_text("config", "\n".join(f"    {line}" for line in lines))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values."""
        super().log_metrics(metrics, step)
        if LOSS_EPOCH in metrics:
            self.experiment.flush()  # a killed training is resumed from its last full epoch

    def log_pictures(self, key: str, pictures: Sequence[Picture]) -> None:
        """Log pictures without overlays."""
        for picture in pictures:
            with Image.open(picture.path, formats=["PNG", "JPEG"]) as image:
                self.experiment.add_image(key, np.asarray(image.convert("RGB")), 0, dataformats="HWC")

    def publish(self, published: Published) -> None:
        """Log macro averages, and the results as a table in percent."""
        self.log_metrics(published.means, 0)
        columns = list(table_columns())
        table = [columns, ["---"] * len(columns), *([_as_text(cell) for cell in row] for row in published.rows)]
        self.experiment.add_text(RESULTS_TABLE, "\n".join(f"| {' | '.join(row)} |" for row in table))

    def close(self, *, succeeded: bool) -> None:
        """Close the event file."""
        self.experiment.close()


def _as_text(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{100 * cell:.1f}"
    return "-" if cell is None else str(cell)
