import re

import pytest
import torch
from torch.testing import assert_close

from afr_clip.clip.load import Towers
from helpers.ada_clip import tiny_ada_clip
from helpers.tiny import random_batch, tiny_towers

NAMES = ("metal nut", "screw", "metal nut", "bottle")


def published(towers: Towers, depth: dict[str, int]) -> dict[str, torch.Tensor]:
    """A state dict of exactly the released form: these names, these shapes at these towers, the published numbers."""
    generator = torch.Generator().manual_seed(0)
    token_dim, dim, width = towers.backbone.token_dim, towers.backbone.embed_dim, 32
    shapes = {f"visual_prompter.static_prompts.{i}": (5, token_dim) for i in range(depth["visual"])}
    shapes |= {f"text_prompter.static_prompts.{i}": (5, width) for i in range(depth["text"])}
    heads = {
        "patch_token_layer": (4, token_dim, dim),
        "cls_token_layer": (1, dim, dim),
        "dynamic_visual_prompt_generator": (5, dim, token_dim),
        "dynamic_text_prompt_generator": (5, dim, width),
    }
    for layer, (number, before, after) in heads.items():
        for i in range(number):
            shapes |= {f"{layer}.head.{i}.weight": (after, before), f"{layer}.head.{i}.bias": (after,)}
    return {f"clip_model.{name}": 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def towers() -> Towers:
    return tiny_towers()


@pytest.fixture
def state(towers) -> dict[str, torch.Tensor]:
    return published(towers, {"visual": 4, "text": 2})  # the tiny text tower has two blocks


def test_every_released_tensor_finds_its_place(towers, state, tmp_path):
    assert len(published(towers, {"visual": 4, "text": 4})) == 38
    torch.save(state, tmp_path / "pretrained.pth")
    network = tiny_ada_clip(towers, released_weights=str(tmp_path / "pretrained.pth"))
    own = dict(network.named_parameters())
    for tower, depth in (("visual", 4), ("text", 2)):
        static = [state[f"clip_model.{tower}_prompter.static_prompts.{i}"] for i in range(depth)]
        assert_close(own[f"{tower}_prompts.static"].detach(), torch.stack(static))
        for kind in ("weight", "bias"):
            heads = [state[f"clip_model.dynamic_{tower}_prompt_generator.head.{k}.{kind}"] for k in range(5)]
            assert_close(own[f"{tower}_prompts.dynamic.{kind}"].detach(), torch.cat(heads))
    for kind in ("weight", "bias"):
        assert_close(own[f"class_projection.{kind}"].detach(), state[f"clip_model.cls_token_layer.head.0.{kind}"])
        for tap in range(4):
            released = state[f"clip_model.patch_token_layer.head.{tap}.{kind}"]
            assert_close(own[f"patch_projections.{tap}.{kind}"].detach(), released)


def test_released_weights_decide_the_scores_whatever_the_seed(towers, state, tmp_path):
    torch.save(state, tmp_path / "pretrained.pth")
    image = random_batch().image
    first, second = (
        tiny_ada_clip(towers, seed=seed, released_weights=str(tmp_path / "pretrained.pth"))(image, NAMES)
        for seed in (0, 1)
    )
    assert_close(first.anomaly_map, second.anomaly_map, rtol=0, atol=0)
    assert not torch.allclose(tiny_ada_clip(towers)(image, NAMES).anomaly_map, first.anomaly_map, atol=1e-3)


def test_released_weights_go_on_learning(towers, state, tmp_path):
    torch.save(state, tmp_path / "pretrained.pth")
    network = tiny_ada_clip(towers, released_weights=str(tmp_path / "pretrained.pth"))
    network(random_batch().image, NAMES).image_score.sum().backward()
    names = network.trainable_parameter_names()
    assert all(p.requires_grad and p.is_leaf for name, p in network.named_parameters() if name in names)
    assert network.class_projection.weight.grad is not None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda state: state.pop("clip_model.cls_token_layer.head.0.bias"), "1 missing, 0 unexpected"),
        (lambda state: state.update({"clip_model.HSF.centre": torch.ones(3)}), "0 missing, 1 unexpected"),
        (
            lambda state: state.update({"clip_model.cls_token_layer.head.0.weight": torch.ones(768, 768)}),
            "0 missing, 0 unexpected and 1 differently shaped",
        ),
    ],
)
def test_a_file_of_another_form_is_refused(towers, state, tmp_path, change, fault):
    change(state)
    torch.save(state, tmp_path / "pretrained.pth")
    with pytest.raises(ValueError, match=re.escape(fault)):
        tiny_ada_clip(towers, released_weights=str(tmp_path / "pretrained.pth"))
