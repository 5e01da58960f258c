import open_clip
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from afr_clip.models.winclip import windows
from afr_clip.models.winclip.windows import encode_windows, window_positions
from helpers.naive_methods import naive_window_embeddings
from helpers.tiny import TINY, random_batch, tiny_towers

SIZE = 64


@pytest.fixture
def image() -> torch.Tensor:
    return random_batch(2).image


def open_clip_twin(backbone) -> nn.Module:
    """The same tower with open_clip's own attention and activation."""
    twin = open_clip.create_model(TINY.architecture, force_image_size=SIZE).eval()
    twin.load_state_dict(backbone.clip.state_dict())
    return twin.visual


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(2, 3), (1,), (4, 2)], ids=str)
def test_windows_equal_one_at_a_time_through_open_clips_own_modules(towers, image, sizes):
    encoded = encode_windows(towers.backbone, image, sizes)
    twin = open_clip_twin(towers.backbone)
    for size, embeddings in zip(sizes, encoded.windows, strict=True):
        assert embeddings.shape == (2, (5 - size) ** 2, 32)
        for alone, together in zip(image, embeddings, strict=True):
            assert_close(together, naive_window_embeddings(twin, alone, size), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_window_that_shows_everything_is_the_image(towers, image):
    encoded = encode_windows(towers.backbone, image, [4])
    expected = towers.backbone.clip.encode_image(image)
    assert_close(encoded.windows[0][:, 0], expected, atol=1e-5, rtol=0)
    assert_close(towers.backbone.project(encoded.tokens[:, 0]), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_window_sees_nothing_outside_itself(towers, image):
    changed = image.clone()
    changed[:, :, :, 32:] += 1
    (before,), (after,) = (encode_windows(towers.backbone, seen, [2]).windows for seen in (image, changed))
    same = [torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True)]
    assert same == [True, False, False] * 3


@torch.no_grad()
def test_windows_stand_on_the_tokens_of_a_stem_too(image):
    backbone = tiny_towers(cnn_stem=True).backbone
    (embeddings,) = encode_windows(backbone, image, [3]).windows
    assert_close(embeddings[1], naive_window_embeddings(backbone.clip.visual, image[1], 3), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 11, 10**6])
def test_how_many_windows_go_together_changes_nothing(towers, image, monkeypatch, most):
    expected = encode_windows(towers.backbone, image, [2, 3])
    monkeypatch.setattr(windows, "TOKENS_PER_PASS", most)
    for together, in_parts in zip(
        expected.windows, encode_windows(towers.backbone, image, [2, 3]).windows, strict=True
    ):
        assert_close(in_parts, together)


@torch.no_grad()
def test_blocks_with_an_attention_of_their_own_run_whole(towers, image):
    class Other(nn.Module):
        def __init__(self, fused: nn.Module) -> None:
            super().__init__()
            self.fused = fused

        def forward(self, *tokens: torch.Tensor, **options: object) -> tuple[torch.Tensor, None]:
            return self.fused(*tokens, **options)

    changed = tiny_towers().backbone
    last = changed.clip.visual.transformer.resblocks[-1]
    last.attn = Other(last.attn)
    expected = encode_windows(towers.backbone, image, [2]).windows[0]
    assert_close(encode_windows(changed, image, [2]).windows[0], expected)


def test_every_window_shows_the_class_token_and_its_own_patches():
    positions = window_positions((3, 4), 2)
    assert positions.shape == (6, 5)
    assert positions[:, 0].tolist() == [0] * 6
    assert positions[0].tolist() == [0, 1, 2, 5, 6]
    assert positions[-1].tolist() == [0, 7, 8, 11, 12]


@pytest.mark.parametrize("size", [0, 5])
def test_a_window_that_does_not_fit_is_refused(towers, image, size):
    with pytest.raises(ValueError, match=f"1 to 4 patches wide on a grid of 4 x 4, got {size}"):
        encode_windows(towers.backbone, image, [size])
