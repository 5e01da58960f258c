"""Checkpoints: the trainable weights and the manifest, and apart from them what a resumed training needs."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from afr_clip.files import written_whole
from afr_clip.training.module import AnomalyDetectionModule, AnomalyNetwork

FORMAT = "afr-clip-adapters-1"
LAST = "last.ckpt"
RESUME = "resume.ckpt"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as asked."""


@dataclass(frozen=True)
class Checkpoint:
    """What ``last.ckpt`` holds.

    Attributes:
        path: Where it was read.
        state_dict: The trainable weights by the network's parameter names.
        manifest: What was run: config, commit, seed, data, fingerprint of the frozen weights.
    """

    path: Path
    state_dict: Mapping[str, Tensor]
    manifest: Mapping[str, Any]


class CheckpointWriter(pl.Callback):
    """After every epoch write ``last.ckpt`` (a few MB to share) and ``resume.ckpt`` (optimiser and progress besides).

    Both are written under another name first, so that a file is either whole or the one before it.

    Args:
        folder: The run's ``checkpoints/``.
        manifest: Kept in ``last.ckpt``.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._folder = folder
        self._manifest = manifest

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write both files."""
        assert isinstance(pl_module, AnomalyDetectionModule)
        # resume.ckpt goes last: where only one of them gets written, the epoch is trained and written again.
        if trainer.is_global_zero:
            self._write_last(pl_module.network, trainer.current_epoch + 1)
        self.save_progress(trainer)

    def save_progress(self, trainer: pl.Trainer) -> None:
        """Write ``resume.ckpt`` alone, between any two steps; ``last.ckpt`` stays that of the last whole epoch.

        Args:
            trainer: Of the training.
        """
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self._folder / RESUME)  # every process takes part, the first one writes
            return
        with written_whole(self._folder / RESUME) as unfinished:
            trainer.save_checkpoint(unfinished)

    def _write_last(self, network: AnomalyNetwork, epochs: int) -> None:
        names = network.trainable_parameter_names()
        weights = {name: p.detach().cpu() for name, p in network.named_parameters() if name in names}
        content = {"format": FORMAT, "state_dict": weights, "manifest": {**self._manifest, "epochs": epochs}}
        # Serialised in memory first: on a full disk PyTorch's own writer fails with words that do not say so.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with written_whole(self._folder / LAST) as unfinished:
            unfinished.write_bytes(buffer.getvalue())


def read_checkpoint(run_or_file: Path) -> Checkpoint:
    """Read the adapters of a run.

    Args:
        run_or_file: A run folder, or the file itself.

    Returns:
        Weights and manifest, on the CPU.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        CheckpointError: If the file is another kind of file.
    """
    path = run_or_file / "checkpoints" / LAST if run_or_file.is_dir() else run_or_file
    if not path.is_file():
        msg = f"A checkpoint must lie at {path}, found none. Pass checkpoint=RUN (a run folder) or checkpoint=FILE."
        raise FileNotFoundError(msg)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        content = error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        msg = f"{path} must be a {LAST} written by afr_clip.train, and is something else. Pass the run folder."
        raise CheckpointError(msg)
    return Checkpoint(path, content["state_dict"], content["manifest"])


def load_adapters(network: AnomalyNetwork, checkpoint: Checkpoint, fingerprint: str) -> None:
    """Put the trained weights into a network built as it was for training.

    Args:
        network: Built, its adapters not yet trained.
        checkpoint: The weights.
        fingerprint: SHA-256 of the network's frozen weights.

    Raises:
        CheckpointError: If the adapters were trained on other frozen weights, or a weight is missing, unexpected or of
            another shape.
    """
    trained_on = checkpoint.manifest["backbone"]
    if trained_on["fingerprint"] != fingerprint:
        msg = (
            f"{checkpoint.path} must meet the frozen weights it was trained on (backbone {trained_on['name']}, "
            f"{trained_on['fingerprint'][:12]}), got others ({fingerprint[:12]}). Pass the same weights file."
        )
        raise CheckpointError(msg)
    names = network.trainable_parameter_names()
    own = {name: parameter for name, parameter in network.named_parameters() if name in names}
    differing = sorted(own.keys() ^ checkpoint.state_dict.keys())
    differing += [
        n for n in own.keys() & checkpoint.state_dict.keys() if own[n].shape != checkpoint.state_dict[n].shape
    ]
    if differing:
        msg = (
            f"{checkpoint.path} must hold exactly the weights of this network, got {len(differing)} that differ, for "
            f"example {differing[0]}. Leave module.* overrides that change the network out."
        )
        raise CheckpointError(msg)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(checkpoint.state_dict[name])


def read_progress(resume: Path) -> int:
    """Read how many optimiser steps a training had made.

    Args:
        resume: A ``resume.ckpt``.

    Returns:
        The number of steps.

    Raises:
        CheckpointError: If the file is damaged.
    """
    try:
        # Mapped, not read: the optimiser's state is large, and one number is wanted.
        return int(torch.load(resume, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except (UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        msg = f"{resume} must hold the state of a training, and is damaged. Choose another run_dir and train anew."
        raise CheckpointError(msg) from error


def checkpoint_sha256(folder: Path) -> str | None:
    """Return the SHA-256 of ``last.ckpt``, which tells the weights of one training from those of any other.

    Args:
        folder: The run's ``checkpoints/``.

    Returns:
        Hex digits; ``None`` where no epoch was finished.
    """
    path = folder / LAST
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def resume_path(folder: Path) -> Path | None:
    """Return the file a training is continued from, or ``None`` where no epoch was finished.

    Args:
        folder: The run's ``checkpoints/``.
    """
    path = folder / RESUME
    return path if path.is_file() else None
