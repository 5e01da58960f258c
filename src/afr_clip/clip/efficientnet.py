"""EfficientNets of timm as frozen feature extractors: only the blocks that are read, batch norms folded away."""

import torch
from timm.layers import BatchNormAct2d
from timm.models.efficientnet import EfficientNetFeatures
from torch import nn

FOLDED_PAIRS = {
    frozenset({"conv_stem"}): (("conv_stem", "bn1"),),
    # The inverted bottleneck.
    frozenset({"conv_pw", "conv_dw", "conv_pwl"}): (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    # The depthwise block.
    frozenset({"conv_dw", "conv_pw"}): (("conv_dw", "bn1"), ("conv_pw", "bn2")),
}
"""By the convolutions of a module, each convolution and the batch norm behind it."""


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
