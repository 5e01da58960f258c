import pytest
import torch
from torch.testing import assert_close

from afr_clip.models.winclip.aggregation import aggregate_windows, harmonic_mean
from helpers.naive_methods import naive_window_aggregation


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


def test_scales_are_put_together_by_their_harmonic_mean():
    maps = torch.tensor([[0.2, 0.5], [0.4, 0.5], [0.8, 0.0]]).view(1, 3, 1, 2)
    assert_close(harmonic_mean(maps), torch.tensor([[[3 / (1 / 0.2 + 1 / 0.4 + 1 / 0.8), 0.0]]]))
