"""Callbacks: progress on a terminal or in the log, and predictions handed to sinks."""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from torch import Tensor

from afr_clip.data.records import AnomalyBatch
from afr_clip.metrics.log_keys import EPOCH, LOSS_EPOCH, LOSS_STEP
from afr_clip.models.prediction import AnomalyPrediction
from afr_clip.training.loggers.metrics_csv import MetricsCSV
from afr_clip.training.module import AnomalyDetectionModule

logger = logging.getLogger(__name__)

PredictionSink = Callable[[AnomalyBatch, Tensor, Tensor], None]
"""Takes a batch, its anomaly maps ``(B, H, W)`` and its image scores ``(B,)``."""

EpochSink = Callable[[int, AnomalyBatch, Tensor, Tensor], None]
"""Takes an epoch counted from 1, a batch, its anomaly maps and its image scores."""

LOG_INTERVAL = 60.0
"""Most seconds between two log lines of a training or scoring without a terminal."""


def show_progress() -> ProgressBar:
    """Return a progress bar if stderr is a terminal, and log lines if it is not."""
    return EpochBar() if sys.stderr.isatty() else ProgressLog()


class EpochBar(RichProgressBar):
    """Lightning's bar on stderr, with epochs counted from 1."""

    def __init__(self) -> None:
        super().__init__(console_kwargs={"stderr": True})

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1} of {self.trainer.max_epochs}"


class ProgressLog(ProgressBar):
    """Log one line per epoch, and one per minute within an epoch or while a dataset is scored."""

    def __init__(self) -> None:
        super().__init__()
        self._is_enabled = True
        self._restart()

    def disable(self) -> None:
        """Log nothing; Lightning calls this in all processes but the first."""
        self._is_enabled = False

    def enable(self) -> None:
        """Log again."""
        self._is_enabled = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Count batches and time from here."""
        super().setup(trainer, pl_module, stage)
        self._restart()

    def _restart(self) -> None:
        self._epoch = self._num_batches = self._num_images = 0
        self._started = self._last_line = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the previous epoch, whose mean loss is known only now."""
        self._log_epoch(trainer)
        self._restart()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the last epoch."""
        self._log_epoch(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: AnomalyBatch, batch_idx: int
    ) -> None:
        """Count the batch; log where the last line is a minute old."""
        self._epoch = trainer.current_epoch + 1
        done, total = batch_idx + 1, int(self.total_train_batches)
        if self._count(batch) and done < total:
            left = total - done + total * ((trainer.max_epochs or 0) - self._epoch)
            loss = float(trainer.callback_metrics[LOSS_STEP])
            self._log(f"Epoch {self._epoch} of {trainer.max_epochs}, batch {done} of {total}: loss {loss:.4f}", left)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: AnomalyBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch; log where the last line is a minute old."""
        total = int(sum(trainer.num_test_batches))
        if self._count(batch):
            self._log(f"Scored batch {batch_idx + 1} of {total}", total - batch_idx - 1)

    def _count(self, batch: AnomalyBatch) -> bool:
        self._num_batches += 1
        self._num_images += batch.share.whole if batch.share else len(batch.samples)
        return time.monotonic() - self._last_line >= LOG_INTERVAL

    def _log_epoch(self, trainer: pl.Trainer) -> None:
        if self._num_batches:
            left = int(self.total_train_batches) * ((trainer.max_epochs or 0) - self._epoch)
            loss = float(trainer.callback_metrics[LOSS_EPOCH])
            self._log(f"Epoch {self._epoch} of {trainer.max_epochs}: loss {loss:.4f}", left)

    def _log(self, what: str, batches_left: int) -> None:
        self._last_line = time.monotonic()
        seconds = max(self._last_line - self._started, 1e-9)
        left = timedelta(seconds=round(seconds / self._num_batches * batches_left))
        if self._is_enabled:
            logger.info("%s, %.1f images/s, %s left", what, self._num_images / seconds, left)


class EpochInRecord(pl.Callback):
    """Write the means of an epoch to ``metrics.csv`` before its checkpoint; Lightning logs them after it.

    A training that is killed between the two would resume after the epoch, and its means would be lost. So this must
    come before the callback that writes checkpoints.
    """

    def __init__(self, record: MetricsCSV) -> None:
        self._record = record

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the means."""
        assert isinstance(pl_module, AnomalyDetectionModule)
        means = pl_module.epoch_means()  # in all processes, which add up together
        values = {LOSS_EPOCH: means.pop(LOSS_EPOCH), **means}
        plain = {key: float(value) for key, value in values.items()}
        self._record.log_ahead({**plain, EPOCH: trainer.current_epoch}, trainer.global_step - 1)


class ForEachPrediction(pl.Callback):
    """Give every prediction of a test run to the sinks, so that no run has to keep its maps.

    Attributes:
        sinks: Called in order; replaced for each dataset.
    """

    def __init__(self) -> None:
        self.sinks: Sequence[PredictionSink] = ()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: AnomalyBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Pass the prediction to every sink; a process without images of its own has none."""
        prediction: AnomalyPrediction | None = outputs
        if prediction is not None:
            for sink in self.sinks:
                sink(batch, prediction.anomaly_map, prediction.image_score)


class ForFirstBatchOfEpoch(pl.Callback):
    """Pass the first prediction of every n-th training epoch to a sink, for figures that show training progress.

    Args:
        sink: Called with the epoch, counted from 1.
        every_n_epochs: 1 for every epoch; the first and the last one are always shown.
    """

    def __init__(self, sink: EpochSink, every_n_epochs: int) -> None:
        self._sink = sink
        self._every = every_n_epochs

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: AnomalyBatch, batch_idx: int
    ) -> None:
        """Pass the first batch of an epoch to the sink."""
        is_last = trainer.max_epochs is not None and trainer.current_epoch == trainer.max_epochs - 1
        if batch_idx == 0 and trainer.is_global_zero and (is_last or trainer.current_epoch % self._every == 0):
            prediction: AnomalyPrediction = outputs["prediction"]
            maps, scores = prediction.anomaly_map.detach(), prediction.image_score.detach()
            self._sink(trainer.current_epoch + 1, batch, maps, scores)
