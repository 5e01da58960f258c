import open_clip
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.models.winclip import windows
from afr_clip.models.winclip.windows import aggregate_windows, embed_windows, window_positions
from helpers.naive_methods import naive_window_aggregation, naive_window_embeddings
from helpers.tiny import TINY, random_batch, tiny_towers

SIZE = 64


@pytest.fixture
def image() -> torch.Tensor:
    return random_batch(2).image


def encoded(backbone: CLIPBackbone, image: torch.Tensor, size: int) -> torch.Tensor:
    return embed_windows(backbone, backbone.embed(image).tokens, window_positions(backbone.grid_size, size))


def open_clip_twin(backbone) -> nn.Module:
    """The same tower with open_clip's own attention and activation."""
    twin = open_clip.create_model(TINY.architecture, force_image_size=SIZE).eval()
    twin.load_state_dict(backbone.clip.state_dict())
    return twin.visual


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_windows_equal_one_at_a_time_through_open_clips_own_modules(towers, image, size):
    embeddings = encoded(towers.backbone, image, size)
    twin = open_clip_twin(towers.backbone)
    assert embeddings.shape == (2, (5 - size) ** 2, 32)
    for alone, together in zip(image, embeddings, strict=True):
        assert_close(together, naive_window_embeddings(twin, alone, size), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_window_that_shows_everything_is_the_image(towers, image):
    expected = towers.backbone.clip.encode_image(image)
    assert_close(encoded(towers.backbone, image, 4)[:, 0], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_window_sees_nothing_outside_itself(towers, image):
    changed = image.clone()
    changed[:, :, :, 32:] += 1
    before, after = (encoded(towers.backbone, seen, 2) for seen in (image, changed))
    same = [torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True)]
    assert same == [True, False, False] * 3


@torch.no_grad()
def test_windows_stand_on_the_tokens_of_a_stem_too(image):
    backbone = tiny_towers(cnn_stem=True).backbone
    embeddings = encoded(backbone, image, 3)
    assert_close(embeddings[1], naive_window_embeddings(backbone.clip.visual, image[1], 3), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 11, 10**6])
def test_how_many_windows_go_together_changes_nothing(towers, image, monkeypatch, most):
    expected = encoded(towers.backbone, image, 2)
    monkeypatch.setattr(windows, "TOKENS_PER_PASS", most)
    assert_close(encoded(towers.backbone, image, 2), expected)


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
    assert_close(encoded(changed, image, 2), encoded(towers.backbone, image, 2))


def test_every_window_shows_the_class_token_and_its_own_patches():
    positions = window_positions((3, 4), 2)
    assert positions.shape == (6, 5)
    assert positions[:, 0].tolist() == [0] * 6
    assert positions[0].tolist() == [0, 1, 2, 5, 6]
    assert positions[-1].tolist() == [0, 7, 8, 11, 12]


@pytest.mark.parametrize("size", [0, 5])
def test_a_window_that_does_not_fit_is_refused(size):
    with pytest.raises(ValueError, match=f"1 to 4 patches wide on a grid of 4 x 4, got {size}"):
        window_positions((4, 4), size)


def num_windows(grid_size: tuple[int, int], size: int) -> int:
    return (grid_size[0] - size + 1) * (grid_size[1] - size + 1)


@pytest.mark.parametrize(("grid_size", "size"), [((5, 7), 2), ((5, 7), 3), ((4, 4), 4), ((3, 6), 1), ((15, 15), 3)])
def test_equals_the_loop_over_patches_and_windows(grid_size, size):
    scores = torch.rand(2, num_windows(grid_size, size), generator=torch.Generator().manual_seed(0)).clamp(min=1e-3)
    maps = aggregate_windows(scores, grid_size, size)
    for of_image, aggregated in zip(scores, maps, strict=True):
        expected = naive_window_aggregation(of_image.tolist(), grid_size, size)
        assert_close(aggregated.double(), expected, atol=0, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_windows_that_agree_leave_a_flat_map(size):
    maps = aggregate_windows(torch.full((1, num_windows((6, 5), size)), 0.3), (6, 5), size)
    assert_close(maps, torch.full((1, 6, 5), 0.3))


def test_one_window_that_sees_nothing_clears_exactly_its_patches():
    scores = torch.full((1, 9), 0.5)
    scores[0, 4] = 0.0
    cleared = aggregate_windows(scores, (4, 4), 2)[0] == 0
    assert cleared.nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_a_window_of_one_patch_is_its_patch():
    scores = torch.rand(1, 12, generator=torch.Generator().manual_seed(0))
    assert_close(aggregate_windows(scores, (3, 4), 1), scores.view(1, 3, 4))
