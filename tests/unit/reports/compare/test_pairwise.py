"""Settings against each other: intervals that cover, corrections, pairs and ranks."""

import math

import numpy as np
import pytest
from scipy import stats

from afr_clip.reports.compare.pairwise import Pairwise, critical_difference, difference_of, holm
from helpers.results import CONFIG, measured_in, source, write_run

DRAWS = 500


def drawn(generator: np.random.Generator, num_seeds: int, num_categories: int, spread: tuple[float, float, float]):
    """Draw differences of two equal methods: what a seed, a category, and each run of them vary by."""
    of_seed, of_category, of_run = spread
    seeds = generator.normal(0, 1, (num_seeds, 1)) * of_seed
    categories = generator.normal(0, 1, (1, num_categories)) * of_category
    return seeds + categories + generator.normal(0, 1, (num_seeds, num_categories)) * of_run


SPREADS = [(0.01, 0.03, 0.02), (0.0, 0.03, 0.01), (0.03, 0.01, 0.01), (0.0, 0.0, 0.02)]
SIZES = [(3, 3), (3, 15), (5, 12), (1, 12), (3, 1)]
# What a single seed or a single category varies by cannot be known.
KNOWABLE = [
    (size, spread)
    for size in SIZES
    for spread in SPREADS
    if not any(num == 1 and own > 0 for num, own in zip(size, spread, strict=False))
]


@pytest.mark.parametrize(("size", "spread"), KNOWABLE)
def test_two_equal_methods_are_told_apart_in_at_most_five_percent_of_the_draws(size, spread):
    generator = np.random.default_rng(0)
    found = [difference_of(drawn(generator, *size, spread)) for _ in range(DRAWS)]
    false = sum(one.p < 0.05 for one in found)
    assert false <= stats.binom.ppf(0.999, DRAWS, 0.05)
    assert false == sum(not one.low <= 0 <= one.high for one in found)


def test_a_real_difference_is_found():
    generator = np.random.default_rng(1)
    found = [difference_of(0.05 + drawn(generator, 3, 12, (0.005, 0.03, 0.01))) for _ in range(200)]
    assert sum(one.p < 0.05 for one in found) > 180


def test_a_single_axis_gives_the_paired_t_test():
    differences = np.random.default_rng(2).normal(0.02, 0.03, 12)
    expected = stats.ttest_1samp(differences, 0)
    for matrix in (differences[None], differences[:, None]):
        found = difference_of(matrix)
        assert found.p == pytest.approx(expected.pvalue)
        assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


@pytest.mark.parametrize("value", [0.0, 0.1, -0.3])
def test_without_variation_nothing_is_tested(value):
    found = difference_of(np.full((3, 1), value))
    assert found.mean == pytest.approx(value)
    assert all(math.isnan(one) for one in (found.low, found.high, found.p))


@pytest.mark.parametrize("seed", range(5))
def test_holm_agrees_with_the_definition(seed):
    values = np.random.default_rng(seed).uniform(0, 0.2, 6)
    order = np.argsort(values)
    expected = np.empty(6)
    expected[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(6, 0, -1)))
    assert holm(list(values)) == pytest.approx(expected)


def test_what_has_no_p_value_does_not_count():
    assert holm([math.nan, 0.04]) == [pytest.approx(math.nan, nan_ok=True), 0.04]
    assert holm([]) == []


@pytest.mark.parametrize(("num_settings", "num_datasets", "quantile"), [(2, 10, 1.960), (5, 30, 2.728), (10, 8, 3.164)])
def test_the_critical_difference_has_demsars_quantiles(num_settings, num_datasets, quantile):
    root = math.sqrt(num_settings * (num_settings + 1) / (6 * num_datasets))
    assert critical_difference(num_settings, num_datasets) / root == pytest.approx(quantile, abs=6e-4)


def of_method(name: str) -> dict:
    return {**CONFIG, "module": {**CONFIG["module"], "name": name}}


def test_runs_are_paired_by_seed_and_only_on_the_same_images(tmp_path):
    visa = source("VisA")
    for seed, value in ((0, 0.6), (1, 0.7), (2, 0.8)):
        write_run(tmp_path / f"a{seed}", {"BTAD": value, "MPDD": 0.5}, auxiliary=visa, seed=seed)
    for seed, value in ((0, 0.5), (1, 0.6)):
        other = {"config": of_method("april_gan"), "auxiliary": visa, "seed": seed}
        write_run(
            tmp_path / f"b{seed}", {"BTAD": value, "MPDD": 0.5}, sources={"MPDD": source("MPDD", digest="b")}, **other
        )
    records = Pairwise(measured_in(tmp_path)).records
    assert set(records.dataset) == {"BTAD"}  # MPDD has other images
    assert set(records.num_seeds) == {2}
    assert records.difference.tolist() == pytest.approx([10.0] * len(records))


def test_a_method_without_seeds_is_paired_with_every_seed(tmp_path):
    for seed, value in ((0, 0.6), (1, 0.7)):
        write_run(tmp_path / f"a{seed}", {"BTAD": value}, auxiliary=source("VisA"), seed=seed)
    write_run(tmp_path / "b", {"BTAD": 0.5}, config=of_method("winclip"))
    (first, *_) = Pairwise(measured_in(tmp_path)).records.to_dict("records")
    assert (first["difference"], first["num_seeds"]) == (pytest.approx(15.0), 2)


def test_ranks_need_three_settings_and_three_datasets(tmp_path):
    titles = ("BTAD", "MPDD", "Br35H")
    for number, method in enumerate(("afr_clip", "april_gan", "anomaly_clip")):
        assert Pairwise(measured_in(tmp_path)).ranks() is None if number else True
        write_run(
            tmp_path / method,
            dict.fromkeys(titles, 0.9 - 0.1 * number),
            config=of_method(method),
            auxiliary=source("VisA"),
        )
    ranks = Pairwise(measured_in(tmp_path)).ranks()
    assert {row[0].shown: row[1].value for row in ranks.body} == {
        "AFR-CLIP": 1,
        "APRIL-GAN (vit_l_14_336)": 2,
        "AnomalyCLIP": 3,
    }
    assert ranks.foot[-1][1].value == 3


def test_trainings_on_different_data_are_not_ranked_together_and_each_is_paired(tmp_path):
    for number, method in enumerate(("afr_clip", "april_gan", "winclip")):
        for aux in ("VisA", "MVTec AD") if method != "winclip" else ("",):
            trained = {"auxiliary": source(aux, digest=aux[0].lower())} if aux else {}
            values = dict.fromkeys(("BTAD", "MPDD", "Br35H"), 0.9 - 0.1 * number)
            write_run(tmp_path / f"{method}{aux}", values, config=of_method(method), **trained)
    pairwise = Pairwise(measured_in(tmp_path))
    assert pairwise.ranks() is None
    of_pairs = pairwise.records.groupby(["setting", "other"]).trained_on.unique()
    assert all(set(trained) == {"VisA", "MVTec AD"} for trained in of_pairs)
    assert len(of_pairs) == 3
