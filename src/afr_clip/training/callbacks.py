"""Callbacks that hand predictions on: to whoever writes maps, figures or tables."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from afr_clip.data.records import AnomalyBatch
from afr_clip.models.prediction import AnomalyPrediction

PredictionSink = Callable[[AnomalyBatch, Tensor, Tensor], None]
"""Takes a batch, its anomaly maps ``(B, H, W)`` and its image scores ``(B,)``."""

EpochSink = Callable[[int, AnomalyBatch, Tensor, Tensor], None]
"""Takes an epoch, a batch, its anomaly maps and its image scores."""


class ForEachPrediction(pl.Callback):
    """Give every prediction of a test or predict run to the sinks, so that no run has to keep its maps.

    Attributes:
        sinks: Called in order; set anew for each dataset.
    """

    def __init__(self) -> None:
        self.sinks: Sequence[PredictionSink] = ()

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: AnomalyBatch, *args: Any
    ) -> None:
        """Hand a scored batch on."""
        self._hand_on(outputs, batch)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: AnomalyBatch, *args: Any
    ) -> None:
        """Hand a scored batch on."""
        self._hand_on(outputs, batch)

    def _hand_on(self, prediction: AnomalyPrediction | None, batch: AnomalyBatch) -> None:
        if prediction is None:  # a process without images of its own
            return
        for sink in self.sinks:
            sink(batch, prediction.anomaly_map, prediction.image_score)


class ForFirstBatchOfEpoch(pl.Callback):
    """Give the first prediction of every n-th training epoch to a sink, for figures that show learning.

    Args:
        sink: Called with the epoch.
        every_n_epochs: How often; the last epoch is always shown.
    """

    def __init__(self, sink: EpochSink, every_n_epochs: int) -> None:
        self._sink = sink
        self._every = every_n_epochs

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: AnomalyBatch, batch_idx: int
    ) -> None:
        """Hand the first batch on."""
        is_last = trainer.max_epochs is not None and trainer.current_epoch == trainer.max_epochs - 1
        if batch_idx == 0 and trainer.is_global_zero and (is_last or trainer.current_epoch % self._every == 0):
            prediction: AnomalyPrediction = outputs["prediction"]
            self._sink(trainer.current_epoch, batch, prediction.anomaly_map.detach(), prediction.image_score.detach())
