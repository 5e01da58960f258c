import math

import numpy as np
import pytest

from afr_clip.metrics.thresholds import (
    FEW_ESCAPES,
    FEW_FALSE_ALARMS,
    MAX_F1,
    NO_MISS,
    NUM_BINS,
    SOME_ESCAPES,
    Threshold,
    all_thresholds,
    escape_at_overkill,
    image_thresholds,
    overkill_at_escape,
    score_histogram,
)


def thresholds_of(normal, anomalous):
    scores = np.array([*normal, *anomalous])
    truth = np.array([False] * len(normal) + [True] * len(anomalous), dtype=bool)
    return {found.rule: found for found in image_thresholds("a", scores, truth)}


def counts(found):
    return found.found, found.missed, found.false_alarms, found.passed


def test_images_that_are_apart_need_no_compromise():
    found = thresholds_of([0.1, 0.2], [0.6, 0.7])
    assert {rule: (one.threshold, counts(one)) for rule, one in found.items()} == {
        MAX_F1: (0.6, (2, 0, 0, 2)),
        NO_MISS: (0.6, (2, 0, 0, 2)),
        FEW_ESCAPES: (0.6, (2, 0, 0, 2)),
        SOME_ESCAPES: (0.6, (2, 0, 0, 2)),
        FEW_FALSE_ALARMS: (0.6, (2, 0, 0, 2)),
    }


def test_one_hidden_defect_is_missed_or_costs_false_alarms():
    normal = [i / 100 for i in range(40)]  # 0.00 to 0.39
    found = thresholds_of(normal, [0.105, 0.5, 0.6, 0.7])
    assert (found[MAX_F1].threshold, counts(found[MAX_F1])) == (0.5, (3, 1, 0, 40))
    assert (found[NO_MISS].threshold, counts(found[NO_MISS])) == (0.105, (4, 0, 29, 11))
    assert (found[FEW_FALSE_ALARMS].threshold, counts(found[FEW_FALSE_ALARMS])) == (0.38, (3, 1, 2, 38))


def test_five_percent_of_few_normal_images_are_none():
    found = thresholds_of([0.1] * 18 + [0.9], [0.5, 0.95])
    assert (found[FEW_FALSE_ALARMS].threshold, counts(found[FEW_FALSE_ALARMS])) == (0.95, (1, 1, 0, 19))


def test_a_score_that_is_shared_is_reported_for_all_or_for_none():
    found = thresholds_of([0.5, 0.5], [0.5, 0.5])
    assert (found[MAX_F1].threshold, counts(found[MAX_F1])) == (0.5, (2, 0, 2, 0))
    assert found[FEW_FALSE_ALARMS].threshold == math.nextafter(0.5, 1)
    assert counts(found[FEW_FALSE_ALARMS]) == (0, 2, 0, 2)


def test_of_equal_f1_the_threshold_with_fewer_false_alarms_counts():
    # 2 of 2 with 2 false alarms, and 1 of 2 with none: both 2/3.
    assert thresholds_of([0.3, 0.4], [0.2, 0.6])[MAX_F1].threshold == 0.6


@pytest.mark.parametrize(("normal", "anomalous"), [([], [0.5]), ([0.5], []), ([], [])])
def test_one_class_alone_has_no_threshold(normal, anomalous):
    assert thresholds_of(normal, anomalous) == {}


@pytest.mark.parametrize("seed", range(30))
def test_equal_to_trying_every_threshold(seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 12, 40) / 12 if seed % 2 else random.random(40)
    truth = random.random(40) < random.choice([0.1, 0.5, 0.9])
    truth[:2] = [False, True]
    tried = []
    for threshold in [*sorted(set(scores.tolist())), math.nextafter(max(scores), 2)]:
        pairs = list(zip((scores >= threshold).tolist(), truth.tolist(), strict=True))
        tp, fn, fp, tn = (pairs.count(pair) for pair in ((True, True), (False, True), (True, False), (False, False)))
        tried.append((threshold, (tp, fn, fp, tn), 2 * tp / (2 * tp + fp + fn)))
    best = max(f1 for *_, f1 in tried)
    expected = {
        MAX_F1: [one for one in tried if one[2] == best][-1],
        NO_MISS: [one for one in tried if one[1][1] == 0][-1],
        FEW_ESCAPES: [one for one in tried if 50 * one[1][1] <= truth.sum()][-1],
        SOME_ESCAPES: [one for one in tried if 20 * one[1][1] <= truth.sum()][-1],
        FEW_FALSE_ALARMS: next(one for one in tried if one[1][2] <= 0.05 * (~truth).sum()),
    }
    found = {one.rule: (one.threshold, counts(one)) for one in image_thresholds(None, scores, truth)}
    assert found == {rule: one[:2] for rule, one in expected.items()}
    of_rule = {one.rule: one for one in image_thresholds(None, scores, truth)}
    for rule, escape in ((NO_MISS, 0.0), (FEW_ESCAPES, 0.02), (SOME_ESCAPES, 0.05)):
        assert overkill_at_escape(scores[~truth], scores[truth], escape) == of_rule[rule].overkill
    assert escape_at_overkill(scores[~truth], scores[truth], 0.05) == of_rule[FEW_FALSE_ALARMS].escape


def test_one_of_fifty_anomalous_images_may_escape():
    normal, anomalous = np.arange(100) / 100, np.array([0.25, *np.arange(95, 144) / 100])
    assert overkill_at_escape(normal, anomalous, 0.02) == 0.05  # 0.95 to 0.99
    assert overkill_at_escape(normal, anomalous, 0.019) == 0.75  # 0.25 to 0.99
    assert escape_at_overkill(normal, anomalous, 0.05) == 0.02
    assert escape_at_overkill(normal, anomalous, 0.04) == 0.04  # 0.95 ties with a normal image that must pass
    assert overkill_at_escape(normal, anomalous, 1.0) == 0
    assert escape_at_overkill(normal, anomalous, 1.0) == 0


def test_equal_scores_are_all_reported_or_all_missed():
    same = np.full(10, 0.5)
    assert (overkill_at_escape(same, same), escape_at_overkill(same, same)) == (1, 1)


def test_the_shares_of_one_class_are_undefined():
    none, some = np.array([]), np.array([0.5])
    assert all(math.isnan(share(*pair)) for share in (overkill_at_escape, escape_at_overkill)
               for pair in ((none, some), (some, none)))  # fmt: skip


def test_categories_come_before_all_images_together():
    found = all_thresholds(["b", "a", "b", "a"], [0.1, 0.2, 0.9, 0.8], [False, False, True, True])
    assert [(one.category, one.threshold) for one in found if one.rule == MAX_F1] == [
        ("b", 0.9),
        ("a", 0.8),
        (None, 0.8),
    ]
    together = all_thresholds(["b", "a"], [0.1, 0.9], [False, True])
    assert {one.category for one in together} == {None}  # a category of one class has none


def test_a_threshold_of_pixels_has_no_counts():
    assert Threshold("a", "pixel_max_f1", 0.5).found is None


def test_a_histogram_counts_every_image_once():
    scores, truth = np.array([0.2, 0.2, 0.61, 1.0]), np.array([False, True, False, True])
    made = score_histogram(scores, truth, 0.2, 1.0)
    assert len(made.normal) == len(made.anomalous) == NUM_BINS
    assert (made.normal[0], made.normal[10], sum(made.normal)) == (1, 1, 2)
    assert (made.anomalous[0], made.anomalous[-1], sum(made.anomalous)) == (1, 1, 2)
    assert sum(score_histogram(scores[:1], truth[:1], 0.2, 0.2).normal) == 1
