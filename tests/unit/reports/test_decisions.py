import math

import pytest

from afr_clip.metrics.average import METRICS, CategoryResult
from afr_clip.reports.decisions import score_charts, threshold_grid
from afr_clip.reports.record.results import ImageRow, thresholds_of


def rows_of(category, normal, anomalous):
    pairs = [*((score, False) for score in normal), *((score, True) for score in anomalous)]
    return [ImageRow("mine", category, f"{i}.png", truth, score) for i, (score, truth) in enumerate(pairs)]


@pytest.fixture
def rows():
    return [*rows_of("[red]bolt", [0.1, 0.2], [0.15, 0.5]), *rows_of("nut", [0.31], [])]


@pytest.mark.parametrize(
    ("given", "shown"),
    [(None, ()), ((0.5, 0.25), ("0.5", "25.0")), ((0.5, math.nan), ("0.5", "-"))],
    ids=["none", "defined", "undefined"],
)
def test_each_category_has_a_row_and_all_images_the_foot(rows, given, shown):
    values = dict.fromkeys(METRICS, 0.5)
    results = [
        CategoryResult("[red]bolt", values, 2, 2, pixel_threshold=0.25),
        CategoryResult("nut", values, 1, 0, pixel_threshold=0.75, pixel_f1_given=given),
    ]
    without = ["-" for _ in shown]
    grid = threshold_grid("mine", thresholds_of(rows, results))
    assert [[cell.shown for cell in row] for row in (*grid.body, *grid.foot)] == [
        ["[red]bolt", "0.15", *"2011", "0.15", "1 (50 %)", "0.5", "1 (50 %)", "0.25", *without],
        ["nut", *"---------", "0.75", *shown],
        ["all images", "0.5", *"1103", "0.15", "2 (67 %)", "0.5", "1 (50 %)", "-", *without],
    ]


def test_charts_share_one_scale_and_count_every_image(rows):
    bolt, nut, together = score_charts(rows, thresholds_of(rows, []))
    assert (bolt.name, nut.name, together.name) == ("[red]bolt", "nut", "all images")
    assert bolt.ends == nut.ends == together.ends == ("0.1", "0.5")
    assert bolt.threshold == pytest.approx(100 * 0.05 / 0.4)
    assert nut.threshold is None
    assert [(kind, x, height) for kind, x, _, _, height in nut.bars] == [("normal", 50.0, 100.0)]
    assert [kind for kind, *_ in together.bars] == ["normal"] * 3 + ["anomalous"] * 2
    assert "2 normal and 2 anomalous images" in bolt.alt


def test_scores_that_are_all_equal_or_of_unknown_truth_are_drawn_as_far_as_they_can():
    (chart,) = score_charts(rows_of("a", [0.5], [0.5]), [])
    assert (len(chart.bars), chart.threshold) == (2, None)
    assert score_charts([ImageRow("mine", "a", "a.png", None, 0.5)], []) == []
