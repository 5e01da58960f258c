import copy

import numpy as np
import pytest
import timm
import torch
from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn

from afr_clip.clip.efficientnet import fold_batch_norms, trim

LITE0 = "tf_efficientnet_lite0"


def features(name: str = LITE0, stages: tuple[int, ...] = (1, 2, 3)) -> nn.Module:
    """A network whose batch norms are far from the identity they start as."""
    generator = torch.manual_seed(0)
    network = timm.create_model(name, features_only=True, out_indices=stages).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    return network


def image(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [LITE0, "mobilenetv2_035", "mixnet_s", "test_efficientnet", "test_efficientnet_gn"])
def test_folded_batch_norms_give_the_same_maps(name):
    network = features(name)
    folded = copy.deepcopy(network)
    fold_batch_norms(folded)
    with torch.no_grad():
        for ours, expected in zip(folded(image()), network(image()), strict=True):
            assert expected.std() > 0.01
            # Rounding once more per layer, in float32, over up to 60 layers.
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_lite0_has_no_batch_norm_left_and_no_statistics_to_load():
    network = features()
    fold_batch_norms(network)
    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not [name for name in network.state_dict() if "running" in name]
    assert not any(parameter.requires_grad for name, parameter in network.named_parameters() if "conv" in name)


def test_folding_is_the_same_to_the_last_bit():
    network, again = features(), features()
    stem, norm = network.conv_stem.weight.detach().double().numpy(), copy.deepcopy(network.bn1)
    fold_batch_norms(network)
    fold_batch_norms(again)
    assert network.state_dict().keys() == again.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    mean, variance, weight, bias = (
        value.detach().double().numpy() for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    gain = weight / np.sqrt(variance + norm.eps)
    np.testing.assert_array_equal(
        network.conv_stem.weight.numpy(), (stem * gain[:, None, None, None]).astype(np.float32)
    )
    np.testing.assert_array_equal(network.conv_stem.bias.numpy(), (bias - mean * gain).astype(np.float32))


@pytest.mark.parametrize(("stages", "kept"), [((1, 2, 3), 5), ((0,), 1), ((2, 0), 3), ((-1,), 7)])
def test_trimming_drops_blocks_and_changes_no_map(stages, kept):
    network = features(stages=stages)
    trimmed = copy.deepcopy(network)
    trim(trimmed)
    assert (len(network.blocks), len(trimmed.blocks)) == (7, kept)
    with torch.no_grad():
        for ours, expected in zip(trimmed(image()), network(image()), strict=True):
            assert torch.equal(ours, expected)


def test_trimming_to_the_stem_leaves_no_block():
    first = {"block_type": "ds", "in_chs": 8, "out_chs": 8, "stride": 2, "dw_kernel_size": 3, "act_layer": None}
    network = EfficientNetFeatures([[first]], out_indices=(0,), stem_size=8).eval()
    expected = network(image(16))[0]
    trim(network)
    assert len(network.blocks) == 0
    assert torch.equal(network(image(16))[0], expected)


def test_other_networks_are_left_alone():
    network = features("test_resnet")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modules = [type(module) for module in network.modules()]
    trim(network)
    fold_batch_norms(network)
    assert [type(module) for module in network.modules()] == modules
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.state_dict().keys() == before.keys()
