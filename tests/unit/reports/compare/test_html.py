import re

import pytest
from PIL import Image

from afr_clip.reports.compare import write_comparison
from helpers.html import Tree
from helpers.results import TINY, source, write_run

VISA = source("VisA")
HOSTILE = "<script>alert('x')</script>\" onmouseover=\"$title & co"


def read(folders, out):
    return write_comparison(folders, out).read_text(encoding="utf-8")


@pytest.fixture
def page(tmp_path):
    """Two seeds on two datasets, one of them with pictures."""
    for seed, value in enumerate((0.8, 0.9)):
        values = {"MPDD": value, "kvasir": 0.5}
        run = write_run(tmp_path / str(seed), values, auxiliary=VISA, seed=seed, backbone=TINY)
        for sheet in ("highest", "lowest", "worst_ranked"):
            path = run / "figures" / "mpdd" / f"{sheet}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.linear_gradient("L").save(path)
    return read([tmp_path], tmp_path / "report")


def test_the_page_needs_nothing_from_outside(page):
    tree = Tree(page)
    ids = {attributes["id"] for _, attributes in tree.elements if "id" in attributes}
    links = [attributes["href"] for _, attributes in tree.elements if "href" in attributes]
    assert {link.removeprefix("#") for link in links} <= ids
    assert links
    assert all(attributes["src"].startswith("data:image/webp") for attributes in tree.attributes("img"))
    assert tree.attributes("link") == []
    assert not re.search(r"https?://|@import|url\(|fetch\(", page)


def test_every_column_sorts_by_exact_values_and_has_its_place_in_the_row(page):
    tree = Tree(page)
    header = next(cells for place, cells in tree.rows if place == "thead" and cells[0] == "Dataset")
    row = next(cells for place, cells in tree.rows if place == "tbody" and cells[0] == "MPDD")
    assert len(header) == len(row) == 2 + 10 + 2
    exact = re.findall(r'data-value="([^"]*)">85\.0 ', page)
    assert exact
    assert all(float(value) == pytest.approx(85.0) for value in exact)
    assert page.count('<td data-value="">absent</td>') == 2 * (3 + 3) + 2 * (3 + 4)
    assert '<td class="text">VisA</td>' in page
    assert len(re.findall(r"<th [^>]*data-text", page)) >= 4


def test_pictures_are_those_of_the_lowest_seed(page):
    alts = [attributes["alt"] for attributes in Tree(page).attributes("img")]
    assert len(alts) == 2
    assert all(alt.startswith("MPDD: AFR-CLIP (tiny, random weights) trained on VisA, seed 0: ") for alt in alts)


def test_the_page_has_its_notices_and_sections(page):
    assert page.count('class="notice"') == 1
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", page) == [
        "Table 1: image level",
        "Table 2: pixel level",
        "Datasets outside the paper",
        "By category",
        "Pictures",
        "Where these numbers come from",
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
    page = read([], tmp_path)
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", page) == ["Table 1: image level", "Table 2: pixel level"]
    assert "Nothing has been measured yet" in page
    assert "absent</td>" not in page
    Tree(page)
