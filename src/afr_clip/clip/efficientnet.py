"""EfficientNets of timm as frozen feature extractors: only the blocks that are read, batch norms folded away."""

import re
from collections.abc import Mapping

import torch
from timm.layers import BatchNormAct2d
from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn

BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
"""Depths of the stages of EfficientNet-B0 and -Lite0 (Tan and Le, arXiv:1905.11946, Table 1)."""

FOLDED_PAIRS = {
    frozenset({"conv_stem"}): (("conv_stem", "bn1"),),
    # The inverted bottleneck.
    frozenset({"conv_pw", "conv_dw", "conv_pwl"}): (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    # The depthwise block.
    frozenset({"conv_dw", "conv_pw"}): (("conv_dw", "bn1"), ("conv_pw", "bn2")),
}
"""By the convolutions of a module, each convolution and the batch norm behind it."""

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


def from_published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a published EfficientNet-Lite0 file to timm's names.

    Args:
        state: Tensors under the names of the package ``efficientnet-lite-pytorch``; others are returned as they are.

    Example:
        >>> list(from_published_names({"_conv_stem.weight": torch.ones(1), "_blocks.3._bn2.bias": torch.ones(1)}))
        ['conv_stem.weight', 'blocks.2.0.bn3.bias']
    """
    if "_conv_stem.weight" not in state:
        return dict(state)
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


def trim(network: nn.Module) -> None:
    """Drop the blocks of an EfficientNet behind the last stage that is read; other networks stay as they are.

    timm builds and runs them all.
    """
    if isinstance(network, EfficientNetFeatures):
        # timm counts the stem as stage 0, so that stage n ends behind n blocks.
        network.blocks = network.blocks[: max(info["stage"] for info in network.feature_info.get_dicts())]


def fold_batch_norms(network: nn.Module) -> None:
    r"""Fold an EfficientNet's batch norms into the convolutions before them, in place; other networks stay as they are.

    In eval mode both are one affine map, :math:`\gamma (W x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta`. It is
    computed in float64, whose square root and division are exact to the last bit, so that the folded weights are the
    same on every machine.
    """
    if not isinstance(network, EfficientNetFeatures):
        return
    for module in network.modules():
        children = dict(module.named_children())
        convolutions = frozenset(name for name in children if name.startswith("conv_"))
        for name, norm_name in FOLDED_PAIRS.get(convolutions, ()):
            convolution, norm = children[name], children[norm_name]
            # Some EfficientNets mix kernels in one convolution, or normalise groups: neither is one affine map.
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                setattr(module, norm_name, _folded(convolution, norm))


def _folded(convolution: nn.Conv2d, norm: BatchNormAct2d) -> nn.Module:
    mean, variance, weight, bias = (
        value.double() for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    gain = weight / torch.sqrt(variance + norm.eps)
    folded = (convolution.weight.double() * gain[:, None, None, None]).float()
    convolution.weight = nn.Parameter(folded, requires_grad=False)
    convolution.bias = nn.Parameter((bias - mean * gain).float(), requires_grad=False)
    return nn.Sequential(norm.drop, norm.act)
