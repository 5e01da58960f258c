import re

import pytest
from PIL import Image

from afr_clip.reports.compare.report import compare
from helpers.html import Tree
from helpers.results import TINY, source, write_run
from helpers.sweeps import cell, config_with, write_ablations, write_cell, write_loss, write_record, write_search

VISA = source("VisA")
REPEATED = "Reproducibility of the ablations"
HOSTILE = "<script>alert('x')</script>\" onmouseover=\"$title & co"


def read(folders, out):
    return compare(folders).write(out).path.read_text(encoding="utf-8")


@pytest.fixture
def comparison(tmp_path):
    """Two seeds on two datasets, one of them with pictures."""
    for seed, value in enumerate((0.8, 0.9)):
        values = {"MPDD": value, "kvasir": 0.5}
        run = write_run(tmp_path / str(seed), values, auxiliary=VISA, seed=seed, backbone=TINY)
        for sheet in ("highest", "lowest", "worst_ranked"):
            path = run / "figures" / "mpdd" / f"{sheet}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.linear_gradient("L").save(path)
    return read([tmp_path], tmp_path / "report")


def test_the_page_needs_nothing_from_outside(comparison):
    tree = Tree(comparison)
    ids = {attributes["id"] for _, attributes in tree.elements if "id" in attributes}
    links = [attributes["href"] for _, attributes in tree.elements if "href" in attributes]
    assert {link.removeprefix("#") for link in links} <= ids
    assert links
    assert all(attributes["src"].startswith("data:image/webp") for attributes in tree.attributes("img"))
    assert tree.attributes("link") == []
    assert not re.search(r"https?://|@import|url\(|fetch\(", comparison)


def test_every_column_sorts_by_exact_values_and_has_its_place_in_the_row(comparison):
    tree = Tree(comparison)
    header = next(cells for place, cells in tree.rows if place == "thead" and cells[0] == "Dataset")
    row = next(cells for place, cells in tree.rows if place == "tbody" and cells[0] == "MPDD")
    assert len(header) == len(row) == 2 + 10 + 2
    exact = re.findall(r'data-value="([^"]*)">85\.0 ', comparison)
    assert exact
    assert all(float(value) == pytest.approx(85.0) for value in exact)
    assert comparison.count('<td data-value="">absent</td>') == 2 * (3 + 3) + 2 * (3 + 4)
    assert '<td class="text">VisA</td>' in comparison
    assert len(re.findall(r"<th [^>]*data-text", comparison)) >= 4


def test_pictures_are_those_of_the_lowest_seed(comparison):
    alts = [attributes["alt"] for attributes in Tree(comparison).attributes("img")]
    assert len(alts) == 2
    assert all(alt.startswith("MPDD: AFR-CLIP (tiny, random weights) trained on VisA, seed 0: ") for alt in alts)


def test_the_page_has_its_notices_and_sections(comparison):
    assert comparison.count('class="notice"') == 1
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", comparison) == [
        "At a glance",
        "Table 1: image level",
        "Table 2: pixel level",
        "Datasets outside the paper",
        "By category",
        "Pictures",
        "Where these numbers come from",
        "Reproducibility",
    ]


def test_names_from_a_users_disk_stay_text(tmp_path):
    title = HOSTILE.replace("/", "")
    named = source("mine", [HOSTILE]) | {"name": "mine", "title": title}
    write_run(tmp_path / "a", {"mine": 0.5}, auxiliary=VISA | {"title": title}, sources={"mine": named})
    tree = Tree(read([tmp_path], tmp_path / "report"))
    assert len(tree.attributes("script")) == 1
    assert not [attributes for _, attributes in tree.elements if any(key.startswith("on") for key in attributes)]
    assert any(cells[0] == HOSTILE for _, cells in tree.rows)


def test_without_runs_the_page_holds_the_papers_tables(tmp_path):
    comparison = read([], tmp_path)
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", comparison) == ["Table 1: image level", "Table 2: pixel level"]
    assert "Nothing has been measured yet" in comparison
    assert "absent</td>" not in comparison
    Tree(comparison)


@pytest.fixture
def ablations(tmp_path):
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


def test_the_ablations_need_nothing_from_outside(ablations):
    tree = Tree(ablations)
    ids = {attributes["id"] for _, attributes in tree.elements if "id" in attributes}
    links = [attributes["href"] for _, attributes in tree.elements if "href" in attributes]
    assert {link.removeprefix("#") for link in links} <= ids
    assert len(links) == 4
    images = tree.attributes("img")
    assert len(images) == 4
    assert all(attributes["src"].startswith("data:image/webp") and attributes["alt"] for attributes in images)
    assert not re.search(r"https?://|@import|url\(|fetch\(", ablations)


def test_the_page_has_table_search_and_cells(ablations):
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", ablations)
    assert headings == ["Table 3: components", "Search", "Where these numbers come from", REPEATED]
    assert "Experiments: 1; cells: 5 in 5 run folders; without numbers: 1; trials: 3" in ablations
    rows = {tuple(cells[:4]) for place, cells in Tree(ablations).rows if place == "tbody"}
    assert ("table3", "table3_cmfr", "1", "done") in rows
    assert ("table3", "table3_baseline", "0", f"failed: {HOSTILE}") in rows


def test_every_row_has_a_cell_for_every_column(ablations):
    num = 0
    for place, cells in Tree(ablations).rows:
        if place == "thead":
            num = len(cells)  # the columns' own names come last
        else:
            assert len(cells) == num
    assert num == 6


def test_names_from_a_users_disk_stay_text_among_ablations(tmp_path):
    title = HOSTILE.replace("/", "")
    named = source("MVTec AD", [HOSTILE]) | {"title": title}
    write_cell(tmp_path / "a", {HOSTILE: 0.5}, target=named, auxiliary=named)
    write_record(tmp_path, [cell(HOSTILE, 0, folder="a")], "mine", HOSTILE)
    text = write_ablations(tmp_path, tmp_path / "out").read_text(encoding="utf-8")
    assert len(Tree(text).attributes("script")) == 1
    assert any(cells[0] == HOSTILE for _, cells in Tree(text).rows)
