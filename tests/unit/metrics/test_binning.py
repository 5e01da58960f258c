import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afr_clip.metrics.functional.binning import (
    CELL_BITS,
    NUM_BINS,
    NUM_CELLS,
    ScoreBins,
    check_probabilities,
    counts_by_score,
    score_of_rank,
    score_rank,
)

PROBABILITY = st.floats(0, 1, width=32)

NO_COUNTS = torch.zeros(NUM_BINS, dtype=torch.int64)


def all_floats(low: float, high: float) -> torch.Tensor:
    """Every float32 from ``low`` to ``high``."""
    first, last = torch.tensor([low, high]).view(torch.int32).tolist()
    return torch.arange(first, last + 1, dtype=torch.int32).view(torch.float32)


def ranks_of_cells(cells: int) -> torch.Tensor:
    """The first rank of each of so many neighbouring cells; 129,024 lie below one half."""
    return torch.arange(1, cells + 1, dtype=torch.int32) << CELL_BITS


@pytest.mark.parametrize("around", [1e-44, 1e-30, 0.1, 0.25, 0.5, 0.75, 1 - 2**-14, 1 - 2e-5])
def test_every_float_has_a_rank_of_its_own(around: float):
    floats = all_floats(around * (1 - 1e-4), min(around * (1 + 1e-4), 1.0))
    assert (score_rank(floats).diff() > 0).all()
    assert torch.equal(score_of_rank(score_rank(floats).long()), floats.double())


@settings(max_examples=300, deadline=None, derandomize=True)
@given(scores=st.lists(PROBABILITY, min_size=2, max_size=20))
def test_ranks_compare_as_scores_do(scores: list[float]):
    rank = score_rank(torch.tensor(scores)).tolist()
    for (a, rank_a), (b, rank_b) in itertools.combinations(zip(scores, rank, strict=True), 2):
        assert (a > b) - (a < b) == (rank_a > rank_b) - (rank_a < rank_b)


def test_ranks_end_where_the_cells_do():
    assert score_rank(torch.tensor([-0.0, 0.0, 1.0])).tolist() == [0, 0, (NUM_CELLS - 1) << CELL_BITS]


def test_few_cells_have_a_bin_for_every_float():
    rank = score_rank(all_floats(0.3, 0.3005))
    bins = ScoreBins()
    bins.make_room(rank, NO_COUNTS)
    assert (bins(rank).diff() == 1).all()


def test_near_one_no_two_floats_share_a_bin_of_fewer_than_a_full_cell():
    rank = score_rank(all_floats(1 - 2**-12, 1.0))
    bins = ScoreBins()
    bins.make_room(rank, NO_COUNTS)
    assert len(bins(rank).unique()) == len(rank)
    assert bins.num_used < 4 * len(rank)


@pytest.mark.parametrize(("cells", "bits"), [(32, 13), (33, 12), (64, 12), (1_000, 8), (100_000, 1)])
def test_as_many_bins_as_fit(cells: int, bits: int):
    rank = ranks_of_cells(cells)
    bins = ScoreBins()
    bins.make_room(rank, NO_COUNTS)
    assert bins.common_bits == bits
    assert bins.num_used == cells << bits <= NUM_BINS
    assert torch.equal(bins(rank), torch.arange(cells, dtype=torch.int32) << bits)


def test_all_floats_fit():
    rank = torch.arange(NUM_CELLS, dtype=torch.int32) << CELL_BITS
    bins = ScoreBins()
    bins.make_room(rank, NO_COUNTS)
    assert (bins(rank).diff() > 0).all()
    assert bins(rank)[-1] < NUM_BINS


@settings(max_examples=60, deadline=None, derandomize=True)
@given(parts=st.lists(st.lists(PROBABILITY, min_size=1, max_size=60), min_size=1, max_size=4), seed=st.integers(0, 9))
def test_order_is_kept_however_cells_are_opened(parts: list[list[float]], seed: int):
    generator = torch.Generator().manual_seed(seed)
    bins = ScoreBins()
    for part in [*parts, torch.rand(300, generator=generator).tolist()]:
        rank = score_rank(torch.tensor(part))
        closed = rank[bins(rank) < 0]
        if len(closed):
            bins.make_room(closed, NO_COUNTS)
    bins.rebuild(bins.bits.clone())
    scores = torch.tensor(sorted(itertools.chain(*parts)))
    place = bins(score_rank(scores))
    assert place.min() >= 0
    assert (place.diff() >= 0).all()
    assert (bins.lowest_rank()[place.long()] <= score_rank(scores)).all()


def test_a_crowd_keeps_a_bin_for_every_float():
    crowd = score_rank(all_floats(0.3, 0.3002)).repeat(50)
    wide = ranks_of_cells(10_000)
    bins = ScoreBins()
    bins.make_room(torch.cat([crowd, wide]), NO_COUNTS)
    assert bins.common_bits < 6
    assert len(bins(crowd).unique()) == len(crowd.unique())


def test_moved_bins_are_where_their_scores_are_counted_now():
    rank = score_rank(torch.rand(500, generator=torch.Generator().manual_seed(0)))
    bins = ScoreBins()
    bins.make_room(rank, NO_COUNTS)
    before = bins(rank).long()
    moves = bins.make_room(ranks_of_cells(5_000)[1_000:], torch.bincount(before, minlength=NUM_BINS))
    assert moves is not None
    assert torch.equal(moves[before], bins(rank).long())


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
