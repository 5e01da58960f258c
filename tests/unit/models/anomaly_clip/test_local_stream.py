import pytest
import torch
from torch.testing import assert_close

from helpers.methods import build_method
from helpers.naive_anomaly_clip import naive_attention, naive_two_streams
from helpers.tiny import random_batch, tiny_towers

LAYERS = (2, 3, 4)


@pytest.fixture
def image() -> torch.Tensor:
    return random_batch(num=2).image


def two_streams(image: torch.Tensor, from_block: int, layers: tuple[int, ...]) -> list[torch.Tensor]:
    """The image's embedding, then the patches of the local stream after each of the layers."""
    readout = f"module.network.readout={{local_from_block:{from_block},all_taps:true}}"
    embedding, *patches = build_method("anomaly_clip", tiny_towers(tap_layers=layers), readout).tapped(image)
    return [embedding[:, 0], *patches]


def shared_space(backbone, tokens):
    return backbone.project(tokens.float())


@torch.no_grad()
@pytest.mark.parametrize("from_block", [1, 2])
def test_equals_both_streams_token_by_token(towers, image, from_block):
    backbone = towers.backbone
    h, after = naive_two_streams(backbone, image, from_block)
    embedding, *read_out = two_streams(image, from_block, LAYERS)
    assert_close(embedding, h[:, 0].float() @ backbone.clip.visual.proj, atol=1e-4, rtol=0)
    for layer, patches in zip(LAYERS, read_out, strict=True):
        expected = shared_space(backbone, after[layer - from_block][:, 1:])
        assert_close(patches, expected, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("fault", [{"mlp_on_local": True}, {"values_of": "local"}], ids=str)
def test_the_local_stream_passes_no_mlp_and_its_values_are_the_original_streams(towers, image, fault):
    _, after = naive_two_streams(towers.backbone, image, from_block=2, **fault)
    _, patches = two_streams(image, 2, (4,))
    assert (patches - shared_space(towers.backbone, after[-1][:, 1:])).abs().max() > 0.01


@torch.no_grad()
def test_the_local_stream_is_where_it_left_plus_what_value_attention_gave_block_by_block(towers, image):
    backbone = towers.backbone
    inputs = []
    backbone.tap(image, lambda number, tokens: inputs.append(tokens) or tokens)
    gathered = inputs[2]
    for number in (3, 4):
        block = backbone.clip.visual.transformer.resblocks[number - 1]
        gathered = gathered + naive_attention(block.attn, block.ln_1(inputs[number - 1]), by_value=True)
    _, patches = two_streams(image, 3, (4,))
    assert_close(patches, shared_space(backbone, gathered[:, 1:]), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_original_stream_is_clips_own(towers, image):
    (original,) = towers.backbone.tap(image, layers=(4,))
    embedding, _ = two_streams(image, 1, (2,))  # also where the local stream ends before it
    assert_close(embedding, original[:, 0] @ towers.backbone.clip.visual.proj, atol=0, rtol=0)


@torch.no_grad()
def test_every_layer_read_out_keeps_what_it_was(image):
    _, *several = two_streams(image, 1, (1, 2, 3, 4))
    for layer, patches in enumerate(several, start=1):
        _, alone = two_streams(image, 1, (layer,))
        assert torch.equal(patches, alone)
    assert all(not torch.allclose(a, b) for i, a in enumerate(several) for b in several[:i])
