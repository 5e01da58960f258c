"""Stop a training or a scoring where nothing is lost, and decide whether a run resumes."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import lightning.pytorch as pl
from torch.utils.data import dataloader

from afr_clip.processes.signals import Stopped, listen, was_requeued
from afr_clip.reports.record.run_folder import holds_run


def resumes(folder: Path, *, resume: bool, requeue: bool) -> bool:
    """Whether a run continues the one in its folder: ``resume=true`` was given, or SLURM requeued its job."""
    return resume or (requeue and was_requeued() and holds_run(folder))


PATIENCE = 5.0
"""Seconds to wait, after a signal, for a point at which nothing is lost."""

SCORING_SAVED = "What was scored before is saved; a dataset that was not finished is scored again."


def _waits_for_data(frame: FrameType | None) -> bool:
    """Whether the main process waits for PyTorch's loading processes."""
    while frame is not None:
        if frame.f_code.co_name == "_get_data" and frame.f_globals.get("__name__") == dataloader.__name__:
            return True
        frame = frame.f_back
    return False


class StopWhenAsked(pl.Callback):
    """Note signals that ask to stop, and stop at the next point where nothing is lost.

    A training stops before the first batch of the next optimiser step and resumes from there bit for bit; all its
    processes stop at the same step, whichever got the signal. Scoring stops after a batch. Signals after the first
    change nothing, so saving is never interrupted. A training that waits for a loading process, and a scoring whose
    batch takes long, are stopped where they are after `PATIENCE`.

    Args:
        save: Saves the state of the training; ``None`` saves nothing.
    """

    # Lightning installs its own handlers after `setup` and restores the earlier ones at the end. They would stop in
    # the middle of accumulated gradients, or requeue a SLURM job by other rules, so these here replace them.

    def __init__(self, save: Callable[[pl.Trainer], object] | None = None) -> None:
        self._save = save
        self._received: int | None = None
        self._trainer: pl.Trainer | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start listening for signals."""
        self._trainer = trainer
        listen(self._note)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start listening; stop if a signal came since the last batch, for example while metrics were computed."""
        self._trainer = None
        listen(self._note)
        self._stop_scoring()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between two epochs; the first was saved when it ended."""
        if self._is_asked(trainer):
            done = trainer.current_epoch
            self._stop(f"Everything up to the end of epoch {done} is saved." if done else "Nothing was trained yet.")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop between two steps."""
        if batch_idx == 0 or batch_idx % trainer.accumulate_grad_batches or not self._is_asked(trainer):
            return  # gradients accumulated over several batches are in no checkpoint
        self._save_between_steps(trainer)
        self._stop(f"Everything up to step {trainer.global_step}, in epoch {trainer.current_epoch + 1}, is saved.")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop after the last epoch."""
        if self._is_asked(trainer):
            self._stop("The training is finished and saved.")

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Stop after a scored batch, each process on its own: they need not score equally many."""
        self._stop_scoring()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Cancel the timer of `PATIENCE`."""
        self._trainer = None
        self._watch(0.0)

    def _stop_scoring(self) -> None:
        if self._received is not None:
            self._stop(SCORING_SAVED)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = signum
            self._watch(PATIENCE)

    def _watch(self, seconds: float) -> None:
        if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
            # A handler that stayed would keep the trainer and its network in memory.
            signal.signal(signal.SIGALRM, self._give_up if seconds else signal.SIG_DFL)

    def _give_up(self, signum: int, frame: FrameType | None) -> None:
        """Stop here if the point at which nothing is lost may never come."""
        trainer = self._trainer
        if trainer is None:
            self._stop(SCORING_SAVED)
        if not _waits_for_data(frame):
            return  # a step or a save finishes on its own
        if trainer.world_size == 1 and trainer.fit_loop.epoch_loop.batch_progress.current.completed:
            self._save_between_steps(trainer)
        self._stop("What was trained before the loading processes stopped is saved.")

    def _save_between_steps(self, trainer: pl.Trainer) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if self._save is None or progress.current.completed % trainer.accumulate_grad_batches:
            return
        # The next batch may have been fetched, but was not trained on. Count it as not begun.
        for tracker in (progress.current, progress.total):
            tracker.ready = tracker.completed
        progress.is_last_batch = False
        self._save(trainer)

    def _is_asked(self, trainer: pl.Trainer) -> bool:
        return bool(trainer.strategy.reduce_boolean_decision(self._received is not None, all=False))

    def _stop(self, saved: str) -> NoReturn:
        self._watch(0.0)
        raise Stopped(self._received or signal.SIGTERM, saved)  # the signal may have come to another process
