import itertools
import json
import math
import re
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom

from afr_clip.inspection.calibration import (
    CALIBRATION,
    CalibrationError,
    Decision,
    calibrate,
    read_calibration,
)
from afr_clip.inspection.settings import Rule, num_needed
from afr_clip.settings import DecideBy

IDENTITY = {"weights": "3f", "category": "metal nut", "image_size": 336, "settings": {"temperature": 0.07}}
GOOD = np.arange(1, 100) / 100  # 0.01, 0.02, ..., 0.99


def made(good=GOOD, false_alarms=0.01, maxima=None, **options):
    return calibrate(good, good if maxima is None else maxima, false_alarms, IDENTITY, **options)


@pytest.mark.parametrize(("budget", "needed"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.03, 33), (0.5, 1), (0.3, 3)])
def test_the_smallest_number_of_good_parts_puts_the_threshold_at_the_highest_score(budget, needed):
    assert num_needed(budget) == needed
    good = np.arange(needed) / needed
    assert made(good, budget).image.threshold == good[-1]
    with pytest.raises(CalibrationError, match=f"at least {needed} good parts?, got {needed - 1}"):
        made(good[:-1], budget)


@pytest.mark.parametrize("num", [99, 100, 137, 199, 200, 999])
@pytest.mark.parametrize("budget", [0.01, 0.05, 0.07, 0.1, 0.29])
def test_the_threshold_is_the_order_statistic_of_the_definition(num, budget):
    good = np.random.default_rng(num).permutation(num).astype(float)
    k = math.ceil((num + 1) * (1 - Fraction(str(budget))))
    assert made(good, budget).image.threshold == sorted(good)[k - 1]


def test_a_score_equal_to_the_threshold_is_normal():
    calibration = made(false_alarms=0.1)
    assert calibration.image.threshold == 0.9
    assert calibration.decide(0.9, 0.0) is Decision.normal
    assert calibration.decide(math.nextafter(0.9, 1), 0.0) is Decision.anomalous


def test_what_decides_is_the_image_score_the_peak_or_either():
    seen = {
        by: [
            made(decide_by, rule=Rule(decide_by=by)).decide(*scores) for scores in ((2.0, 0.0), (0.0, 2.0), (0.0, 0.0))
        ]
        for by, decide_by in dict.fromkeys(DecideBy, np.arange(1, 200) / 200).items()
    }
    yes, no = Decision.anomalous, Decision.normal
    assert seen == {DecideBy.image: [yes, no, no], DecideBy.region: [no, yes, no], DecideBy.either: [yes, yes, no]}


def test_either_gives_each_score_half_of_the_budget():
    good = np.arange(1, 200) / 200
    half, whole = made(good, 0.02, rule=Rule(decide_by=DecideBy.either)), made(good, 0.01)
    assert half.image == whole.image
    assert half.region == whole.region
    with pytest.raises(
        CalibrationError,
        match=r"budget of 0\.5 % for each of the two scores needs at least 199 .* or write false_alarms=0\.02\.",
    ):
        made(GOOD, 0.01, rule=Rule(decide_by=DecideBy.either))


def normal(rng, shape):
    return rng.normal(size=shape)


def heavy(rng, shape):
    return rng.standard_cauchy(size=shape)


def discrete(rng, shape):
    return rng.integers(0, 7, size=shape).astype(float)


@pytest.mark.parametrize("draw", [normal, heavy, discrete])
@pytest.mark.parametrize(("num", "budget"), [(99, 0.01), (150, 0.05), (30, 0.1)])
def test_the_rate_of_false_alarms_over_random_splits_is_within_the_budget(draw, num, budget):
    rng, splits = np.random.default_rng(7), 600
    parts = draw(rng, (splits, num + 1))
    false_alarms = sum(made(row[:-1], budget).decide(row[-1], 0.0) is Decision.anomalous for row in parts)
    expected = math.floor((num + 1) * Fraction(str(budget))) / (num + 1)
    low, high = binom.interval(0.999, splits, expected)
    assert false_alarms <= high
    assert draw is discrete or low <= false_alarms  # exact without ties, which only make it fewer


