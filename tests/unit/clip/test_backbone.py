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
