"""Weights that are on this machine already, without building a model or asking the network."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from huggingface_hub import try_to_load_from_cache

from afr_clip.clip.load import check_architecture
from afr_clip.clip.settings import TIMM, BackboneSettings
from afr_clip.clip.weights import HUB, fitting_state, from_cache_or_hub, read_state_dict, weight_path

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
    """Compare a weight file with the CLIP of a backbone, whose tensors are laid out but not made.

    Returns:
        The SHA-256 of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or belongs to another architecture.
    """
    check_architecture(settings)
    # A stem's patch embedding takes its shape from the maps of a CNN, and timm renames what it reads.
    if settings.cnn_stem or not settings.has_text:
        read_state_dict(path)
    else:
        fitting_state(from_cache_or_hub(partial(_laid_out, settings)), path, settings.position_embeddings)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _laid_out(settings: BackboneSettings) -> Any:  # noqa: ANN401 - open_clip has no types
    with torch.device("meta"):
        return open_clip.create_model(
            settings.architecture, device="meta", force_image_size=settings.image_size, pretrained_text=False
        )