def test_the_band_holds_the_exact_threshold_as_often_as_it_says():
    rng, budget, confidence = np.random.default_rng(3), 0.1, 0.9
    exact = 1 - budget  # of uniform scores
    levels = [made(rng.random(200), budget, rule=Rule(undecided=confidence)).image for _ in range(600)]
    held = sum(level.undecided_from <= exact <= level.undecided_to for level in levels)
    assert held >= binom.ppf(0.001, len(levels), confidence)
    assert all(level.undecided_from <= level.threshold <= level.undecided_to for level in levels)
    assert sum(level.undecided_to - level.undecided_from for level in levels) / len(levels) < 0.08


def test_a_part_in_the_band_is_undecided_and_never_one_that_was_normal_becomes_anomalous():
    plain, banded = made(false_alarms=0.1), made(false_alarms=0.1, rule=Rule(undecided=0.95))
    assert banded.image.threshold == plain.image.threshold
    for score in np.linspace(0, 1, 401).tolist():
        before, after = plain.decide(score, 0.0), banded.decide(score, 0.0)
        assert after is before or after is Decision.undecided
        assert (after is Decision.undecided) == (banded.image.undecided_from < score <= banded.image.undecided_to)
    assert banded.image.undecided_from < 0.9 < banded.image.undecided_to


def test_the_highest_good_score_ends_the_band_where_there_are_too_few():
    level = made(rule=Rule(undecided=0.95)).image
    # P(Bin(99, 0.99) <= 96) = 0.08, and of 95 it is 0.018: the fourth highest of 99 scores is the lower end.
    assert (level.undecided_from, level.threshold, level.undecided_to) == (0.96, 0.99, 0.99)


def test_the_calibrated_score_has_three_fixed_points_and_one_order():
    calibration = made(false_alarms=0.1)
    typical, threshold = 0.5, 0.9
    assert calibration.calibrated(threshold) == 0.5
    assert calibration.calibrated(typical) == pytest.approx(0.1)
    assert calibration.calibrated(threshold + (threshold - typical)) == pytest.approx(0.9)
    scale = [calibration.calibrated(score) for score in np.linspace(-2, 3, 201).tolist()]
    assert all(low < high for low, high in itertools.pairwise(scale))
    assert calibration.calibrated(-1e9) == 0
    assert calibration.calibrated(1e9) == 1


def test_the_calibrated_score_ignores_scale_and_origin_of_the_scores():
    scores = np.linspace(0, 2, 21)
    one, other = made(GOOD, 0.05), made(3 * GOOD - 7, 0.05)
    np.testing.assert_allclose(one.calibrated_map(scores), other.calibrated_map(3 * scores - 7), atol=1e-12)


def test_the_score_that_decides_is_above_one_half_exactly_for_anomalous_parts():
    rng = np.random.default_rng(0)
    for by in DecideBy:
        calibration = made(rng.random(199), 0.1, rng.random(199), rule=Rule(decide_by=by))
        for image_score, peak in rng.random((200, 2)).tolist():
            is_over = calibration.calibrated_part(image_score, peak) > 0.5
            assert is_over == (calibration.decide(image_score, peak) is Decision.anomalous)


def test_scores_that_are_all_equal_still_have_a_scale():
    calibration = made(np.full(99, 0.25))
    assert calibration.decide(0.25, 0.25) is Decision.normal
    assert calibration.calibrated(0.25) == 0.5 < calibration.calibrated(0.3)


def test_a_decision_is_its_word():
    decision = made().decide(2.0, 0.0)
    assert (decision == "anomalous", str(decision), f"{decision}") == (True, "anomalous", "anomalous")
    assert json.dumps([decision]) == '["anomalous"]'


