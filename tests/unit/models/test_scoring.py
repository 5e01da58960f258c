import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch.testing import assert_close

from afr_clip.models.scoring import (
    anomaly_probability,
    combine_image_score,
    harmonic_mean,
    smooth_map,
    text_on_text_similarity,
    upsample_map,
)
from afr_clip.models.scoring_settings import ImageScore, ScoringSettings
from helpers.naive import naive_probability, naive_similarity, naive_upsampling


@pytest.fixture
def embeddings() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, 9, 8, generator=generator, dtype=torch.float64),
        torch.randn(2, 2, 8, generator=generator, dtype=torch.float64),
    )


def test_similarity_matches_three_loops(embeddings):
    assert_close(text_on_text_similarity(*embeddings), naive_similarity(*embeddings))


def test_similarity_ignores_the_length_of_embeddings(embeddings):
    rectified, stateful = embeddings
    assert_close(text_on_text_similarity(7 * rectified, 0.1 * stateful), text_on_text_similarity(rectified, stateful))


@pytest.mark.parametrize("temperature", [1.0, 0.07])
def test_probability_matches_two_loops(embeddings, temperature):
    similarity = text_on_text_similarity(*embeddings)
    assert_close(anomaly_probability(similarity, temperature), naive_probability(similarity, temperature))


def test_without_temperature_probabilities_keep_the_papers_range():
    extremes = torch.tensor([[[1.0, -1.0], [-1.0, 1.0], [0.3, 0.3]]])
    low = 1 / (1 + math.e**2)
    assert_close(anomaly_probability(extremes), torch.tensor([[low, 1 - low, 0.5]]))


@pytest.mark.parametrize("size", [(12, 12), (7, 11), (2, 9)])
def test_upsampling_is_bilinear_between_patch_centres(size):
    grid = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_close(upsample_map(grid[None], size)[0], naive_upsampling(grid, size))


def test_aligned_corners_stretch_the_outermost_patches_to_the_edge():
    ramp = torch.arange(3.0).expand(2, 4, 3, 3)  # any number of leading axes
    upsampled = upsample_map(ramp, (3, 5), align_corners=True)
    assert_close(upsampled, torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]).expand(2, 4, 3, 5))


@pytest.mark.parametrize(
    ("size", "sigma"), [((64, 48), 3.0), ((37, 37), 4.0), ((9, 5), 4.0), ((1, 30), 4.0), ((8, 8), 0.1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smoothing_is_scipys_gaussian_up_to_the_border(size, sigma, dtype):
    noise = np.random.default_rng(0).random((2, *size))
    expected = np.stack([scipy.ndimage.gaussian_filter(one, sigma) for one in noise])
    ours = smooth_map(torch.from_numpy(noise).to(dtype), sigma)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(9, 12), (7, 4)])
def test_a_border_that_is_not_repeated_and_a_shorter_kernel_are_torchs_own(size):
    noise = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    weights = torch.exp(-(torch.arange(-3, 4.0) ** 2) / 2)
    kernel = torch.outer(weights, weights)[None, None] / weights.sum() ** 2
    expected = torch.nn.functional.conv2d(torch.nn.functional.pad(noise[:, None], (3, 3, 3, 3), mode="reflect"), kernel)
    assert_close(smooth_map(noise, 1.0, cut_at=3.0, repeat=False), expected[:, 0])


def test_smoothing_keeps_float32_under_autocast():
    noise = torch.rand(1, 20, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        smoothed = smooth_map(noise, 4.0)
    assert torch.equal(smoothed, smooth_map(noise, 4.0))


def test_smoothing_keeps_a_constant_map_and_sigma_zero_keeps_any():
    noise = torch.rand(1, 20, 20)
    for size in (20, 3, 1):
        constant = torch.full((1, size, size), 0.3)
        for repeat in (True, False):
            assert_close(smooth_map(constant, 4.0, repeat=repeat), constant)
    assert smooth_map(noise, 0.0) is noise


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ImageScore.class_token, [0.2, 0.4]),
        (ImageScore.map_max, [0.9, 0.5]),
        (ImageScore.class_token_and_map_max, [0.55, 0.45]),
    ],
)
def test_image_score_is_made_of_the_chosen_parts(kind, expected):
    maps = torch.tensor([[[0.1, 0.9]], [[0.5, 0.0]]])
    assert_close(combine_image_score(torch.tensor([0.2, 0.4]), maps, kind), torch.tensor(expected))


@pytest.mark.parametrize(("kind", "expected"), [(ImageScore.map_top, 0.7), (ImageScore.class_token_and_map_top, 0.45)])
def test_the_highest_hundredth_of_a_map_counts_and_no_less_than_a_pixel(kind, expected):
    maps = torch.zeros(1, 20, 10)
    maps[0, 3, 4], maps[0, 17, 9], maps[0, 0, 0] = 0.9, 0.5, 0.4
    assert_close(combine_image_score(torch.tensor([0.2]), maps, kind), torch.tensor([expected]))
    small = maps[:, 3:4, 4:6]
    assert_close(combine_image_score(torch.tensor([0.9]), small, kind), torch.tensor([0.9]))


@pytest.mark.parametrize(("temperature", "sigma", "name"), [(0.0, 0.0, "temperature"), (1.0, -1.0, "smoothing_sigma")])
def test_senseless_settings_are_refused(temperature, sigma, name):
    with pytest.raises(ValueError, match=name):
        ScoringSettings(temperature, image_score=ImageScore.map_max, smoothing_sigma=sigma)


def test_scales_are_put_together_by_their_harmonic_mean():
    maps = torch.tensor([[0.2, 0.5], [0.4, 0.5], [0.8, 0.0]]).view(1, 3, 1, 2)
    assert_close(harmonic_mean(maps), torch.tensor([[[3 / (1 / 0.2 + 1 / 0.4 + 1 / 0.8), 0.0]]]))
