"""The published numbers of others: complete rows, plausible values, and a grid per dataset."""

import pytest

from afr_clip.metrics.average import PUBLISHED_PRO
from afr_clip.reports.compare.paper import DATASETS
from afr_clip.reports.compare.published import METRICS, published, published_grids


def test_every_row_is_complete_and_a_percentage():
    rows = published()
    assert not rows.isna().any().any()
    assert rows.value.between(0, 100).all()
    assert set(rows.metric) <= {*METRICS, PUBLISHED_PRO}
    assert set(rows.dataset) <= {dataset.title for dataset in DATASETS}
    assert not rows.duplicated(["method", "backbone", "dataset", "metric", "source"]).any()


def test_nothing_was_trained_on_what_it_is_scored_on():
    rows = published()
    assert (rows.dataset != rows.trained_on).all()


@pytest.mark.parametrize("titles", [set(), {"MVTec AD"}, {"MVTec AD", "VisA", "BTAD"}])
def test_only_datasets_that_were_measured_are_shown(titles):
    grids = published_grids(titles)
    assert {grid.name for grid in grids} == titles & {"MVTec AD", "VisA"}
    for grid in grids:
        assert all(len(row) == len(grid.headings) for row in grid.body)


def test_afr_clip_has_the_paper_s_own_numbers():
    (grid,) = published_grids({"MVTec AD"})
    own = next(row for row in grid.body if row[0].shown == "AFR-CLIP")
    assert [cell.shown for cell in own[4:9]] == ["93.4", "92.3", "", "47.9", ""]


def test_pro_with_a_rescaled_false_positive_rate_is_not_shown_as_pro():
    (grid,) = published_grids({"MVTec AD"})
    own = next(row for row in grid.body if row[0].shown == "AF-CLIP")
    assert [cell.shown for cell in own[4:9]] == ["92.9", "92.3", "46.5", "47.8", ""]
