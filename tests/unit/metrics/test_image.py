import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afr_clip.metrics.image import ImageScores, check_index, image_metrics
from helpers.naive_metrics import SCORE_KINDS, make_scores, sklearn_metrics

SCORES = torch.rand(12, generator=torch.Generator().manual_seed(0))


def gathered(*batches: list[int]) -> ImageScores:
    metric = ImageScores(num_images=len(SCORES))
    for rows in batches:
        metric.update(SCORES[rows], torch.tensor(rows, dtype=torch.int64))
    return metric


@settings(max_examples=50, deadline=None, derandomize=True)
@given(cuts=st.sets(st.integers(1, 11)), order=st.permutations(range(12)), process=st.lists(st.booleans(), min_size=12))
def test_scores_come_back_in_order_however_they_were_spread(cuts: set[int], order: list[int], process: list[bool]):
    bounds = [0, *sorted(cuts), 12]
    batches = [order[start:stop] for start, stop in pairwise(bounds)]
    first, second = (
        gathered(*(rows for rows, chosen in zip(batches, process, strict=False) if chosen is which))
        for which in (False, True)
    )
    first.merge_state(second)
    assert torch.equal(first.compute(), SCORES.double())  # float32 scores are exact in float64


def test_an_image_left_out_is_noticed():
    with pytest.raises(ValueError, match=r"got 2 \(first: index 4\) never scored and 0 scored more than once"):
        gathered([0, 1, 2, 3, 5, 6, 7, 8, 9, 10]).compute()


def test_the_padding_of_a_distributed_sampler_is_noticed():
    first, second = gathered([0, 2, 4, 6, 8, 10, 0]), gathered([1, 3, 5, 7, 9, 11, 1])
    first.merge_state(second)
    with pytest.raises(ValueError, match=r"got 0 never scored and 2 \(first: index 0\) scored more than once"):
        first.compute()


def test_reset_forgets():
    metric = gathered(list(range(12)))
    metric.reset()
    assert not metric.times_seen.any()
    assert not metric.score.any()


def test_a_single_image_has_its_score():
    metric = ImageScores(num_images=1)
    metric.update(torch.tensor([0.25]), torch.tensor([0]))
    assert metric.compute().item() == 0.25  # torchmetrics drops the axis


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1])
def test_refuses_what_is_no_probability(bad: float):
    with pytest.raises(ValueError, match="image_score must hold probabilities"):
        ImageScores(num_images=2).update(torch.tensor([bad]), torch.tensor([0]))


@pytest.mark.parametrize("bad", [-1, 12])
def test_refuses_a_place_that_does_not_exist(bad: int):
    with pytest.raises(ValueError, match=rf"index must lie in 0\.\.11, got {bad}"):
        check_index(torch.tensor([3, bad]), 12)
    with pytest.raises(ValueError, match=r"index must lie in 0\.\.11"):
        ImageScores(num_images=12).update(torch.tensor([0.5]), torch.tensor([bad]))


def test_refuses_an_empty_category():
    with pytest.raises(ValueError, match="num_images must be positive, got 0"):
        ImageScores(num_images=0)


@pytest.mark.parametrize("kind", SCORE_KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_metrics_match_scikit_learn(kind: str, dtype: torch.dtype):
    rng = np.random.default_rng(1)
    truth = rng.random(80) < 0.6
    score = make_scores(kind, truth, rng)
    expected = {f"image_{name}": value for name, value in sklearn_metrics(score, truth).items()}
    # Exact counts on both sides; float64 sums of fewer than a hundred terms differ.
    assert image_metrics(torch.from_numpy(score).to(dtype), torch.from_numpy(truth)) == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("truth", [[True, True], [False, False], []])
def test_one_class_is_undefined(truth: list[bool]):
    values = image_metrics(torch.full((len(truth),), 0.5), torch.tensor(truth, dtype=torch.bool))
    assert tuple(values) == ("image_auroc", "image_f1_max", "image_ap")
    assert all(math.isnan(value) for value in values.values())
