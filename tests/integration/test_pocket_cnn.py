"""Pocket's CNN, against the published file that it was taken from."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from afr_clip.clip.cnn import IMAGENET, load_cnn
from afr_clip.clip.weights import read_state_dict, weight_path
from afr_clip.config.plan import composed_training

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def cnn():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "experiments" / "pocket_clip"))
        yield import_module("cnn")
    sys.modules.pop("cnn")


@pytest.fixture(scope="module")
def published(cnn) -> dict[str, Tensor]:
    return read_state_dict(weight_path(cnn.PUBLISHED))


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


def test_published_names_map_one_to_one_onto_timms(cnn, published):
    renamed = cnn.from_published_names(published)
    own = timm.create_model(LITE0).state_dict()
    assert len(renamed) == len(published)
    assert {name: value.shape for name, value in renamed.items()} == {name: value.shape for name, value in own.items()}


def test_pockets_cnn_computes_what_the_published_one_computes(published):
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    network = load_cnn(composed_training("backbone=pocket").backbone.cnn, **IMAGENET)
    with torch.no_grad():
        for ours, expected in zip(network.network(image), naive_lite0(published, image), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_the_shipped_file_holds_the_published_blocks_that_are_read_and_no_others(cnn, published):
    shipped, taken = (
        read_state_dict(weight_path("package:afr_clip/pocket/cnn.safetensors")),
        cnn.pocket_blocks(published),
    )
    assert shipped.keys() == taken.keys()
    assert all(torch.equal(shipped[name], value) for name, value in taken.items())
