import re

import pytest

from afr_clip.reports.compare.ablation.write import write_ablations
from helpers.html import Tree
from helpers.results import source
from helpers.sweeps import cell, config_with, write_cell, write_loss, write_record, write_search

HOSTILE = "<script>alert('x')</script> $title & \"co\""


@pytest.fixture
def page(tmp_path):
    """Two seeds of a setting and the reference, a failed cell, and a search."""
    sweep = tmp_path / "sweep"
    for seed in (0, 1):
        write_loss(write_cell(sweep / f"cells/table3_full_{seed}", [0.8, 0.9], seed=seed), [2.0, 1.0])
        config = config_with(module__network__mpfa_window=1)
        write_cell(sweep / f"cells/table3_cmfr_{seed}", [0.7, 0.9], seed=seed, config=config)
    cells = [cell(name, seed) for name in ("table3_full", "table3_cmfr") for seed in (0, 1)]
    write_record(sweep, [*cells, cell("table3_baseline", 0, "failed", HOSTILE)])
    write_search(sweep, [0.1, 0.2, None])
    return write_ablations(sweep, tmp_path / "out").read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_outside(page):
    tree = Tree(page)
    ids = {attributes["id"] for _, attributes in tree.elements if "id" in attributes}
    links = [attributes["href"] for _, attributes in tree.elements if "href" in attributes]
    assert {link.removeprefix("#") for link in links} <= ids
    assert len(links) == 3
    images = tree.attributes("img")
    assert len(images) == 4
    assert all(attributes["src"].startswith("data:image/webp") and attributes["alt"] for attributes in images)
    assert not re.search(r"https?://|@import|url\(|fetch\(", page)


def test_the_page_has_table_search_and_cells(page):
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings == ["Table 3: components", "Search", "Where these numbers come from"]
    assert "Experiments: 1; cells: 5 in 5 run folders; without numbers: 1; trials: 3" in page
    rows = {tuple(cells[:4]) for place, cells in Tree(page).rows if place == "tbody"}
    assert ("table3", "table3_cmfr", "1", "done") in rows
    assert ("table3", "table3_baseline", "0", f"failed: {HOSTILE}") in rows


def test_every_row_has_a_cell_for_every_column(page):
    num = 0
    for place, cells in Tree(page).rows:
        if place == "thead":
            num = len(cells)  # the columns' own names come last
        else:
            assert len(cells) == num
    assert num == 6


def test_names_from_a_users_disk_stay_text(tmp_path):
    title = HOSTILE.replace("/", "")
    named = source("MVTec AD", [HOSTILE]) | {"title": title}
    write_cell(tmp_path / "a", {HOSTILE: 0.5}, target=named, auxiliary=named)
    write_record(tmp_path, [cell(HOSTILE, 0, folder="a")], "mine", HOSTILE)
    text = write_ablations(tmp_path, tmp_path / "out").read_text(encoding="utf-8")
    assert len(Tree(text).attributes("script")) == 1
    assert any(cells[0] == HOSTILE for _, cells in Tree(text).rows)
