import pytest

from afr_clip.reports.layout.grid import Grid, Heading, TableCell, difference_cell, measured_cell
from afr_clip.reports.layout.html import Page, Section
from afr_clip.reports.record.provenance import PAPER_ARCHITECTURE, backbone_notices
from helpers.html import Tree

HEADINGS = [
    Heading("Dataset", is_text=True),
    Heading("Trained on", is_text=True),
    Heading("AUROC", "Area", group="A & B"),
    Heading("F1", group="A & B"),
    Heading("AUROC", group="C"),
]


def render_grid(grid, tmp_path, notices=()):
    page = Page(tmp_path / "page.html", "T", "", "About.", notices, [], [Section("grid", "A grid", [("table", grid)])])
    page.write()
    return page.path.read_text(encoding="utf-8")


ROW = [
    TableCell("<b>"),
    TableCell("VisA"),
    TableCell("50.0", 49.96, is_strong=True),
    TableCell("-"),
    TableCell("absent"),
]


def test_neighbouring_columns_stand_under_their_group_and_keep_their_place(tmp_path):
    tree = Tree(render_grid(Grid("A grid", HEADINGS, [ROW]), tmp_path))
    assert [cells for place, cells in tree.rows if place == "thead"] == [
        ["", "A & B", "C"],
        ["Dataset", "Trained on", "AUROC", "F1", "AUROC"],
    ]
    spans = [int(a["colspan"]) for _, a in tree.elements if "colspan" in a]
    assert spans == [2, 2, 1]
    assert sum(spans) == len(ROW)
    assert [a["class"] for a in tree.attributes("table")] == ["grouped"]


def test_a_grid_without_groups_has_one_row_of_headings_and_without_foot_none(tmp_path):
    tree = Tree(
        render_grid(
            Grid("A grid", [Heading("x", is_text=True), Heading("y")], [[TableCell("a"), TableCell("3", 3.0)]]),
            tmp_path,
        )
    )
    assert tree.rows == [("thead", ["x", "y"]), ("tbody", ["a", "3"])]
    assert tree.attributes("tfoot") == []


def test_numbers_sort_by_their_exact_value_and_words_by_what_is_read(tmp_path):
    text = render_grid(Grid("A grid", HEADINGS, [ROW]), tmp_path)
    assert '<td class="text">VisA</td><td data-value="49.96"><strong>50.0</strong></td>' in text
    assert '<td data-value="">-</td><td data-value="">absent</td>' in text
    assert ["data-text" in a for a in Tree(text).attributes("th") if a["scope"] == "col"] == [True, True, *[False] * 3]
    assert '<th scope="row">&lt;b&gt;</th>' in text


def test_a_number_is_shown_with_one_decimal_and_its_lack_as_a_dash():
    assert (measured_cell(12.345, None, 1), measured_cell(None, None, 1)) == (TableCell("12.3", 12.345), TableCell("-"))
    assert measured_cell(12.345, 0.56, 3, is_partial=True).shown == "12.3 \N{PLUS-MINUS SIGN} 0.6 (3)\N{DAGGER}"
    assert difference_cell(-0.01, (-1.26, 0.5)) == TableCell("+0.0 [-1.3, +0.5]", -0.01)
    assert difference_cell(None) == TableCell("")


@pytest.mark.parametrize(
    ("random_weights", "architecture", "warnings"),
    [
        (False, PAPER_ARCHITECTURE, []),
        (True, PAPER_ARCHITECTURE, ["Random weights."]),
        (False, "ViT-B-16", [""]),
        (True, "ViT-B-16", ["Random weights.", ""]),
    ],
)
def test_a_backbone_is_warned_of_where_its_numbers_are_not_the_methods(
    random_weights, architecture, warnings, tmp_path
):
    backbone = {"name": "b", "architecture": architecture, "random_weights": random_weights}
    notices = backbone_notices(backbone, "afr_clip")
    assert [warning for warning, _ in notices] == warnings
    text = render_grid(Grid("A grid", HEADINGS, []), tmp_path, notices)
    assert text.count('class="notice"') == warnings.count("Random weights.")
