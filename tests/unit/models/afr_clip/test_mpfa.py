import pytest
import torch
from torch.testing import assert_close

from afr_clip.models.afr_clip.mpfa import MultiPatchFeatureAggregation, grid_to_tokens, tokens_to_grid
from helpers.naive import naive_aggregation


@pytest.mark.parametrize("window", [1, 3, 5])
def test_matches_the_loop_over_neighbours(window):
    tokens = torch.randn(2, 20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_close(MultiPatchFeatureAggregation(window)(tokens, (4, 5)), naive_aggregation(tokens, (4, 5), window))


def test_a_constant_image_stays_constant_up_to_the_border():
    tokens = torch.full((1, 12, 2), 0.7)
    assert_close(MultiPatchFeatureAggregation(5)(tokens, (3, 4)), tokens)


def test_grid_is_laid_out_row_by_row():
    grid = tokens_to_grid(torch.arange(6.0).view(1, 6, 1), (2, 3))
    assert grid[0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert_close(grid_to_tokens(grid).flatten(), torch.arange(6.0))


def test_a_grid_of_another_size_is_refused():
    with pytest.raises(ValueError, match="must hold 10 patch tokens, got 3 x 3"):
        MultiPatchFeatureAggregation(3)(torch.zeros(1, 10, 2), (3, 3))


@pytest.mark.parametrize("window", [0, 2, -3])
def test_a_window_without_a_centre_is_refused(window):
    with pytest.raises(ValueError, match="mpfa_window must be odd and positive"):
        MultiPatchFeatureAggregation(window)
