"""oneDNN over packed weights must give what PyTorch gives, on tokens, gradients, copies and files."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from afr_clip.clip import load, packed
from afr_clip.clip.fused import FusedAttention, pack
from afr_clip.clip.packed import MARGIN, PackedLinear, is_usable, speedup
from afr_clip.run.model import choose_library
from afr_clip.run.run import Run
from helpers.tiny import tiny_network, tiny_towers

pytestmark = pytest.mark.skipif(not is_usable(), reason="this PyTorch has no such operators")


def frozen(inputs: int, outputs: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs).requires_grad_(requires_grad=False)


@pytest.mark.parametrize("rows", [(), (1,), (7,), (2, 5), (2, 3, 4)])
def test_any_number_of_rows_is_multiplied(rows):
    layer, x = frozen(24, 40), torch.randn(*rows, 24)
    own = PackedLinear(layer.weight, layer.bias)
    torch.testing.assert_close(own(x), layer(x))
    torch.testing.assert_close(PackedLinear(layer.weight, None)(x), F.linear(x, layer.weight))


def test_strided_tokens_are_multiplied():
    layer, x = frozen(24, 40), torch.randn(24, 5, 2).transpose(0, 2)
    torch.testing.assert_close(PackedLinear(layer.weight, layer.bias)(x), layer(x))


def test_gradients_reach_the_tokens():
    layer = frozen(24, 40)
    plain, other = (torch.randn(3, 24, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    for x, linear in ((plain, layer), (other, PackedLinear(layer.weight, layer.bias))):
        linear(x).square().sum().backward()
    torch.testing.assert_close(other.grad, plain.grad)


def test_other_types_go_the_usual_way():
    layer = frozen(24, 40)
    own, x = PackedLinear(layer.weight, layer.bias), torch.randn(3, 24)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(own(x), layer(x))
    assert torch.equal(own.double()(x.double()), layer.double()(x.double()))


@pytest.mark.skipif(not is_usable(torch.bfloat16), reason="this CPU has no instructions for packed bfloat16")
def test_autocast_multiplies_in_bfloat16_as_pytorch_does():
    layer, results = frozen(96, 40), []
    for linear in (layer, PackedLinear(layer.weight, layer.bias)):
        x = torch.randn(30, 96, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = linear(x)
        output.float().square().sum().backward()
        results.append((output, x.grad))
    (expected, its_gradient), (own, gradient) = results
    assert own.dtype is torch.bfloat16
    torch.testing.assert_close(own, expected)
    torch.testing.assert_close(gradient, its_gradient, rtol=0.02, atol=0.02)


def test_a_changed_weight_is_packed_again():
    layer, x = frozen(24, 40), torch.randn(3, 24)
    own = PackedLinear(layer.weight, layer.bias)
    own(x)
    with torch.no_grad():
        layer.weight.mul_(2)
    torch.testing.assert_close(own(x), layer(x))
    own.double().float()  # exchanges the data of the parameter, which raises no version
    torch.testing.assert_close(own(x), layer(x))
    layer.weight.data = torch.ones(40, 24)
    torch.testing.assert_close(own(x), layer(x))


def test_a_copy_packs_for_itself():
    layer, x = frozen(24, 40), torch.randn(3, 24)
    own = PackedLinear(layer.weight, layer.bias)
    own(x)
    copied = copy.deepcopy(own)
    assert torch.equal(copied(x), own(x))
    with torch.inference_mode():
        assert torch.equal(copy.deepcopy(own)(x), own(x))
    assert copied.state_dict().keys() == layer.state_dict().keys()


def test_a_trained_layer_is_refused():
    with pytest.raises(ValueError, match="Only frozen layers can be packed"):
        pack(nn.Sequential(nn.Linear(2, 2)))


def test_a_packed_tower_gives_the_same_tokens_gradients_and_fingerprint():
    plain, other = tiny_towers(), tiny_towers()
    blocks = other.backbone.clip.visual.transformer
    assert pack(blocks) == 4 * plain.backbone.depth  # two projections of attention and two of the MLP in each block
    assert not any(isinstance(module, nn.Linear) for module in blocks.modules())
    assert other.fingerprint() == plain.fingerprint()
    image, outputs = torch.randn(2, 3, 64, 64), []
    for towers in (plain, other):
        network = tiny_network(towers, seed=1)
        prediction = network(image, ["bolt", "nut"])
        prediction.anomaly_map.sum().backward()
        assert network.self_prompting is not None, "its gradient flows through the blocks"
        gradients = [parameter.grad for parameter in network.self_prompting.parameters()]
        outputs.append((prediction.anomaly_map, prediction.image_score, *gradients))
    for own, expected in zip(*reversed(outputs), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("times", "has_gpu", "expected"),
    [
        (MARGIN[torch.float32] + 0.1, False, "onednn"),
        (MARGIN[torch.float32] - 0.1, False, "default"),
        (0.0, False, "default"),
        (9.0, True, "default"),
    ],
)
def test_a_wide_tower_takes_what_is_faster(monkeypatch, times, has_gpu, expected):
    monkeypatch.setattr(load, "NARROWEST", 1)
    monkeypatch.setattr(load, "speedup", lambda _tokens, _width, _dtype: times)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    towers = tiny_towers()
    attentions = [module for module in towers.backbone.modules() if isinstance(module, FusedAttention)]
    packed_ones = [isinstance(attention.out_proj, PackedLinear) for attention in attentions]
    assert towers.multiplication == expected
    assert any(packed_ones) == (expected == "onednn")


def test_a_narrow_tower_is_not_timed(monkeypatch):
    monkeypatch.setattr(load, "speedup", lambda *_: pytest.fail("timed"))
    assert tiny_towers().multiplication == "default"


@pytest.mark.parametrize(
    ("earlier", "expected"), [(None, "measured"), ({}, "default"), ({"multiplication": "onednn"}, "onednn")]
)
def test_a_resumed_run_keeps_its_library(earlier, expected):
    run = Run.__new__(Run)
    run.earlier = earlier
    assert choose_library(run, lambda: "measured") == expected


def test_the_fastest_run_of_each_library_counts_and_not_the_first(monkeypatch):
    seconds = iter([0.1, 0.1, 4.0, 3.0, 5.0, 2.0, 6.0, 9.0])  # both in turn
    monkeypatch.setattr(packed, "_seconds", lambda multiply: (multiply(), next(seconds))[1])
    assert speedup(17, 64, torch.float32) == 2.0
    monkeypatch.setattr(packed, "is_usable", lambda _dtype: False)
    assert speedup(18, 64, torch.float32) == 0


def test_operators_that_are_not_there_or_wrong_are_not_used(monkeypatch):
    monkeypatch.setattr(PackedLinear, "multiplied", lambda self, x, *, backwards: x @ self.weight.t() + 1)
    assert not is_usable.__wrapped__()
    monkeypatch.delattr(PackedLinear, "multiplied")
    assert not is_usable.__wrapped__()
