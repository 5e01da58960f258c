"""Random CLIP towers, weights and pictures that are the same on every machine, for comparisons with other code.

Everything is drawn by name from NumPy's ``RandomState.random_sample``, whose stream NumPy promises never to change, so
that golden files hold only results. Unlike freshly initialised weights, norms, biases and position embeddings
are random too: a layer that is skipped, or applied twice, shows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from afr_clip.clip.load import Towers, load_towers
from helpers.tiny import TINY

ARCHITECTURES = Path(__file__).parents[1] / "fixtures" / "official"
"""The folder with descriptions of the towers for open_clip."""

NUM_PICTURES = 4
"""Every second one shows a defect."""

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's own."""


def uniform(name: str, shape: Iterable[int], low: float, high: float) -> Tensor:
    """Draw float32 values between two numbers; the same name and shape give the same values."""
    drawn = np.random.RandomState(crc32(name.encode())).random_sample(tuple(shape))  # a frozen stream
    return torch.from_numpy((low + (high - low) * drawn).astype(np.float32))


def tower_weight(name: str, shape: torch.Size) -> Tensor:
    """Draw one tensor of a CLIP state dict, scaled so that activations neither vanish nor explode in 24 blocks."""
    if name == "logit_scale":
        return torch.tensor(float(np.log(1 / 0.07)))
    if len(shape) == 1:
        centre, spread = (1.0, 0.4) if ".ln_" in f".{name}" and name.endswith("weight") else (0.0, 0.2)
        return uniform(name, shape, centre - spread, centre + spread)
    if "embedding" in name:
        return uniform(name, shape, -0.5, 0.5)
    fan_in = shape[0] if name.endswith(("proj", "projection")) else shape[1:].numel()
    bound = (3.0 / fan_in) ** 0.5
    return uniform(name, shape, -bound, bound)


@cache
def tower_state(architecture: str) -> dict[str, Tensor]:
    """Draw the state dict of an architecture, under the names that OpenAI's archives, open_clip and forks share."""
    open_clip.add_model_config(ARCHITECTURES)
    clip = open_clip.create_model(architecture, pretrained_text=False)
    return {name: tower_weight(name, value.shape) for name, value in clip.state_dict().items()}


def small_tower_state(architecture: str) -> dict[str, Tensor]:
    """Draw a state dict whose position embeddings, of 6 x 6 patches, must be interpolated for the tower."""
    name = "visual.positional_embedding"
    state = tower_state(architecture)
    return state | {name: uniform(f"small.{name}", (1 + 6 * 6, state[name].shape[1]), -0.5, 0.5)}


@cache
def load_repeatable_towers(architecture: str, folder: Path, tap_layers: tuple[int, ...]) -> Towers:
    """Load the drawn weights as a user would, from a file; once for each folder."""
    state = tower_state(architecture)
    path = folder / f"{architecture}.safetensors"
    if not path.exists():
        save_file(state, path)
    size = open_clip.get_model_config(architecture)["vision_cfg"]["image_size"]
    settings = {
        "architecture": architecture,
        "weights": str(path),
        "random_weights": False,
        "quick_gelu": architecture.endswith("quickgelu"),
        "image_size": size,
        "tap_layers": list(tap_layers),
    }
    return load_towers(replace(TINY, **settings), needs_cnn=False)


def learned_state(shapes: Mapping[str, Iterable[int]]) -> dict[str, Tensor]:
    """Draw what a method learns, by released names and large: at initial scale most mistakes would not show."""
    return {name: uniform(f"learned.{name}", shape, -0.3, 0.3) for name, shape in shapes.items()}


def pictures(size: int) -> NDArray[np.uint8]:
    """Draw ``(pictures, size, size, 3)`` blotches under noise; where the mask is, they are brighter."""
    drawn = []
    for index in range(NUM_PICTURES):
        coarse = (
            uniform(f"blotches.{index}", (8, 8, 3), 0, 150).numpy().repeat(size // 8 + 1, 0).repeat(size // 8 + 1, 1)
        )
        noise = uniform(f"noise.{index}.{size}", (size, size, 3), 0, 60).numpy()
        drawn.append(coarse[:size, :size] + noise + 40 * masks(size)[index, :, :, None])
    return np.stack(drawn).astype(np.uint8)


def masks(size: int) -> NDArray[np.bool_]:
    """Mark one defect in the second picture and two, of which one touches the border, in the fourth."""
    marked = np.zeros((NUM_PICTURES, size, size), bool)
    eighth = size // 8
    marked[1, 2 * eighth : 4 * eighth, 3 * eighth : 6 * eighth] = True
    marked[3, :eighth, : 3 * eighth] = marked[3, 5 * eighth : 7 * eighth, 6 * eighth : 7 * eighth] = True
    return marked


def normalised(size: int) -> Tensor:
    """Turn the pictures into the tensor ``(pictures, 3, size, size)`` that CLIP reads."""
    pixels = torch.from_numpy(pictures(size)).permute(0, 3, 1, 2).float().div(255)
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
