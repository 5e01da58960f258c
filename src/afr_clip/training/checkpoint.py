"""What a training keeps after every epoch: ``last.ckpt``, and ``resume.ckpt`` to continue from."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from afr_clip.clip.tensor_file import TensorFileError, read_tensor_file
from afr_clip.data.records import AnomalyBatch
from afr_clip.files import shown, written_whole
from afr_clip.kinds import faults_of
from afr_clip.models.checkpoint import EPOCHS, FORMAT, LAST, CheckpointError, require_finite
from afr_clip.models.interface import learned_tensors
from afr_clip.training.module import DIVERGED, AnomalyDetectionModule, TrainingDivergedError

RESUME = "resume.ckpt"


@dataclass
class _Optimizer:
    state: dict[int, dict[str, Tensor]]
    param_groups: list[dict[str, Any]]


@dataclass
class _Loops:
    fit_loop: dict[str, Any]


@dataclass
class _Resume:
    """What ``resume.ckpt`` holds, most of which only Lightning understands."""

    epoch: int
    global_step: int
    state_dict: dict[str, Tensor]
    optimizer_states: list[_Optimizer]
    lr_schedulers: list[dict[str, Any]]
    loops: _Loops


class CheckpointWriter(pl.Callback):
    """Replace ``last.ckpt`` (a few MB, to share) and ``resume.ckpt`` (optimiser and progress too) after every epoch.

    Both are replaced atomically: a killed run leaves the new file or the old one, never half a file.

    Args:
        folder: The run's ``checkpoints/``.
        manifest: Kept in ``last.ckpt``.
        keep_every_epoch: Whether each ``last.ckpt`` is kept under the number of its epoch too.

    Attributes:
        has_begun: Whether training has started, so that everything was restored.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], *, keep_every_epoch: bool = False) -> None:
        self._folder = folder
        self._keeps_every_epoch = keep_every_epoch
        self._manifest = manifest
        self._batch: AnomalyBatch | None = None
        self.has_begun = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that training begins."""
        self.has_begun = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: AnomalyBatch, batch_idx: int
    ) -> None:
        """Keep the batch: after the last one, no loss shows whether its step was too large."""
        self._batch = batch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write both files."""
        assert isinstance(pl_module, AnomalyDetectionModule)
        self._refuse_divergence(trainer)
        self._batch = None  # checked, so the next file needs no second check
        if trainer.is_global_zero:
            weights = {name: value.detach().cpu() for name, value in learned_tensors(pl_module.network).items()}
            manifest = {**self._manifest, "epochs": trainer.current_epoch + 1}
            # Serialised in memory first, because torch.save does not report a full disk as such.
            buffer = io.BytesIO()
            torch.save({"format": FORMAT, "state_dict": weights, "manifest": manifest}, buffer)
            epochs = [EPOCHS.replace("*", f"{trainer.current_epoch + 1:04d}")] if self._keeps_every_epoch else []
            for name in (*epochs, LAST):
                with written_whole(self._folder / name) as unfinished:
                    unfinished.write_bytes(buffer.getvalue())
        # resume.ckpt goes last: if only last.ckpt gets written, the epoch is trained and written again.
        self.save_progress(trainer)

    def save_progress(self, trainer: pl.Trainer) -> None:
        """Write ``resume.ckpt`` alone, between any two steps; ``last.ckpt`` stays that of the last full epoch."""
        self._refuse_divergence(trainer)
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self._folder / RESUME)  # all processes take part, only the first one writes
            return
        with written_whole(self._folder / RESUME) as unfinished:
            trainer.save_checkpoint(unfinished)

    def _refuse_divergence(self, trainer: pl.Trainer) -> None:
        """Raise in all processes, and write nothing, if the last step of one of them diverged."""
        module = trainer.lightning_module
        assert isinstance(module, AnomalyDetectionModule)
        if not trainer.strategy.reduce_boolean_decision(not module.is_sound(self._batch), all=False):
            return
        msg = (
            f"The weights, or the scores that they give, became NaN or infinite with step {trainer.global_step}, in "
            f"epoch {trainer.current_epoch + 1}. {DIVERGED}"
        )
        raise TrainingDivergedError(msg)


def read_progress(resume: Path) -> int:
    """Read from a ``resume.ckpt`` how many optimiser steps a training had made, and check all of the file.

    Raises:
        CheckpointError: If the file is damaged, or the training had diverged.
    """
    advice = "Choose another run_dir and train from the start"
    try:
        content = read_tensor_file(resume)
        fault = next(faults_of(content, _Resume), None)
    except TensorFileError as error:
        fault = str(error)
    if fault is not None:
        msg = f"{shown(resume)} is damaged, so the training cannot be resumed: {fault}. {advice}."
        raise CheckpointError(msg)
    require_finite(resume, content["state_dict"], advice)
    for optimizer in content["optimizer_states"]:
        for number, moments in optimizer["state"].items():
            require_finite(resume, {f"{key} of parameter {number}": m for key, m in moments.items()}, advice)
    steps: int = content["global_step"]
    return steps


def checkpoint_sha256(folder: Path) -> str | None:
    """Return the SHA-256 of ``last.ckpt`` in ``checkpoints/``, which identifies the trained weights, if it exists."""
    path = folder / LAST
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def resume_path(folder: Path) -> Path | None:
    """Return the ``resume.ckpt`` in ``checkpoints/``, if it exists."""
    path = folder / RESUME
    return path if path.is_file() else None
