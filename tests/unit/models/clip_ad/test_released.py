import re

import pytest
import torch
from torch.testing import assert_close

from helpers.methods import build_method


@pytest.fixture
def state(towers) -> dict[str, torch.Tensor]:
    """A state dict of exactly the released form: these names, these shapes at these towers."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (towers.backbone.embed_dim, towers.backbone.token_dim), "bias": (towers.backbone.embed_dim,)}
    return {f"fc.{i}.{kind}": torch.randn(s, generator=generator) for i in range(4) for kind, s in shapes.items()}


def test_every_released_tensor_finds_its_place_and_no_other_form_does(towers, state, tmp_path):
    path = tmp_path / "train_on_visa.pth"
    torch.save({"linear_layers": state}, path)
    network = build_method("clip_ad", towers, f"module.network.released_weights={path}")
    own = {name.removeprefix("adapters."): p for name, p in network.named_parameters() if name.startswith("adapters.")}
    assert {f"fc.{name}" for name in own} == state.keys()
    for name, parameter in own.items():
        assert_close(parameter.detach(), state[f"fc.{name}"], rtol=0, atol=0)
        assert parameter.requires_grad
    torch.save({"linear_layers": {name: value for name, value in state.items() if name != "fc.3.bias"}}, path)
    with pytest.raises(ValueError, match=re.escape("1 missing, 0 unexpected")):
        build_method("clip_ad", towers, f"module.network.released_weights={path}")
