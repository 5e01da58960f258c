import numpy as np
import pytest
import torch

from afr_clip.metrics.functional.regions import REGION_UNIT, aupro, region_weights
from helpers.naive_metrics import SCORE_KINDS, make_scores, naive_aupro, naive_regions

ROUNDING = 1e-10
"""Weights are rounded to 2 ** -40 of a region, for at most some hundred pixels each."""


def exact_aupro(maps: np.ndarray, masks: np.ndarray, max_fpr: float) -> float:
    """Our AUPRO with one bin per distinct score, so that only the curve is compared."""
    bins = torch.from_numpy(np.unique(maps, return_inverse=True)[1].reshape(maps.shape))
    truth = torch.from_numpy(masks)
    weight = torch.zeros(int(bins.max()) + 1, dtype=torch.int64)
    for image_bins, mask in zip(bins, truth, strict=True):
        weight.index_add_(0, image_bins[mask], region_weights(mask)[0])
    return aupro(torch.bincount(bins[~truth], minlength=len(weight)), weight, max_fpr).item()


@pytest.mark.parametrize("density", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_weights_match_a_flood_fill(density: float):
    mask = np.random.default_rng(2).random((17, 23)) < density
    expected = np.zeros(mask.shape, dtype=np.int64)
    for region in naive_regions(mask):
        expected[region] = round(REGION_UNIT / region.sum())
    weights, num_regions = region_weights(torch.from_numpy(mask))
    assert num_regions == len(naive_regions(mask))
    assert np.array_equal(weights.numpy(), expected[mask])


def test_a_corner_joins_two_pixels():
    assert region_weights(torch.eye(5, dtype=torch.bool))[1] == 1


def test_weights_of_a_transposed_mask_follow_its_pixels():
    mask = torch.tensor([[True, True, False, False], [False, False, False, True]]).T
    weights, _ = region_weights(mask)
    assert weights.tolist() == [REGION_UNIT // 2, REGION_UNIT // 2, REGION_UNIT]


@pytest.mark.parametrize("kind", SCORE_KINDS)
@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1.0])
def test_curve_matches_a_loop_over_all_thresholds(kind: str, max_fpr: float):
    rng = np.random.default_rng(3)
    masks = rng.random((3, 12, 15)) < 0.1
    masks[2] = False
    maps = make_scores(kind, masks, rng)
    assert exact_aupro(maps, masks, max_fpr) == pytest.approx(naive_aupro(maps, masks, max_fpr), abs=ROUNDING)


def test_perfect_and_inverted():
    found_first = torch.tensor([0, 5]), torch.tensor([10, 0])
    assert aupro(found_first[1], found_first[0]).item() == pytest.approx(1.0, abs=1e-15)
    assert aupro(*found_first).item() == 0.0


def test_constant_map_gains_overlap_as_fast_as_false_positives():
    assert aupro(torch.tensor([10]), torch.tensor([REGION_UNIT])).item() == pytest.approx(0.3 / 2, abs=1e-15)


def test_curve_is_cut_by_interpolation():
    # Points (FPR, PRO): (0, 0), (0.2, 0.8), (1, 1). At the limit 0.6 the overlap is 0.9.
    value = aupro(torch.tensor([8, 2]), torch.tensor([2, 8]), max_fpr=0.6).item()
    assert value == pytest.approx((0.2 * 0.8 / 2 + 0.4 * (0.8 + 0.9) / 2) / 0.6, abs=1e-15)


def test_a_small_region_counts_as_much_as_a_large_one():
    small_found = np.array([[[0.9, 0.1, 0.2, 0.2, 0.2, 0.2]]])
    mask = np.array([[[True, False, True, True, True, True]]])
    mask_of_one = mask.copy()
    mask_of_one[..., 1:] = False
    assert exact_aupro(small_found, mask_of_one, 1.0) == 1.0
    # One of two regions is found at once, the other before the only false positive.
    assert exact_aupro(np.where(mask, small_found, 0.15), mask, 1.0) == pytest.approx(1.0, abs=ROUNDING)
    assert exact_aupro(np.where(mask, small_found, 0.5), mask, 1.0) == pytest.approx(0.5, abs=ROUNDING)


@pytest.mark.parametrize("max_fpr", [0.0, -0.3, 1.01, 2.0, float("nan")])
def test_refuses_a_limit_that_is_no_rate(max_fpr: float):
    with pytest.raises(ValueError, match=r"max_fpr must lie in \(0, 1\], got"):
        aupro(torch.tensor([1]), torch.tensor([1]), max_fpr)


@pytest.mark.parametrize(("negatives", "weight"), [([3], [0]), ([0], [3]), ([0], [0])])
def test_undefined_without_normal_pixels_or_regions(negatives: list[int], weight: list[int]):
    assert aupro(torch.tensor(negatives), torch.tensor(weight)).isnan()
