import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from helpers.methods import build_method


def whole_adaptor(width: int, out: int) -> nn.Module:
    """An adapter as the authors saved it: not its state dict but the module, of classes of their own."""
    classes = {name: type(name, (nn.Module,), {}) for name in ("Adaptor", "BasicTransformerBlock", "CrossAttention")}
    for name, own in classes.items():
        own.__module__ = "clip.adaptor"
        setattr(sys.modules["clip.adaptor"], name, own)
    adaptor, block, attention = (own() for own in classes.values())
    adaptor.attention, block.attn, block.norm = block, attention, nn.LayerNorm(width)
    attention.heads, attention.scale = 8, 64**-0.5
    for name in ("to_q", "to_k", "to_v"):
        setattr(attention, name, nn.Linear(width, 512, bias=False))
    attention.to_out = nn.Sequential(nn.Linear(512, out), nn.Dropout(0.0))
    return adaptor


@pytest.fixture
def released(towers, tmp_path, monkeypatch) -> tuple[Path, dict[str, torch.Tensor]]:
    """The two files, and what they hold by its own names."""
    for name in ("clip", "clip.adaptor"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    torch.manual_seed(1)
    adaptor = whole_adaptor(towers.backbone.tap_dim, towers.backbone.token_dim)
    words = nn.Parameter(torch.randn(1, 12, towers.backbone.clip.token_embedding.embedding_dim))
    torch.save(adaptor, tmp_path / "visa_adaptor.pt")
    torch.save(words, tmp_path / "visa_prompt.pt")
    return tmp_path / "visa_adaptor.pt", {**adaptor.state_dict(), "words": words.detach()[0]}


def test_what_was_saved_whole_is_read_without_its_classes(towers, released, monkeypatch):
    path, state = released
    monkeypatch.delitem(sys.modules, "clip.adaptor")
    network = build_method("af_clip", towers, f"module.network.released_weights={path}")
    parts = {"query": "attn.to_q", "key": "attn.to_k", "value": "attn.to_v", "out": "attn.to_out.0", "norm": "norm"}
    own = {
        f"attention.{parts[part]}.{name}": value
        for part, module in network.adapter.named_children()
        for name, value in module.named_parameters()
    }
    assert (own | {"words": network.context}).keys() == state.keys()
    for name, value in (own | {"words": network.context}).items():
        assert_close(value.detach(), state[name], rtol=0, atol=0)
        assert value.requires_grad


def test_both_files_are_needed_and_the_adaptor_is_the_one_to_name(towers, released):
    path, _ = released
    words = path.with_name("visa_prompt.pt")
    with pytest.raises(ValueError, match=r"must name the authors' adaptor, next to their prompt, got .*visa_prompt"):
        build_method("af_clip", towers, f"module.network.released_weights={words}")
    words.unlink()
    with pytest.raises(FileNotFoundError, match=r"no weight file at .*visa_prompt\.pt"):
        build_method("af_clip", towers, f"module.network.released_weights={path}")
