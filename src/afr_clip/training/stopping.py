"""Stop at a signal: finish the running step, save, and say so."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from afr_clip.processes.signals import STOP_SIGNALS, Stopped
from afr_clip.training.checkpoint import CheckpointWriter


class StopWhenAsked(pl.Callback):
    """Note the signals that ask to stop while a network is run over data, and stop where nothing is lost.

    In training that is before the next optimiser step's first batch, whose state is saved and gone on from bit for bit;
    in scoring it is after the batch. All processes of a training stop at the same step, whichever of them was asked.
    A signal after the first changes nothing: what is being saved gets finished.

    Lightning has handlers of its own, which it puts in place after ``setup`` and takes back by itself; they would stop
    in the middle of accumulated gradients, or requeue a SLURM job by rules of their own.

    Args:
        checkpoints: Saves the state of a training.
    """

    def __init__(self, checkpoints: CheckpointWriter | None = None) -> None:
        self._checkpoints = checkpoints
        self._received: int | None = None
        self._pass_on: Callable[[int], None] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen."""
        self._listen(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen, unless it was asked since the last batch: while metrics were computed, or a training was closed."""
        self._listen(trainer)
        self._stop_scoring()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between two epochs, of which the first was saved when it ended."""
        if self._is_asked(trainer):
            done = trainer.current_epoch
            self._stop(f"Everything up to the end of epoch {done} is saved." if done else "Nothing was trained yet.")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop between two steps."""
        if batch_idx == 0 or batch_idx % trainer.accumulate_grad_batches or not self._is_asked(trainer):
            return  # gradients that add up over several batches are in no checkpoint
        if self._checkpoints is not None:
            _unbegin_batch(trainer)
            self._checkpoints.save_progress(trainer)
        self._stop(f"Everything up to step {trainer.global_step}, in epoch {trainer.current_epoch + 1}, is saved.")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop after the last epoch."""
        if self._is_asked(trainer):
            self._stop("The training is finished and saved.")

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Stop after a scored batch, each process for itself: not all of them score as many."""
        self._stop_scoring()

    def _stop_scoring(self) -> None:
        if self._received is not None:
            self._stop("The training and the targets scored before are saved; the one being scored starts anew.")

    def _listen(self, trainer: pl.Trainer) -> None:
        # Processes that Lightning has started are asked by this one; those of a scheduler get the signal from there.
        self._pass_on = getattr(trainer.strategy.launcher, "kill", None)
        if threading.current_thread() is threading.main_thread():  # elsewhere Python lets nobody listen
            for signum in STOP_SIGNALS:
                signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._received is not None:
            return
        self._received = signum
        if self._pass_on is not None:
            self._pass_on(signum)

    def _is_asked(self, trainer: pl.Trainer) -> bool:
        return bool(trainer.strategy.reduce_boolean_decision(self._received is not None, all=False))

    def _stop(self, saved: str) -> None:
        raise Stopped(self._received or signal.SIGTERM, saved)  # another process was asked


def _unbegin_batch(trainer: pl.Trainer) -> None:
    """Count the batch that was fetched and not trained on as not begun, so that a checkpoint stands between steps."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    for tracker in (progress.current, progress.total):
        tracker.ready = tracker.completed
    progress.is_last_batch = False
