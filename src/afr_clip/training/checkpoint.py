"""Checkpoints: ``last.ckpt`` holds trainable weights and manifest; ``resume.ckpt`` what a resumed training needs."""

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
from afr_clip.training.module import AnomalyDetectionModule, AnomalyNetwork, UpgradingNetwork

FORMAT = "afr-clip-adapters-1"
LAST = "last.ckpt"
RESUME = "resume.ckpt"

_UNREADABLE = (UnpicklingError, RuntimeError, EOFError, LookupError, ValueError)
"""What ``torch.load`` raises for a damaged file."""


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
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._folder = folder
        self._manifest = manifest

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write both files."""
        assert isinstance(pl_module, AnomalyDetectionModule)
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
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self._folder / RESUME)  # all processes take part, only the first one writes
            return
        with written_whole(self._folder / RESUME) as unfinished:
            trainer.save_checkpoint(unfinished)


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
        msg = f"There is no checkpoint at {path}. Pass checkpoint=RUN (a run folder) or checkpoint=FILE."
        raise FileNotFoundError(msg)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        content = error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        msg = f"{path} is not a {LAST} written by afr_clip.train, or it is damaged. Pass the run folder."
        raise CheckpointError(msg)
    return Checkpoint(path, content["state_dict"], content["manifest"])


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
    """Read from a ``resume.ckpt`` how many optimiser steps a training had made.

    Raises:
        CheckpointError: If the file is damaged.
    """
    try:
        # Mapped, not read: the optimiser's state is large, and only one number is needed.
        return int(torch.load(resume, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except _UNREADABLE as error:
        msg = (
            f"{resume} is damaged, so the training cannot be resumed. Choose another run_dir and train from the start."
        )
        raise CheckpointError(msg) from error


def checkpoint_sha256(folder: Path) -> str | None:
    """Return the SHA-256 of ``last.ckpt`` in ``checkpoints/``, which identifies the trained weights, if it exists."""
    path = folder / LAST
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def resume_path(folder: Path) -> Path | None:
    """Return the ``resume.ckpt`` in ``checkpoints/``, if it exists."""
    path = folder / RESUME
    return path if path.is_file() else None
