"""Checkpoints: ``last.ckpt`` holds trainable weights and manifest; ``resume.ckpt`` what a resumed training needs."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from afr_clip.clip.tensor_file import TensorFileError, not_finite, read_tensor_file
from afr_clip.data.records import AnomalyBatch
from afr_clip.files import shown, written_whole
from afr_clip.kinds import faults_of
from afr_clip.training.module import (
    DIVERGED,
    AnomalyDetectionModule,
    AnomalyNetwork,
    TrainingDivergedError,
    UpgradingNetwork,
)

FORMAT: Literal["afr-clip-adapters-1"] = "afr-clip-adapters-1"
LAST = "last.ckpt"
RESUME = "resume.ckpt"


@dataclass
class _Dataset:
    name: str
    categories: list[str]
    num_normal: int
    num_anomalous: int
    sha256: str


@dataclass
class _Named:
    name: str


@dataclass
class _Config:
    backbone: _Named
    module: _Named


@dataclass
class _Backbone(_Named):
    fingerprint: str


@dataclass
class _TrainedOn(_Named):
    root: str
    images: list[str]
    categories: list[str] | None


@dataclass
class _Commit:
    hash: str
    dirty: bool


@dataclass
class _Precision:
    chosen: str


@dataclass
class _Manifest:
    """The manifest in ``last.ckpt``, as far as it is read again. Records of older versions lack the last values."""

    config: _Config
    backbone: _Backbone
    trained_on: _TrainedOn
    epochs: int
    seed: int = 0
    started: str = ""
    auxiliary: _Dataset = None  # type: ignore[assignment]  # may be absent, but not null
    commit: _Commit | None = None
    precision: _Precision | None = None


@dataclass
class _Last:
    """What ``last.ckpt`` holds."""

    format: Literal["afr-clip-adapters-1"]
    state_dict: dict[str, Tensor]
    manifest: _Manifest


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


class CheckpointError(ValueError):
    """A checkpoint cannot be used."""


@dataclass(frozen=True)
class Checkpoint:
    """What ``last.ckpt`` holds.

    Attributes:
        state_dict: The trainable weights by the network's parameter names.
        manifest: Config, commit, seed, data and fingerprint of the frozen weights.
    """

    path: Path
    state_dict: Mapping[str, Tensor]
    manifest: Mapping[str, Any]


class CheckpointWriter(pl.Callback):
    """Replace ``last.ckpt`` (a few MB, to share) and ``resume.ckpt`` (optimiser and progress too) after every epoch.

    Both are replaced atomically: a killed run leaves the new file or the old one, never half a file.

    Args:
        folder: The run's ``checkpoints/``.
        manifest: Kept in ``last.ckpt``.

    Attributes:
        has_begun: Whether training has started, so that everything was restored.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._folder = folder
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
            network = pl_module.network
            names = network.trainable_parameter_names()
            weights = {name: p.detach().cpu() for name, p in network.named_parameters() if name in names}
            manifest = {**self._manifest, "epochs": trainer.current_epoch + 1}
            # Serialised in memory first, because torch.save does not report a full disk as such.
            buffer = io.BytesIO()
            torch.save({"format": FORMAT, "state_dict": weights, "manifest": manifest}, buffer)
            with written_whole(self._folder / LAST) as unfinished:
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


def read_checkpoint(run_or_file: Path) -> Checkpoint:
    """Read the adapters of a run onto the CPU.

    Args:
        run_or_file: A run folder, or the checkpoint file.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        CheckpointError: If the file is not a checkpoint of this package.
    """
    path = run_or_file / "checkpoints" / LAST if run_or_file.is_dir() else run_or_file
    if not path.is_file():
        msg = f"There is no checkpoint at {shown(path)}. Pass checkpoint=RUN (a run folder) or checkpoint=FILE."
        raise FileNotFoundError(msg)
    try:
        content = read_tensor_file(path)
    except TensorFileError as error:
        msg = f"{error}. A checkpoint is the {LAST} of a run; pass the run folder, or copy the file again."
        raise CheckpointError(msg) from error
    fault = next(faults_of(content, _Last), None)
    if fault is None and content["manifest"]["epochs"] < 1:
        fault = "nothing was trained, because manifest.epochs is 0"
    if fault is not None:
        msg = (
            f"{shown(path)} is not a {LAST} written by afr_clip.train, or it is damaged: {fault}. Pass the run folder."
        )
        raise CheckpointError(msg)
    _require_finite(path, content["state_dict"], "Train again with a lower optimizer.lr")
    return Checkpoint(path, content["state_dict"], content["manifest"])


def _require_finite(path: Path, tensors: Mapping[str, Tensor], advice: str) -> None:
    if broken := not_finite(tensors):
        msg = f"{shown(path)} holds NaN or infinity in {shown(broken[0])}: that training diverged. {advice}."
        raise CheckpointError(msg)


def load_adapters(network: AnomalyNetwork, checkpoint: Checkpoint, fingerprint: str) -> None:
    """Copy trained weights into a network that was built the same way as for training.

    Args:
        fingerprint: SHA-256 of the network's frozen weights.

    Raises:
        CheckpointError: If the adapters were trained on other frozen weights, or a weight is missing, unexpected or of
            another shape.
    """
    trained_on = checkpoint.manifest["backbone"]
    if trained_on["fingerprint"] != fingerprint:
        msg = (
            f"{checkpoint.path} was trained on other frozen weights (backbone {trained_on['name']}, "
            f"{trained_on['fingerprint'][:12]}) than those loaded now ({fingerprint[:12]}). Pass the same weights file."
        )
        raise CheckpointError(msg)
    names, saved = network.trainable_parameter_names(), dict(checkpoint.state_dict)
    own = {name: parameter for name, parameter in network.named_parameters() if name in names}
    differing = sorted(own.keys() ^ saved.keys())
    if isinstance(network, UpgradingNetwork):
        saved |= {name: network.upgraded(name, saved[name]) for name in own.keys() & saved.keys()}
    differing += [name for name in own.keys() & saved.keys() if own[name].shape != saved[name].shape]
    if differing:
        msg = (
            f"{checkpoint.path} must hold exactly the weights of this network; {len(differing)} differ, for example "
            f"{differing[0]}. Remove module.* overrides that change the network."
        )
        raise CheckpointError(msg)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(saved[name])


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
    _require_finite(resume, content["state_dict"], advice)
    for optimizer in content["optimizer_states"]:
        for number, moments in optimizer["state"].items():
            _require_finite(resume, {f"{key} of parameter {number}": m for key, m in moments.items()}, advice)
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
