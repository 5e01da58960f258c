import re

import pytest
import torch
from torch.testing import assert_close

from helpers.methods import build_method
from helpers.tiny import random_batch

NAMES = ("metal_nut", "screw")


@pytest.fixture
def state(towers) -> dict[str, torch.Tensor]:
    """A state dict of exactly the released form: these names, these shapes at these towers."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (towers.backbone.embed_dim, towers.backbone.token_dim), "bias": (towers.backbone.embed_dim,)}
    return {f"fc.{i}.{kind}": torch.randn(s, generator=generator) for i in range(4) for kind, s in shapes.items()}


@pytest.fixture
def build(towers, tmp_path):
    def built(state, *, seed=0):
        torch.save({"trainable_linearlayer": state}, tmp_path / "visa_pretrained.pth")
        torch.manual_seed(seed)
        return build_method("april_gan", towers, f"module.network.released_weights={tmp_path / 'visa_pretrained.pth'}")

    return built


def test_every_released_tensor_finds_its_place_and_goes_on_learning(build, state):
    network = build(state)
    own = {name.removeprefix("adapters."): p for name, p in network.named_parameters() if name.startswith("adapters.")}
    assert {f"fc.{name}" for name in own} == state.keys()
    for name, parameter in own.items():
        assert_close(parameter.detach(), state[f"fc.{name}"], rtol=0, atol=0)
        assert parameter.requires_grad


def test_released_weights_decide_the_maps_whatever_the_seed(build, state, towers):
    image = random_batch(2).image
    first, second = (build(state, seed=seed)(image, NAMES).anomaly_map for seed in (0, 1))
    assert_close(first, second, rtol=0, atol=0)
    assert not torch.allclose(build_method("april_gan", towers)(image, NAMES).anomaly_map, first, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda state: state.pop("fc.3.bias"), "1 missing, 0 unexpected"),
        (lambda state: state.update({"fc.4.bias": torch.ones(3)}), "0 missing, 1 unexpected"),
        (
            lambda state: state.update({"fc.0.weight": torch.ones(768, 1024)}),
            "0 missing, 0 unexpected and 1 differently shaped",
        ),
    ],
)
def test_a_file_of_another_form_is_refused(build, state, change, fault):
    change(state)
    with pytest.raises(ValueError, match=re.escape(fault)):
        build(state)
