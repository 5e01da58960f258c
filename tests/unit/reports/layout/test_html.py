import pytest

from afr_clip.reports.layout.grid import Cell, Grid, Heading, counts, percent
from afr_clip.reports.layout.html import PAPER_ARCHITECTURE, backbone_notices, render_grid, render_notices
from helpers.html import Tree

HEADINGS = [
    Heading("Dataset", is_text=True),
    Heading("Trained on", is_text=True),
    Heading("AUROC", "Area", group="A & B"),
    Heading("F1", group="A & B"),
    Heading("AUROC", group="C"),
]
ROW = [Cell("<b>"), Cell("VisA"), Cell("50.0", 49.96, is_strong=True), Cell("-"), Cell("absent")]


def test_neighbouring_columns_stand_under_their_group_and_keep_their_place():
    tree = Tree(render_grid(Grid("A grid", HEADINGS, [ROW])))
    assert [cells for place, cells in tree.rows if place == "thead"] == [
        ["", "A & B", "C"],
        ["Dataset", "Trained on", "AUROC", "F1", "AUROC"],
    ]
    spans = [int(a["colspan"]) for _, a in tree.elements if "colspan" in a]
    assert spans == [2, 2, 1]
    assert sum(spans) == len(ROW)
    assert [a["class"] for a in tree.attributes("table")] == ["grouped"]


def test_a_grid_without_groups_has_one_row_of_headings_and_without_foot_none():
    tree = Tree(render_grid(Grid("A grid", [Heading("x", is_text=True), Heading("y")], [[Cell("a"), *counts(3)]])))
    assert tree.rows == [("thead", ["x", "y"]), ("tbody", ["a", "3"])]
    assert tree.attributes("tfoot") == []


def test_numbers_sort_by_their_exact_value_and_words_by_what_is_read():
    text = render_grid(Grid("A grid", HEADINGS, [ROW]))
    assert '<td class="text">VisA</td><td data-value="49.96"><strong>50.0</strong></td>' in text
    assert '<td data-value="">-</td><td data-value="">absent</td>' in text
    assert ["data-text" in a for a in Tree(text).attributes("th") if a["scope"] == "col"] == [True, True, *[False] * 3]
    assert '<th scope="row">&lt;b&gt;</th>' in text


def test_a_fraction_is_shown_in_percent_and_its_lack_as_a_dash():
    assert (percent(0.12345), percent(None)) == (Cell("12.3", 0.12345), Cell("-"))


@pytest.mark.parametrize(
    ("random_weights", "architecture", "warnings"),
    [
        (False, PAPER_ARCHITECTURE, []),
        (True, PAPER_ARCHITECTURE, ["Random weights."]),
        (False, "ViT-B-16", [""]),
        (True, "ViT-B-16", ["Random weights.", ""]),
    ],
)
def test_a_backbone_is_warned_of_where_its_numbers_are_not_the_methods(random_weights, architecture, warnings):
    backbone = {"name": "b", "architecture": architecture, "random_weights": random_weights}
    notices = backbone_notices(backbone, "afr_clip")
    assert [warning for warning, _ in notices] == warnings
    assert render_notices(notices).count('class="notice"') == warnings.count("Random weights.")
