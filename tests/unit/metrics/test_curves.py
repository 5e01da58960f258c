from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afr_clip.metrics.functional.binning import counts_by_score
from afr_clip.metrics.functional.curves import auroc, average_precision, f1_max
from helpers.naive_metrics import SCORE_KINDS, make_scores, sklearn_metrics

ROUNDING = 1e-12
"""Both sides sum at most a few hundred float64 terms of order 1."""

CURVES = {"auroc": auroc, "f1_max": f1_max, "ap": average_precision}

COUNTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8)


def evaluate(negatives: torch.Tensor, positives: torch.Tensor) -> dict[str, float]:
    return {name: curve(negatives, positives).item() for name, curve in CURVES.items()}


@pytest.mark.parametrize("kind", SCORE_KINDS)
@pytest.mark.parametrize("share", [0.5, 0.05])
def test_matches_scikit_learn(kind: str, share: float):
    rng = np.random.default_rng(1)
    truth = rng.random(300) < share
    score = make_scores(kind, truth, rng)
    counts = counts_by_score(torch.from_numpy(score), torch.from_numpy(truth))
    assert evaluate(*counts) == pytest.approx(sklearn_metrics(score, truth), abs=ROUNDING)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(counts=COUNTS)
def test_counts_of_any_shape_match_scikit_learn(counts: list[tuple[int, int]]):
    samples = [(score, truth) for score, pair in enumerate(counts) for truth in (0, 1) for _ in range(pair[truth])]
    score = np.array([score for score, _ in samples], dtype=np.float64)
    truth = np.array([truth for _, truth in samples], dtype=bool)
    expected = sklearn_metrics(score, truth) if samples else dict.fromkeys(CURVES, float("nan"))
    assert evaluate(*torch.tensor(counts).T) == pytest.approx(expected, abs=ROUNDING, nan_ok=True)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(counts=COUNTS, gap=st.integers(1, 3))
def test_monotone_rescaling_changes_nothing(counts: list[tuple[int, int]], gap: int):
    dense = torch.tensor(counts).T
    spread = torch.zeros(2, len(counts) * gap, dtype=torch.int64)
    spread[:, ::gap] = dense
    # The same terms in the same order; only zeros are inserted, but they may be summed in other groups.
    assert evaluate(*spread) == pytest.approx(evaluate(*dense), abs=ROUNDING, nan_ok=True)


def test_perfect_ranking_is_exactly_one():
    assert evaluate(torch.tensor([7, 3, 0, 0]), torch.tensor([0, 0, 1, 2])) == {"auroc": 1.0, "f1_max": 1.0, "ap": 1.0}


def test_inverted_ranking():
    values = evaluate(torch.tensor([0, 3]), torch.tensor([1, 0]))
    assert values == {"auroc": 0.0, "f1_max": 2 / 5, "ap": 1 / 4}  # the best threshold predicts all


def test_constant_score():
    assert evaluate(torch.tensor([3]), torch.tensor([1])) == {"auroc": 0.5, "f1_max": 2 / 5, "ap": 1 / 4}


def test_counts_of_a_whole_data_set_do_not_overflow():
    huge = 2**40
    assert evaluate(torch.tensor([huge, huge]), torch.tensor([huge, huge]))["auroc"] == 0.5


@pytest.mark.parametrize(("negatives", "positives"), [([1, 2], [0, 0]), ([0, 0], [1, 2]), ([0], [0]), ([], [])])
def test_one_class_is_undefined(negatives: list[int], positives: list[int]):
    counts = (torch.tensor(values, dtype=torch.int64) for values in (negatives, positives))
    assert evaluate(*counts) == pytest.approx(dict.fromkeys(CURVES, float("nan")), nan_ok=True)


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_result_is_one_float64(curve: Callable[..., torch.Tensor]):
    for positives in ([0, 1], [0, 0]):
        value = curve(torch.tensor([1, 0]), torch.tensor(positives))
        assert value.shape == ()
        assert value.dtype == torch.float64