@pytest.mark.parametrize(
    ("num", "decide_by", "advice"),
    [
        (0, DecideBy.image, "Add 99 more."),
        (1, DecideBy.image, "Add 98 more, or write false_alarms=0.5."),
        (1, DecideBy.either, "Add 198 more."),
        (2, DecideBy.either, "Add 197 more, or write false_alarms=0.6668."),
    ],
)
def test_the_advice_is_a_budget_that_the_parts_allow(num, decide_by, advice):
    rule = Rule(decide_by=decide_by)
    with pytest.raises(CalibrationError, match=f"got {num}. {re.escape(advice)}$"):
        made(GOOD[:num], rule=rule)
    if "=" in advice:
        made(GOOD[:num], float(advice.rstrip(".").split("=")[1]), rule=rule)


def test_the_lower_threshold_of_a_map_is_the_median_of_the_maxima_and_never_above_the_higher():
    calibration = made(maxima=GOOD**2)
    assert (calibration.map_low, calibration.map_high) == (0.5**2, 0.99**2)
    low_bad = (np.linspace(0.1, 0.2, 49),) * 2
    assert made(bad=low_bad, rule=Rule(escape=0.02)).map_low < 0.1


def test_an_escape_budget_bounds_the_missed_parts_from_the_bad_side():
    bad = np.arange(1, 50) / 10
    calibration = made(bad=(bad, bad), rule=Rule(escape=0.02))
    assert calibration.decide(0.1, 0.0) is Decision.anomalous  # the lowest of 49 bad scores itself is reported
    assert calibration.decide(math.nextafter(0.1, 0), 0.0) is Decision.normal
    with pytest.raises(CalibrationError, match="at least 49 bad parts, got 48"):
        made(bad=(bad[1:], bad[1:]), rule=Rule(escape=0.02))
    rng = np.random.default_rng(5)
    for by in DecideBy:
        rule = Rule(decide_by=by, escape=0.1)
        rows = rng.normal(1, 1, (300, 31, 2))
        missed = sum(
            calibrate(GOOD, GOOD, 0.1, IDENTITY, rule=rule, bad=(row[1:, 0], row[1:, 1])).decide(*row[0].tolist())
            is Decision.normal
            for row in rows
        )
        assert missed <= binom.ppf(0.999, len(rows), 0.1)


def test_what_decides_by_bad_parts_needs_no_budget_of_good_ones():
    good, bad = np.array([0.1, 0.2]), np.linspace(2, 3, 9)
    for rule in (Rule(escape=0.1), Rule(best_f1=True)):
        calibration = made(good, 0.01, bad=(bad, bad), rule=rule)
        assert calibration.image.unit == pytest.approx(0.05)  # from the median to the highest good score
        assert calibration.calibrated(calibration.image.threshold) == 0.5


def test_the_best_f1_separates_what_can_be_separated():
    bad = np.linspace(2, 3, 5)
    calibration = made(bad=(bad, bad), rule=Rule(best_f1=True))
    assert {calibration.decide(score, 0.0) for score in GOOD.tolist()} == {Decision.normal}
    assert {calibration.decide(score, 0.0) for score in bad.tolist()} == {Decision.anomalous}
    assert "neither" in calibration.guarantee()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"false_alarms": 1.0}, "false_alarms must lie between 0 and 1, got 1.0"),
        ({"rule": Rule(best_f1=True)}, "best_f1 bad ones too, got 99 good and 0 bad"),
        ({"good": [], "maxima": [], "rule": Rule(escape=0.5), "bad": ([1.0], [1.0])}, "need good parts, .* got 0 good"),
        ({"good": np.append(GOOD, math.nan)}, "must be finite"),
        ({"maxima": GOOD[:-1]}, r"got shapes \(99,\) and \(98,\)"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(options, fault):
    with pytest.raises(ValueError, match=fault):
        made(**options)


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ({"escape": 2.0}, "escape must lie between 0 and 1, got 2.0. For one percent write escape=0.01."),
        ({"undecided": 1.0}, "undecided must lie between 0 and 1"),
        ({"escape": 0.1, "undecided": 0.9}, "escape and undecided exclude each other, got both"),
        ({"best_f1": True, "decide_by": DecideBy.either}, "got decide_by=either"),
    ],
)
def test_a_rule_that_contradicts_itself_is_refused(rule, fault):
    with pytest.raises(ValueError, match=fault):
        Rule(**rule)


