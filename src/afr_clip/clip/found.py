"""Weights that are on this machine already, without building a model or asking the network."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor

from afr_clip.clip.cnn import IMAGENET, load_cnn
from afr_clip.clip.load import check_architecture, load_towers, make_trunk
from afr_clip.clip.settings import TIMM, BackboneSettings, CNNSettings
from afr_clip.clip.weights import (
    HUB,
    RESIZED,
    fitting_state,
    fitting_timm_state,
    from_cache_or_hub,
    read_state_dict,
    weight_path,
)
from afr_clip.files import shown

URL_CACHE = Path("~/.cache/clip")
"""Where open_clip keeps what does not come from the hub."""

FILES_ON_HUB = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Weights:
    """A weight file that a backbone needs.

    Attributes:
        path: Where it lies; ``None`` if it is not on this machine.
        source: What it is and where it comes from.
        key: The config key that names another file.
    """

    source: str
    key: str
    path: Path | None


def find_weights(settings: BackboneSettings) -> Iterator[Weights]:
    """Yield the weight files of a backbone: of its towers, then of its CNN."""
    cnn = settings.cnn
    for key, given, name, published in (
        ("backbone.weights", settings.weights, settings.architecture, settings.pretrained),
        ("backbone.cnn.weights", cnn.weights, cnn.architecture, cnn.pretrained),
    ):
        if given is not None:
            path = weight_path(given)
            yield Weights(given, key, path if path.is_file() else None)
        elif published and key == "backbone.weights" and settings.has_text:
            config: Any = open_clip.get_pretrained_cfg(name, published)
            path = URL_CACHE.expanduser() / os.path.basename(config.get("url") or "none")  # noqa: PTH119 - of a URL
            found = _on_hub(config.get("hf_hub", "").rstrip("/")) or (path if path.is_file() else None)
            yield Weights(f"{name}, {published}: {config.get('url') or HUB}", key, found)
        elif published:
            tag = f".{published}" if isinstance(published, str) else ""  # a CNN has none: it is published or not
            repository = str(timm.get_pretrained_cfg(name.removeprefix(TIMM) + tag).hf_hub_id)
            yield Weights(f"{name}{tag}: {HUB}/{repository}", key, _on_hub(repository))


def _on_hub(repository: str) -> Path | None:
    """Return the file of a repository of the hub that is in the hub's cache, if any."""
    found = (try_to_load_from_cache(repository, name) for name in FILES_ON_HUB) if repository else ()
    return next((Path(path) for path in found if isinstance(path, str)), None)


def check_weights(path: Path, settings: BackboneSettings) -> str:
    """Compare a weight file with the towers of a backbone.

    Returns:
        The SHA-256 of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or belongs to another architecture or input size.
    """
    _require_fit(read_state_dict(path), path, settings)
    return _digest_of(path, _published_hash(path, settings))


def check_cnn(settings: CNNSettings, path: Path) -> str:
    """Compare a weight file with the CNN of a backbone; see `check_weights`."""
    load_cnn(replace(settings, weights=str(path)), *IMAGENET.values())
    return _digest_of(path, _hash_in(path.resolve().name))


def _digest_of(path: Path, published: str | None) -> str:
    """Return the SHA-256 of a file, which must be the published one if that is known."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if published not in (None, digest):
        msg = (
            f"{shown(path)} is damaged or was changed: its SHA-256 is not {published}. Delete it to download it again."
        )
        raise ValueError(msg)
    return digest


def fitting_backbones(path: Path, known: Mapping[str, BackboneSettings]) -> list[str]:
    """Name the backbones that a weight file was made for; none if it cannot be read."""
    fitting = []
    with suppress(OSError, ValueError):
        state = read_state_dict(path)
        for name, settings in known.items():
            with suppress(OSError, ValueError, RuntimeError):
                _require_fit(state, path, settings)
                fitting.append(name)
    return fitting


def _require_fit(state: Mapping[str, Tensor], path: Path, settings: BackboneSettings) -> None:
    """Compare weights with towers that are laid out but not made."""
    check_architecture(settings)
    if settings.cnn_stem:  # its shape follows from the maps of the CNN; towers over one are small
        load_towers(replace(settings, weights=str(path)), needs_cnn=False)
    elif settings.has_text:
        fitting_state(from_cache_or_hub(partial(_laid_out, settings)), state, path, settings.position_embeddings)
        _require_native_size(state, path, settings)
    else:
        with torch.device("meta"):
            trunk = make_trunk(settings, pretrained=False)
        fitting_timm_state(trunk, state, path)


def _require_native_size(state: Mapping[str, Tensor], path: Path, settings: BackboneSettings) -> None:
    """Refuse the file of the same tower for another input size, which loading accepts and interpolates."""
    vision: Any = open_clip.get_model_config(settings.architecture)
    size, patch = vision["vision_cfg"]["image_size"], vision["vision_cfg"].get("patch_size")
    if RESIZED in state and isinstance(patch, int) and len(state[RESIZED]) != (size // patch) ** 2 + 1:
        own = patch * isqrt(len(state[RESIZED]) - 1)
        msg = (
            f"{shown(path)} has the shapes of {settings.architecture}, but was made for {own} px instead of {size}. "
            f"Choose the backbone that was trained at {own} px."
        )
        raise ValueError(msg)


def _published_hash(path: Path, settings: BackboneSettings) -> str | None:
    """Return the SHA-256 that a downloaded file must have, which the hub's cache and OpenAI's addresses name."""
    of_url: Any = {}
    if path.parent == URL_CACHE.expanduser():
        of_url = open_clip.get_pretrained_cfg(settings.architecture, settings.pretrained)
    return _hash_in(f"{of_url.get('url', '')} {path.resolve().name}")


def _hash_in(name: str) -> str | None:
    """Return the SHA-256 that the name of a blob of the hub's cache or an address contains."""
    found = re.search(r"\b[0-9a-f]{64}\b", name)
    return None if found is None else found[0]


def _laid_out(settings: BackboneSettings) -> Any:  # noqa: ANN401 - open_clip has no types
    with torch.device("meta"):
        return open_clip.create_model(
            settings.architecture, device="meta", force_image_size=settings.image_size, pretrained_text=False
        )
