"""The published numbers of others: complete rows, plausible values, and a grid per dataset."""

from html import unescape

import pytest

from afr_clip.data.disk.layouts import DATASETS as ROWS
from afr_clip.metrics.average import PUBLISHED_PRO
from afr_clip.reports.compare.paper import DATASETS
from afr_clip.reports.compare.published import (
    METRICS,
    category_grids,
    category_sources,
    published,
    published_categories,
    published_grids,
)
from afr_clip.reports.compare.report import compare
from afr_clip.reports.compare.tables import CategoryTables
from helpers.html import Tree
from helpers.results import measured_in, source, write_run


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


NOT_THE_PUBLISHED_SPLIT = {("AnomalyVFM", "GoodsAD", "drink_can")}
"""Published, but with an image fewer than the dataset has; KolektorSDD was left out whole for the same reason."""

CATEGORIES = {row.title: {*row.counts, *row.prompt_names} for row in ROWS.values()}


def test_every_category_is_one_of_its_dataset_and_none_is_missing():
    rows = published_categories()
    assert not rows.duplicated(["method", "dataset", "category"]).any()
    assert {"MVTec AD", "VisA"} < set(rows.dataset)
    for (method, title), own in rows.groupby(["method", "dataset"]):
        absent = {name for *place, name in NOT_THE_PUBLISHED_SPLIT if place == [method, title]}
        assert set(own.category) == CATEGORIES[str(title)] - absent


def test_every_row_of_a_category_has_a_source_and_was_trained_on_another_dataset():
    rows = published_categories()
    words = rows.drop(columns=[*METRICS, "image_ap", "image_f1_max", PUBLISHED_PRO])
    assert not words.isna().any().any()
    assert rows["commit"].str.fullmatch("[0-9a-f]{40}").all()
    assert (rows.dataset != rows.trained_on).all()
    numbers = rows[[*METRICS, "image_ap", "image_f1_max", PUBLISHED_PRO]]
    assert (numbers.isna() | ((numbers > 0) & (numbers < 100 + 1e-9))).all().all()
    assert numbers.notna().any(axis=1).all()


def test_means_over_categories_are_the_numbers_published_by_dataset():
    means = published_categories().groupby(["method", "backbone", "dataset"]).mean(numeric_only=True)
    by_dataset = published().set_index(["method", "backbone", "dataset"])
    both = by_dataset[by_dataset.index.isin(means.index)]
    assert len(both) == 2 * 2 * len(METRICS)  # two methods on two datasets
    for place, metric, value in zip(both.index, both.metric, both.value, strict=True):
        assert means.loc[place, metric] == pytest.approx(value, abs=0.05), (place, metric)


@pytest.mark.parametrize(("method", "half_a_digit"), [("AF-CLIP", 5e-7), ("AnomalyVFM", 1e-12)])
def test_image_auroc_counts_the_pairs_of_the_published_test_split(method: str, half_a_digit: float):
    rows = published_categories()
    rows = rows[(rows.method == method) & rows.image_auroc.notna()]
    counts = {(row.title, name): count for row in ROWS.values() for name, count in row.counts.items()}
    compared = 0
    for title, category, auroc in zip(rows.dataset, rows.category, rows.image_auroc, strict=True):
        num_normal, num_anomalous = counts.get((title, category), (0, 0))
        half_pairs = 2 * num_normal * num_anomalous  # a tie counts as half a pair
        error = half_pairs * half_a_digit
        if 0 < error < 0.1:
            ranked = half_pairs * auroc / 100
            assert ranked == pytest.approx(round(ranked), abs=1.01 * error + 1e-6), (title, category)
            compared += 1
    assert compared > 25


@pytest.fixture
def measured(tmp_path):
    """A run on parts of two datasets that others publish by category, and on one of which they do not."""
    parts = {"MVTec AD": source("MVTec AD", ["bottle", "grid", "lid"]), "BTAD": source("BTAD", ["01", "02", "03"])}
    write_run(tmp_path / "run", {"MVTec AD": 0.5, "BTAD": 0.25, "mine": 0.5}, auxiliary=source("VisA"), sources=parts)
    return tmp_path / "run"


def test_what_is_published_of_a_category_stands_below_what_was_measured_of_it(measured):
    mvtec, btad = category_grids(CategoryTables(measured_in(measured)))
    assert (mvtec.name, btad.name) == ("MVTec AD: measured and published", "BTAD: measured and published")
    assert [(row[0].shown, row[1].shown, row[2].shown, row[3].shown) for row in mvtec.body] == [
        ("bottle", "AFR-CLIP, measured", "VisA", "50.0\N{DAGGER}"),
        ("bottle", "AF-CLIP, published", "VisA", "96.0"),
        ("bottle", "AnomalyVFM, published", "10,000 generated pictures", "98.4"),
        ("grid", "AFR-CLIP, measured", "VisA", "50.0\N{DAGGER}"),
        ("grid", "AF-CLIP, published", "VisA", "96.6"),
        ("grid", "AnomalyVFM, published", "10,000 generated pictures", "99.9"),
    ]
    assert [heading.label for heading in mvtec.headings][-2:] == ["P-F1max", "PRO"]
    assert [row[-1].shown for row in mvtec.body[:3]] == ["50.0\N{DAGGER}", "", "88.8"]
    assert [row[0].shown for row in btad.body[::3]] == ["01", "02", "03"]
    assert btad.body[0][3].shown == "25.0"  # the whole test split has no mark
    assert btad.body[1][3].value == 96.2099


def test_several_settings_of_a_category_stand_together(tmp_path):
    sources = {"BTAD": source("BTAD", ["01", "02", "03"])}
    write_run(tmp_path / "a", {"BTAD": 0.25}, auxiliary=source("VisA"), sources=sources)
    write_run(tmp_path / "b", {"BTAD": 0.75}, sources=sources)
    (btad,) = category_grids(CategoryTables(measured_in(tmp_path)))
    assert [row[2].shown for row in btad.body[:4]] == ["VisA", "nothing", "MVTec AD", "10,000 generated pictures"]
    assert [row[3].shown for row in btad.body[:4]] == ["25.0", "75.0", "96.2", "97.2"]


def test_the_page_shows_published_categories_of_measured_datasets_with_their_sources(measured, tmp_path):
    page = compare([measured]).write(tmp_path / "out").path.read_text(encoding="utf-8")
    methods = [cells[1] for _, cells in Tree(page).rows if len(cells) > 1 and cells[1].endswith(", published")]
    assert methods == ["AF-CLIP, published", "AnomalyVFM, published"] * (2 + 3)
    sentences = category_sources({"BTAD"})
    assert len(sentences) == 2
    assert all(sentence in unescape(page) for sentence in sentences)
    assert "VisA: measured and published" not in page


def test_a_page_without_published_categories_has_no_such_part(tmp_path):
    write_run(tmp_path / "run", {"mine": 0.5}, auxiliary=source("VisA"))
    page = compare([tmp_path / "run"]).write(tmp_path / "out").path.read_text(encoding="utf-8")
    assert "repositories publish" not in page
    assert category_sources({"mine"}) == []