def test_a_calibration_comes_back_from_its_file_as_it_was(tmp_path):
    rng = np.random.default_rng(1)
    for rule in (Rule(), Rule(decide_by=DecideBy.either), Rule(undecided=0.95)):
        calibration = calibrate(rng.random(250), rng.random(250), 0.01, IDENTITY, rule=rule, photographs="ab")
        calibration.write(tmp_path / CALIBRATION)
        assert read_calibration(tmp_path / CALIBRATION) == calibration == read_calibration(tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda content: content.update(version=2), "version must be 1, got 2"),
        (lambda content: content.pop("version"), "version is missing"),
        (lambda content: content["image"].pop("unit"), "image.unit is missing"),
        (lambda content: content.update(decide_by="both"), 'decide_by must be image or region or either, got "both"'),
        (lambda content: content["region"].update(threshold="0.5"), 'region.threshold must be a number, got "0.5"'),
        (lambda content: content["image"].update(threshold=math.nan), "image.threshold must be a number, got null"),
        (lambda content: content["image"].update(unit=0.0), "image.unit must be positive"),
        (lambda content: content["image"]["good_scores"].pop(), "num_good=99 entries, got 98"),
        (lambda content: content["image"]["good_scores"].reverse(), "ascending"),
        (lambda content: content["image"].update(threshold=0.5), "must lie between undecided_from and undecided_to"),
        (lambda content: content.update(map_low=2.0), "map_low must not exceed region.threshold=0.99, got 2.0"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused(tmp_path, change, fault):
    path = tmp_path / CALIBRATION
    made().write(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CalibrationError, match=fault) as error:
        read_calibration(path)
    assert str(error.value).startswith(f"{path} is not a calibration written by afr-clip calibrate: ")
    assert str(error.value).endswith(". Write calibration=FILE; afr-clip calibrate writes one.")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "it does not exist"),
        ("no", "Expecting value: line 1"),
        ("[1]", "an object"),
        ("{}", "version is missing"),
    ],
)
def test_another_file_or_a_folder_without_one_is_refused(tmp_path, content, fault):
    path = tmp_path / "c.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CalibrationError, match=f"c.json is not a calibration written by .*: .*{fault}.*Write calibr"):
        read_calibration(path)
    with pytest.raises(
        CalibrationError, match=r"is not a calibration .*: it holds no calibration\.json\. Write calibr"
    ):
        read_calibration(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": "4a"}, 'weights was "3f" and is "4a"'),
        ({"category": "screw", "weights": "4a"}, 'weights was "3f" and is "4a"'),
        ({"settings": {"temperature": 1.0}}, r'settings was \{"temperature": 0.07\} and is \{"temperature": 1.0\}'),
        ({"tile": 518}, "tile was null and is 518"),
        ({"roi": "9f"}, "The calibration was made without roi, and this run has one"),
    ],
)
def test_another_detector_is_refused_by_the_first_key_that_differs(change, said):
    with pytest.raises(CalibrationError, match=said):
        made().require(IDENTITY | change)


@pytest.mark.parametrize(("now", "said"), [(None, "made with ignore, and this run has none"), ("a", "another ignore")])
def test_another_area_is_refused_without_its_hash(now, said):
    with pytest.raises(CalibrationError, match=said) as error:
        calibrate(GOOD, GOOD, 0.01, IDENTITY | {"ignore": "3f7a"}).require(IDENTITY | {"ignore": now})
    assert "3f7a" not in str(error.value)


def test_the_same_detector_is_accepted_whatever_held_its_settings():
    made = calibrate(GOOD, GOOD, 0.01, {"stages": (1, 2)})
    made.require({"stages": [1, 2]})
    made.require({"stages": (1, 2)})
    with pytest.raises(CalibrationError, match="stages was"):
        made.require({"stages": [2, 1]})
