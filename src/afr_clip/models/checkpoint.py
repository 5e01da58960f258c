"""Trained weights: ``last.ckpt``, which holds the weights that were trained and the manifest of their training.

A model that is shared holds the same as ``model.safetensors`` and ``config.json``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from afr_clip.clip.hub import download
from afr_clip.clip.settings import ON_HUB
from afr_clip.clip.tensor_file import TensorFileError, not_finite, read_tensor_file, write_tensors
from afr_clip.clip.weights import PACKAGED, weight_path
from afr_clip.files import shown, written_whole
from afr_clip.kinds import faults_of
from afr_clip.models.interface import AnomalyNetwork, UpgradingNetwork, learned_tensors

FORMAT: Literal["afr-clip-adapters-1"] = "afr-clip-adapters-1"
LAST = "last.ckpt"
EPOCHS = "epoch_*.ckpt"
"""Files of the same kind with the weights of every epoch, where a training kept them."""

WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""The two files of a model that is shared: its trained weights, and format and manifest."""

LARGEST_CONFIG = 2**26
"""Bytes of ``config.json``; that of a training on a million images has 20 MB."""

_PUBLIC = (
    "commit", "seed", "epochs", "started", "afr_clip", "python", "packages", "backbone", "auxiliary", "trained_on",
    "precision", "choices", "by_dataset",
)  # fmt: skip
"""What a shared model tells of its training: nothing of the machine, its user and its folders."""


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


def read_checkpoint(run_or_file: Path) -> Checkpoint:
    """Read the adapters of a run onto the CPU.

    Args:
        run_or_file: A run folder, the checkpoint file, or the folder of a shared model.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        CheckpointError: If the file is not a checkpoint of this package.
    """
    path = run_or_file / "checkpoints" / LAST if run_or_file.is_dir() else run_or_file
    shared = path.parent if path.name == WEIGHTS else run_or_file
    is_shared = (path.name == WEIGHTS or not path.is_file()) and holds_shared(shared)
    path = shared / WEIGHTS if is_shared else path
    if not path.is_file():
        msg = f"There is no checkpoint at {shown(path)}. Pass checkpoint=RUN (a run folder) or checkpoint=FILE."
        raise FileNotFoundError(msg)
    try:
        content = read_tensor_file(path)
        if is_shared:
            content = {**_read_config(shared / CONFIG), "state_dict": content}
    except TensorFileError as error:
        kind = (
            f"{WEIGHTS} and {CONFIG} of a shared model; pass their" if is_shared else f"{LAST} of a run; pass the run"
        )
        msg = f"{error}. A checkpoint is the {kind} folder, or copy the file again."
        raise CheckpointError(msg) from error
    fault = next(faults_of(content, _Last), None)
    if fault is None and content["manifest"]["epochs"] < 1:
        fault = "nothing was trained, because manifest.epochs is 0"
    if fault is not None:
        written, advice = f"{LAST} written by afr_clip.train", "Pass the run folder."
        if is_shared:
            written, advice = f"{WEIGHTS} written by afr-clip hub push", f"Get it again, with its {CONFIG}."
        msg = f"{shown(path)} is not a {written}, or it is damaged: {fault}. {advice}"
        raise CheckpointError(msg)
    require_finite(path, content["state_dict"], "Train again with a lower optimizer.lr")
    return Checkpoint(path, content["state_dict"], content["manifest"])


def find_checkpoint(name: str) -> Path:
    """Return the file or folder that a name stands for: a path, ``package:NAME/PATH``, or ``hf:OWNER/NAME``.

    Raises:
        FileNotFoundError: If a package is not installed, or the hub and its cache have no such model.
        HubError: If the hub refuses.
    """
    return download(name, (WEIGHTS, CONFIG)) if name.startswith(ON_HUB) else weight_path(name)


def holds_shared(folder: Path) -> bool:
    """Whether a folder is a model that `write_shared` wrote."""
    return (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file()


def write_shared(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint as a model to share: ``model.safetensors`` and ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, checkpoint.state_dict)
    content = {"format": FORMAT, "manifest": public_manifest(checkpoint.manifest)}
    with written_whole(folder / CONFIG) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def public_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what others may know of a training: paths become the names of their files and folders."""
    config = {group: _without_folders(manifest["config"][group]) for group in ("backbone", "module")}
    known = {key: manifest[key] for key in _PUBLIC if key in manifest}
    for key in ("auxiliary", "trained_on"):
        if isinstance(known.get(key), Mapping):
            known[key] = {**known[key], "root": Path(known[key]["root"]).name}
    return {**known, "config": config}


def _without_folders(node: Any) -> Any:  # noqa: ANN401 - plain values of any depth
    if not isinstance(node, Mapping):
        return node
    is_path = {key: key.endswith("weights") and isinstance(value, str) for key, value in node.items()}
    return {
        key: Path(value).name if is_path[key] and not value.startswith(PACKAGED) else _without_folders(value)
        for key, value in node.items()
    }


def _read_config(path: Path) -> dict[str, Any]:
    """Read ``config.json``, which may come from a stranger.

    Raises:
        TensorFileError: If it is not JSON of a reasonable size.
    """
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            fault = f"it has more than {LARGEST_CONFIG:,} bytes"
        else:
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                return content
            fault = "it holds no object"
    except (ValueError, RecursionError) as error:
        fault = f"it is not JSON ({error})"
    msg = f"{shown(path)} could not be read: {fault}"
    raise TensorFileError(msg)


def read_epochs(checkpoint: Checkpoint) -> list[Checkpoint]:
    """Read the weights of every epoch that a training kept next to its last checkpoint, in order.

    Raises:
        FileNotFoundError: If it kept none.
        CheckpointError: If a file is not a checkpoint.
    """
    found = [read_checkpoint(path) for path in sorted(checkpoint.path.parent.glob(EPOCHS))]
    if not found:
        msg = (
            f"There is no checkpoint of every epoch in {shown(checkpoint.path.parent)}, which every_epoch=true needs. "
            f"Train with keep_every_epoch=true."
        )
        raise FileNotFoundError(msg)
    return sorted(found, key=lambda one: int(one.manifest["epochs"]))


def require_finite(path: Path, tensors: Mapping[str, Tensor], advice: str) -> None:
    """Refuse a file whose training diverged.

    Raises:
        CheckpointError: If a value is NaN or infinite; it names the first such tensor.
    """
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
    own, saved = learned_tensors(network), dict(checkpoint.state_dict)
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
        for name, learned in own.items():
            learned.copy_(saved[name])
