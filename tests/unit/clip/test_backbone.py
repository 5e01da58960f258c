import open_clip
import pytest
import torch

from afr_clip.clip.backbone import CLIPBackbone
from helpers.tiny import TINY, tiny_towers

SIZE = 64


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def open_clip_twin() -> torch.nn.Module:
    """The same architecture straight from open_clip, with its own attention."""
    return open_clip.create_model(TINY.architecture, force_image_size=SIZE).eval()


def test_taps_and_embeddings_equal_open_clips_own(image):
    backbone = tiny_towers().backbone
    twin = open_clip_twin()
    twin.load_state_dict(backbone.clip.state_dict())
    with torch.inference_mode():
        expected = twin.visual.forward_intermediates(
            image, indices=[0, 1, 2, 3], output_fmt="NLC", output_extra_tokens=True
        )
        taps = backbone.tap(image)
        text = open_clip.get_tokenizer(TINY.architecture)(["a photo of a screw"])
        expected_text = twin.encode_text(text)
    for tokens, patches, cls in zip(
        taps, expected["image_intermediates"], expected["image_intermediates_prefix"], strict=True
    ):
        torch.testing.assert_close(tokens[:, 1:], patches, atol=1e-4, rtol=0)
        torch.testing.assert_close(tokens[:, :1], cls, atol=1e-4, rtol=0)
    torch.testing.assert_close(backbone.encode_text(["a photo of a screw"]), expected_text, atol=1e-4, rtol=0)


def test_the_projected_class_token_after_the_last_block_is_open_clips_image_embedding(image):
    backbone = tiny_towers(tap_layers=[1, 2]).backbone
    (last,) = backbone.tap(image, layers=[backbone.depth])
    twin = open_clip_twin()
    twin.load_state_dict(backbone.clip.state_dict())
    with torch.inference_mode():
        expected = twin.encode_image(image)
    torch.testing.assert_close(backbone.project(last[:, 0]), expected, atol=1e-4, rtol=0)
    assert backbone.project(last).shape == (2, 17, backbone.embed_dim)


def test_layers_may_be_named_in_place_of_the_tap_layers(towers, image):
    named = towers.backbone.tap(image, layers=(2, 4))
    assert [torch.equal(a, b) for a, b in zip(named, towers.backbone.tap(image)[1::2], strict=True)] == [True, True]


def test_tap_layers_give_different_tokens(towers, image):
    taps = towers.backbone.tap(image)
    assert len(taps) == 4
    assert all(not torch.equal(a, b) for i, a in enumerate(taps) for b in taps[:i])


def test_stays_frozen_and_in_eval_mode(towers):
    towers.backbone.train()
    assert not any(module.training for module in towers.backbone.modules())
    assert not any(parameter.requires_grad for parameter in towers.backbone.parameters())


def test_the_seam_sees_every_block_once_and_changes_its_input(towers, image):
    seen = []

    def before_block(number: int, tokens: torch.Tensor) -> torch.Tensor:
        seen.append((number, tokens.shape[1]))
        return torch.cat([tokens[:, :17], torch.ones_like(tokens[:, :3])], dim=1) if number == 2 else tokens

    taps = towers.backbone.tap(image, before_block)
    assert seen == [(1, 17), (2, 17), (3, 20), (4, 20)]
    assert all(tokens.shape[1] == 17 for tokens in taps)  # added tokens are cut off
    plain = towers.backbone.tap(image)
    torch.testing.assert_close(taps[0], plain[0])
    assert not torch.allclose(taps[1], plain[1])


def test_blocks_behind_the_last_tap_are_not_run(image):
    seen = []
    backbone = tiny_towers(tap_layers=[1, 3]).backbone
    backbone.tap(image, lambda number, tokens: seen.append(number) or tokens)
    assert seen == [1, 2, 3]


def test_another_image_size_is_refused(towers):
    with pytest.raises(ValueError, match="64 x 64 pixels for this backbone, got 32 x 32"):
        towers.backbone.tap(torch.zeros(1, 3, 32, 32))


def test_a_tower_that_is_no_vit_is_refused():
    with pytest.raises(ValueError, match="VisionTransformer, got"):
        CLIPBackbone(torch.nn.Identity(), lambda sentences: torch.zeros(len(sentences), 77))


def test_text_is_encoded_in_parts_without_a_difference(towers):
    sentences = [f"a photo of a screw {i}" for i in range(70)]
    together = towers.backbone.encode_text(sentences)
    alone = torch.cat([towers.backbone.encode_text([sentence]) for sentence in sentences])
    torch.testing.assert_close(together, alone)


def prompted_gradient(backbone: CLIPBackbone, image: torch.Tensor, *, checkpointing: bool) -> list[torch.Tensor]:
    """Send a prompt through the tower; returns the taps and the gradient of the prompt."""
    backbone.checkpointing = checkpointing
    prompt = torch.ones(1, 2, backbone.token_dim, requires_grad=True)

    def before_block(number: int, tokens: torch.Tensor) -> torch.Tensor:
        return torch.cat([tokens[:, :-2], number * prompt.expand(len(tokens), -1, -1)], dim=1) if number > 1 else tokens

    taps = backbone.tap(image, before_block)
    sum(tap.square().mean() for tap in taps).backward()
    assert prompt.grad is not None
    return [*(tap.detach() for tap in taps), prompt.grad]


def test_checkpointing_changes_neither_taps_nor_gradients_and_keeps_less(image):
    backbone, results, kept = tiny_towers().backbone, {}, {False: 0, True: 0}
    for checkpointing in (False, True):

        def keep(tensor: torch.Tensor, checkpointing: bool = checkpointing) -> torch.Tensor:
            kept[checkpointing] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            results[checkpointing] = prompted_gradient(backbone, image, checkpointing=checkpointing)
    assert all(torch.equal(a, b) for a, b in zip(results[False], results[True], strict=True))
    assert results[True][-1].abs().max() > 0
    assert 5 * kept[True] < kept[False]
    state = torch.get_rng_state()
    prompted_gradient(backbone, image, checkpointing=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_checkpointed_blocks_run_again_on_the_way_back_and_only_those_a_gradient_flows_through(image):
    backbone, runs = tiny_towers().backbone, []
    for number, block in enumerate(backbone.clip.visual.transformer.resblocks, start=1):
        block.register_forward_pre_hook(lambda *_, number=number: runs.append(number))
    prompted_gradient(backbone, image, checkpointing=True)
    assert runs == [1, 2, 3, 4, 4, 3, 2]
    runs.clear()
    backbone.tap(image)
    with torch.inference_mode():
        backbone.tap(image)
    assert runs == [1, 2, 3, 4, 1, 2, 3, 4]


def test_without_prompts_the_tower_makes_no_graph_and_keeps_nothing(towers, image):
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        embedded = towers.backbone.embed(image)
        taps = towers.backbone.carry(towers.backbone.tap(embedded), embedded)
    assert all(tap.grad_fn is None and not tap.requires_grad for tap in taps)
    assert kept == []
