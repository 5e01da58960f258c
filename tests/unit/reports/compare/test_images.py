"""Differences of image AUROC over images: DeLong's variance against its definition, and how often it errs."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from afr_clip.metrics.average import METRICS
from afr_clip.reports.compare.pairwise import (
    Pairwise,
    difference_of,
    placements,
    read_image_scores,
    variance_over_images,
)
from afr_clip.reports.record.results import SCORES, ImageRow, write_scores
from helpers.results import CONFIG, measured_in, source, write_run

DRAWS = 500


def drawn(generator, num=60, correlation=0.6):
    """Scores of two equal methods on the same images, a third of them anomalous."""
    truth = np.arange(num) % 3 == 0
    covariance = [[1, correlation], [correlation, 1]]
    return truth, generator.multivariate_normal([0, 0], covariance, num) + 1.2 * truth[:, None]


def loops(own, other, truth):
    """DeLong's variance of a difference, from the definition."""

    def wins(one, two):
        return 1.0 if one > two else 0.5 if one == two else 0.0

    means = []
    for kind in (True, False):
        each = []
        for i in np.flatnonzero(truth == kind):
            parts = [
                [wins(s[i], s[j]) if kind else wins(s[j], s[i]) for j in np.flatnonzero(truth != kind)]
                for s in (own, other)
            ]
            each.append(np.mean(parts[0]) - np.mean(parts[1]))
        means.append(np.var(each, ddof=1) / len(each))
    return sum(means)


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_both_means_of_the_placements_are_the_auroc(decimals):
    truth, scores = drawn(np.random.default_rng(0))
    scores = scores[:, 0].round(decimals)
    for part in placements(scores, truth):
        assert part.mean() == pytest.approx(roc_auc_score(truth, scores))


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_the_variance_is_that_of_its_definition(decimals):
    truth, scores = drawn(np.random.default_rng(1))
    own, other = scores.round(decimals).T
    found = variance_over_images([own], [other], truth)
    assert found.variance == pytest.approx(loops(own, other, truth))
    assert found.freedom == 58


def test_equal_scores_vary_by_nothing_and_too_few_images_by_an_unknown_amount():
    truth, scores = drawn(np.random.default_rng(2))
    own = scores[:, 0]
    assert variance_over_images([own, own], [own, own], truth).variance == 0
    assert variance_over_images([own[:4]], [own[:4]], truth[:4]) is not None
    assert variance_over_images([own[:3]], [own[:3]], truth[:3]) is None


def test_two_equal_methods_are_told_apart_in_at_most_five_percent_of_the_draws():
    generator, false = np.random.default_rng(3), 0
    for _ in range(DRAWS):
        truth, scores = drawn(generator)
        aurocs = [roc_auc_score(truth, one) for one in scores.T]
        images = variance_over_images([scores[:, 0]], [scores[:, 1]], truth)
        false += difference_of(np.array([[aurocs[0] - aurocs[1]]]), images).p < 0.05
    assert false <= stats.binom.ppf(0.999, DRAWS, 0.05)
    assert false > stats.binom.ppf(0.001, DRAWS, 0.05)  # nor is it too careful


def write_scored(folder, scores, truth, method, seed=0):
    values = dict.fromkeys(METRICS, 0.5) | {"image_auroc": float(roc_auc_score(truth, scores))}
    config = CONFIG | {"module": CONFIG["module"] | {"name": method}}
    write_run(folder, {"Head CT": values}, auxiliary=source("VisA"), seed=seed, config=config)
    rows = zip(truth, scores, strict=True)
    write_scores(
        folder, [ImageRow("head_ct", "Head CT 0", f"{i:03}.png", bool(a), float(s)) for i, (a, s) in enumerate(rows)]
    )


@pytest.fixture
def two_methods(tmp_path):
    generator = np.random.default_rng(4)
    for seed in (0, 1):
        truth, scores = drawn(generator)
        write_scored(tmp_path / f"a{seed}", scores[:, 0], truth, "afr_clip", seed)
        write_scored(tmp_path / f"b{seed}", scores[:, 1] - 0.8 * truth, truth, "anomaly_clip", seed)
    return tmp_path


def of_head_ct(folder):
    records = Pairwise(measured_in(folder)).records
    return records[records.dataset == "Head CT"].set_index("metric")


def test_a_dataset_with_one_category_gets_the_interval_of_its_images(two_methods):
    for run in ("a1", "b1"):
        (two_methods / run / "results.json").unlink()
    records = of_head_ct(two_methods)
    (_, truth, own), (_, _, other) = (read_image_scores(two_methods / run, "head_ct") for run in ("a0", "b0"))
    variance = loops(own, other, truth)
    one = records.loc["image_auroc"]
    reach = stats.t.ppf(0.975, 58) * np.sqrt(variance)
    assert [one.low, one.high] == pytest.approx([one.difference - 100 * reach, one.difference + 100 * reach])
    assert one.num_seeds == 1
    assert records.loc["image_ap"].isna()[["low", "high", "p"]].all()


def test_seeds_and_images_both_widen_an_interval(two_methods):
    both = of_head_ct(two_methods).loc["image_auroc"]
    for run in ("a0", "a1", "b0", "b1"):
        (two_methods / run / SCORES).unlink()
    seeds_alone = of_head_ct(two_methods).loc["image_auroc"]
    assert both.num_seeds == seeds_alone.num_seeds == 2
    assert np.isfinite([both.low, seeds_alone.low]).all()
    assert both.p != seeds_alone.p


@pytest.mark.parametrize("content", ["dataset,category\nhead_ct,x\n", "\x00"])
def test_damaged_scores_are_named_and_not_used(two_methods, content, caplog):
    (two_methods / "a0" / SCORES).write_text(content)
    for run in ("a1", "b1"):
        (two_methods / run / "results.json").unlink()
    assert np.isnan(of_head_ct(two_methods).loc["image_auroc"].p)
