import numpy as np
import pytest

from afr_clip.reports.compare import paired
from afr_clip.reports.compare.paired import bootstrap_interval


def drawn_in_loops(differences):
    """The same resamples, one after the other: every seed and category as often as its weight says."""
    num_seeds, num_categories = differences.shape
    means = []
    for by_seed, by_category in zip(paired._weights(num_seeds, 0), paired._weights(num_categories, 1), strict=True):
        seeds = np.repeat(np.arange(num_seeds), np.rint(by_seed * num_seeds).astype(int))
        categories = np.repeat(np.arange(num_categories), np.rint(by_category * num_categories).astype(int))
        assert len(seeds) == num_seeds
        assert len(categories) == num_categories
        total = 0.0
        for seed in seeds:
            for category in categories:
                total += differences[seed, category]
        means.append(total / differences.size)
    return np.quantile(means, (0.025, 0.975))


@pytest.mark.parametrize("shape", [(3, 5), (1, 4), (3, 1)])
def test_the_interval_is_that_of_resampling_in_loops(shape, monkeypatch):
    monkeypatch.setattr(paired, "NUM_RESAMPLES", 400)
    paired._weights.cache_clear()
    differences = np.random.default_rng(0).normal(size=shape)
    try:
        interval = bootstrap_interval(differences)
        assert [interval.low, interval.high] == pytest.approx(drawn_in_loops(differences), abs=1e-12)
    finally:
        paired._weights.cache_clear()


def test_a_constant_difference_has_an_interval_of_no_width():
    interval = bootstrap_interval(np.full((3, 7), 0.02))
    assert [interval.low, interval.high] == pytest.approx([0.02, 0.02], abs=1e-15)


def test_an_axis_with_one_entry_is_not_resampled():
    assert bootstrap_interval(np.array([[0.1, 0.3]])).over == ("categories",)
    assert bootstrap_interval(np.array([[0.1], [0.3]])).over == ("seeds",)
    assert bootstrap_interval(np.array([[0.1]])) is None
    between_seeds_only = bootstrap_interval(np.array([[0.1, 0.1], [0.3, 0.3]]))
    assert [between_seeds_only.low, between_seeds_only.high] == pytest.approx([0.1, 0.3])


def test_the_spread_of_category_means_is_that_of_the_closed_form():
    differences = np.random.default_rng(1).normal(size=(1, 50))
    interval = bootstrap_interval(differences)
    half = 1.96 * differences.std() / np.sqrt(50)
    assert [interval.low, interval.high] == pytest.approx(
        [differences.mean() - half, differences.mean() + half], abs=0.15 * half
    )


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says():
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        seeds, categories = generator.normal(scale=0.5, size=(10, 1)), generator.normal(size=(1, 15))
        interval = bootstrap_interval(1.0 + seeds + categories + generator.normal(scale=0.2, size=(10, 15)))
        covered += interval.low <= 1.0 <= interval.high
    assert 0.87 <= covered / 200 <= 0.99


def test_the_same_differences_always_have_the_same_interval():
    differences = np.random.default_rng(3).normal(size=(3, 4))
    first = bootstrap_interval(differences)
    paired._weights.cache_clear()
    assert bootstrap_interval(differences) == first


@pytest.mark.parametrize("differences", [np.array([[np.nan, 1.0]]), np.zeros((0, 3)), np.zeros(3)])
def test_incomplete_pairs_are_refused(differences):
    with pytest.raises(ValueError, match="matrix of seeds by categories without NaN"):
        bootstrap_interval(differences)
