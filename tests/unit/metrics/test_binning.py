from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afr_clip.metrics.functional.binning import (
    HIGH_TAIL_FIRST,
    LOW_TAIL_LAST,
    NUM_BINS,
    bin_index,
    check_probabilities,
    counts_by_score,
    score_code,
)

PROBABILITY = st.floats(0, 1, width=32)


def all_floats(low: float, high: float) -> torch.Tensor:
    """Every float32 from ``low`` to ``high``."""
    first, last = torch.tensor([low, high]).view(torch.int32).tolist()
    return torch.arange(first, last + 1, dtype=torch.int32).view(torch.float32)


def test_linear_part_is_the_code_of_a_saved_map():
    score = np.random.default_rng(0).uniform(0.1, 0.9, 200_000).astype(np.float32)
    saved = np.round(score * 65535).astype(np.uint16)
    assert np.array_equal(bin_index(torch.from_numpy(score)).numpy(), saved)
    assert np.array_equal(score_code(torch.from_numpy(score)).numpy(), saved)


def test_codes_survive_saving_and_loading():
    code = torch.arange(65536)
    loaded = code.float() / 65535
    linear = (loaded >= 0.1) & (loaded <= 0.9)
    assert torch.equal(score_code(loaded), code)
    assert torch.equal(bin_index(loaded)[linear], code[linear])
    assert linear.sum() == HIGH_TAIL_FIRST - LOW_TAIL_LAST - 2  # code 58,982 is loaded as slightly more than 0.9


def test_ends_have_the_outermost_bins():
    assert bin_index(torch.tensor([0.0, -0.0, 1e-9, 1.0])).tolist() == [0, 0, 0, NUM_BINS - 1]


@pytest.mark.parametrize("join", [0.1, 0.9])
def test_every_float_around_a_join_keeps_its_order(join: float):
    steps = bin_index(all_floats(join - 2e-4, join + 2e-4)).diff()
    assert set(steps.tolist()) == {0, 1}  # neither falls back nor leaves a bin empty


def test_the_joins_are_where_they_are_said_to_be():
    below, above = (torch.nextafter(torch.tensor([0.1, 0.9]), torch.tensor(end)) for end in (0.0, 1.0))
    assert bin_index(torch.tensor([below[0], 0.1])).tolist() == [LOW_TAIL_LAST, LOW_TAIL_LAST + 1]
    assert bin_index(torch.tensor([0.9, above[1]])).tolist() == [HIGH_TAIL_FIRST - 1, HIGH_TAIL_FIRST]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(scores=st.lists(PROBABILITY, min_size=2, max_size=20))
def test_order_is_kept(scores: list[float]):
    bins = bin_index(torch.tensor(sorted(scores)))
    assert (bins.diff() >= 0).all()
    assert bins[0] >= 0
    assert bins[-1] < NUM_BINS


@settings(max_examples=50, deadline=None, derandomize=True)
@given(scores=st.lists(PROBABILITY, min_size=1, max_size=40))
def test_a_bin_does_not_depend_on_the_company(scores: list[float]):
    together = bin_index(torch.tensor(scores))
    assert together.tolist() == [bin_index(torch.tensor([score])).item() for score in scores]


def test_order_is_kept_over_all_magnitudes():
    distance = torch.logspace(-12, 0, 100_000, dtype=torch.float64)
    assert (bin_index(distance.float()).diff() >= 0).all()
    assert (bin_index((1 - distance).float()).diff() <= 0).all()


def test_tails_tell_scores_apart_that_differ_by_a_hundredth_of_their_distance():
    distance = torch.logspace(-8.5, -1.1, 1_000, dtype=torch.float64)
    assert (bin_index(distance.float()) < bin_index((distance * 1.01).float())).all()
    coarse = distance[distance > 1e-5]  # float32 near 1 has steps of 6e-8, and rounds twice here
    assert (bin_index((1 - coarse).float()) > bin_index((1 - coarse * 1.02).float())).all()


def test_every_float_next_to_one_has_its_own_bin():
    bins = bin_index(all_floats(1 - 2**-16, 1.0))
    assert (bins.diff() > 0).all()


def test_bins_of_an_image_keep_its_shape():
    score = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(bin_index(score.transpose(0, 2)), bin_index(score).transpose(0, 2))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(samples=st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.3, 1.0]), st.booleans()), max_size=12))
def test_counts_match_a_counter(samples: list[tuple[float, bool]]):
    score = torch.tensor([score for score, _ in samples], dtype=torch.float64)
    truth = torch.tensor([truth for _, truth in samples], dtype=torch.bool)
    negatives, positives = counts_by_score(score, truth)
    counted, distinct = Counter(samples), sorted({score for score, _ in samples})
    assert negatives.tolist() == [counted[score, False] for score in distinct]
    assert positives.tolist() == [counted[score, True] for score in distinct]


def test_counts_do_not_round_scores():
    close = torch.tensor([0.5, 0.5 + 1e-15], dtype=torch.float64)
    assert counts_by_score(close, torch.tensor([True, False]))[0].tolist() == [0, 1]


@pytest.mark.parametrize("bad", [float("nan"), -0.001, 1.001, float("inf")])
def test_refuses_what_is_no_probability(bad: float):
    score = torch.tensor([0.5, bad, 0.2])
    with pytest.raises(ValueError, match=r"image_score must hold probabilities in \[0, 1\], got"):
        check_probabilities("image_score", score)
    with pytest.raises(ValueError, match=r"score must hold probabilities"):
        counts_by_score(score, torch.tensor([True, False, True]))
