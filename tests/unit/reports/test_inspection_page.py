import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from afr_clip.inspection.calibration import Decision, calibrate
from afr_clip.inspection.record import Inspected
from afr_clip.inspection.regions import Hint, Region, find_regions
from afr_clip.inspection.settings import Rule
from afr_clip.reports import inspection_page
from afr_clip.reports.inspection_page import LARGEST_SIDE, NUM_BINS, write_inspection_page, write_thumbnail
from afr_clip.reports.record.run_folder import write_csv, write_json
from helpers.html import Tree

HOSTILE = "<script>alert('x')</script>\" onmouseover=\"{{ 7*7 }} & [<svg onload=alert(1)>.png"


def inspected(name="a.png", score=0.5, decision=None, regions=(), size=(60, 40), category="nut") -> Inspected:
    threshold = None if decision is None else 0.5
    return Inspected(name, *size, category, score, threshold, decision, None if decision is None else 0.25, regions)


def region(height: int, width: int, rows: slice, columns: slice, **sizes: float) -> Region:
    """Return the region of a rectangle."""
    anomaly_map = np.zeros((height, width), dtype=np.float32)
    anomaly_map[rows, columns] = 1
    (found,) = find_regions(anomaly_map, 0.5, 0.5, **sizes)
    return found


def cards(text: str) -> list[dict[str, str | None]]:
    return [attributes for attributes in Tree(text).attributes("li") if "data-place" in attributes]


def written(folder, rows, *others) -> str:
    return write_inspection_page(folder, iter(rows), *others).read_text(encoding="utf-8")


def drawn(path: str, width: int, height: int) -> np.ndarray:
    """Fill the path of an SVG by the even-odd rule."""
    filled = np.zeros((height, width), dtype=np.uint8)
    for ring in re.findall("M(.*?)Z", path):
        corners = np.array([corner.split() for corner in ring.split("L")], dtype=np.float64)
        one = np.zeros_like(filled)
        cv2.fillPoly(one, [np.rint((corners - 0.5) * 256).astype(np.int32)], 1, shift=8)
        filled ^= one
    return filled.astype(bool)


def test_the_worst_come_first_and_a_decision_counts_more_than_a_score(tmp_path):
    found = [
        inspected("n", 0.9, Decision.normal),
        inspected("a1", 0.2, Decision.anomalous),
        inspected("u", 0.95, Decision.undecided),
        inspected("a2", 0.3, Decision.anomalous),
    ]
    text = written(tmp_path, found)
    assert [card["data-name"] for card in cards(text)] == ["a2", "a1", "u", "n"]
    assert re.findall(r'<strong class="\w+">(\d+)</strong> (\w+)</span>', text) == [
        ("2", "anomalous"),
        ("1", "undecided"),
        ("1", "normal"),
    ]


def test_without_a_calibration_nothing_is_decided(tmp_path):
    text = written(tmp_path, [inspected("a", 0.1), inspected("b", 0.9)])
    assert [card["data-name"] for card in cards(text)] == ["b", "a"]
    assert "Without a calibration nothing is decided" in text
    assert '<select name="decision"' not in text
    assert "<line" not in text


def test_the_page_says_what_another_name_changes(tmp_path):
    found = [replace(inspected(name, score), by_name={HOSTILE: other}) for name, score, other in
             (("a", 0.5, 0.5), ("b", 0.25, 0.5), ("c", 0.75, 0.625))]  # fmt: skip
    text = written(tmp_path, found)
    assert "What the name does" in text
    assert "changes by +0.0000 in the median and by +0.2500 at most" in text
    assert HOSTILE not in text
    shown = unescape(text)
    assert all(
        f"as {HOSTILE} {score}" in shown for score in ("0.5000 (+0.0000)", "0.5000 (+0.2500)", "0.6250 (-0.1250)")
    )
    assert "What the name does" not in written(tmp_path, [inspected()])


def test_names_from_data_are_text_and_nothing_else(tmp_path):
    hint = region(40, 60, slice(3, 9), slice(4, 30))
    hint = Region(hint.box, hint.mask, hint.polygons, hint.area_px, None, 1.0, 1.0, Hint(HOSTILE, 0.1))
    text = written(tmp_path, [inspected(HOSTILE, 0.7, Decision.anomalous, (hint,), category=HOSTILE)])
    tree = Tree(text)
    assert [name for name, _ in tree.elements].count("script") == 1
    assert not any(key.startswith("on") for _, attributes in tree.elements for key in attributes)
    assert cards(text)[0]["data-name"] == HOSTILE
    assert unescape(text).count(HOSTILE) == 5  # the title twice; data, heading and hint of the card


def test_pictures_come_from_below_the_folder_only(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other.jpg"
    grey = np.full((900, 600, 3), 90, dtype=np.uint8)
    write_thumbnail(run, "in side#1?.png", grey)
    Image.fromarray(grey).save(other)
    (run / "overlays" / "in side#1?.jpg").parent.mkdir()
    (run / "overlays" / "in side#1?.jpg").touch()
    (run / "link.jpg").symlink_to(other)
    rows = [inspected("in side#1?.png", 0.9), inspected("up", 0.8), inspected("link", 0.7), inspected("absent", 0.6)]
    larger = {
        "in side#1?.png": Path("overlays/in side#1?.jpg"),
        "up": Path("../other.jpg"),
        "link": Path("link.jpg"),
        "absent": Path("overlays/absent.jpg"),
    }
    tree = Tree(written(run, rows, None, larger))
    (picture,) = tree.attributes("img")
    assert [a["href"] for a in tree.attributes("a")] == ["overlays/in%20side%231%3F.jpg"]
    assert picture["loading"] == "lazy"
    with Image.open(run / str(picture["src"])) as thumbnail:
        assert thumbnail.size == (round(LARGEST_SIDE * 2 / 3), LARGEST_SIDE)


@pytest.mark.parametrize("scale", [1, 20])
def test_outlines_lie_on_their_regions_to_a_pixel_of_the_thumbnail(tmp_path, scale):
    rng = np.random.default_rng(0)
    anomaly_map = cv2.GaussianBlur(rng.random((120, 200), dtype=np.float32), (0, 0), 5)
    anomaly_map = cv2.resize(anomaly_map, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    high, low = (float(np.quantile(anomaly_map, share)) for share in (0.9, 0.8))
    found = find_regions(anomaly_map, high, low)
    height, width = anomaly_map.shape
    text = written(tmp_path, [inspected("a", 0.9, None, found, (width, height))])
    truth = np.zeros((height, width), dtype=bool)
    for one in found:
        x, y, columns, rows = one.box
        truth[y : y + rows, x : x + columns] |= one.mask
    (view,) = [a["viewbox"] for a in Tree(text).attributes("svg") if "role" not in a]
    assert view == f"0 0 {width} {height}"
    path = next(a["d"] for a in Tree(text).attributes("path"))
    near = np.ones((2 * max(1, width // LARGEST_SIDE) + 1,) * 2, dtype=np.uint8)
    edges = cv2.morphologyEx(truth.astype(np.uint8), cv2.MORPH_GRADIENT, near).astype(bool)
    wrong = drawn(str(path), width, height) != truth
    assert not (wrong & ~edges).any()


def test_a_region_smaller_than_a_pixel_of_the_thumbnail_stays_visible(tmp_path):
    tiny = region(4000, 6000, slice(100, 104), slice(200, 205))
    path = Tree(written(tmp_path, [inspected("a", 0.9, None, (tiny,), (6000, 4000))])).attributes("path")[0]["d"]
    corners = np.array(re.findall(r"([\d.]+) ([\d.]+)", str(path)), dtype=float)
    assert (np.abs(corners - [202, 102]) <= 3).all()
    assert len(corners) >= 1


@pytest.mark.parametrize(("sizes", "said"), [
    ({}, "2 regions, 1,100 px"), ({"mm_per_pixel": 0.1}, "2 regions, 11 mm²"),
    ({"mm_per_pixel": 2.0}, "2 regions, 4,400 mm²"),
])  # fmt: skip
def test_areas_are_given_in_mm_where_the_size_of_a_pixel_is_known(tmp_path, sizes, said):
    two = region(40, 60, slice(0, 20), slice(0, 50), **sizes), region(40, 60, slice(30, 40), slice(0, 10), **sizes)
    text = written(tmp_path, [inspected("a", 0.9, None, two)])
    assert f"<p>{said}</p>" in text
    assert cards(text)[0]["data-area"] == "1100"


def test_the_histogram_counts_every_photograph_and_marks_the_threshold(tmp_path):
    calibration = calibrate(np.linspace(0, 0.5, 99), np.linspace(0, 0.5, 99), 0.01, {})
    scores = [0.0] * 30 + [0.24] * 10 + [1.0] * 5
    rows = [
        inspected(str(i), score, Decision.anomalous if score > 0.5 else Decision.normal)
        for i, score in enumerate(scores)
    ]
    text = written(tmp_path, rows, calibration)
    bars = [(a["class"], float(str(a["x"])), float(str(a["height"]))) for a in Tree(text).attributes("rect")]
    width = 100 / NUM_BINS
    assert bars == [
        ("normal", 0.0, 100.0),
        ("normal", pytest.approx(0.24 * 100 // width * width), pytest.approx(100 / 3, abs=0.01)),
        ("anomalous", 100 - width, pytest.approx(100 / 6, abs=0.01)),
    ]
    assert [float(str(a["x1"])) for a in Tree(text).attributes("line")] == [50.0]
    assert calibration.guarantee().split(",")[0] in unescape(text)
    assert "as the 99 good parts of the calibration." in unescape(text)


def test_two_thousand_photographs_make_a_small_page(tmp_path):
    one = region(400, 600, slice(30, 200), slice(30, 300))
    rows = [inspected(f"folder/{i:04}.png", i / 2000, Decision.anomalous, (one,)) for i in range(2000)]
    text = written(tmp_path, rows)
    assert [card["data-name"] for card in cards(text)] == [f"folder/{i:04}.png" for i in range(1999, -1, -1)]
    assert len(text) < 2_000_000


def test_of_very_many_the_worst_are_shown_and_the_others_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection_page, "MOST_SHOWN", 3)
    text = written(tmp_path, [inspected(str(i), i / 8) for i in range(8)])
    assert [card["data-name"] for card in cards(text)] == ["7", "6", "5"]
    assert "8 photographs" in text
    assert "The 5 lowest-ranked photographs are not shown" in text


def test_photographs_that_could_not_be_scored_are_named_with_reasons(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection_page, "MOST_SKIPPED", 3)
    reasons = [
        ("a.png", "a.png is no image."),
        ("=1+1.png", "MemoryError"),
        (HOSTILE, "gone"),
        ("d.png", "d.png is gone"),
    ]
    write_csv(tmp_path / "skipped.csv", ("image", "reason"), reasons)
    text = written(tmp_path, [])
    assert "4 could not be scored:" in unescape(text)
    named = [unescape(one) for one in re.findall("<li>(.*?)</li>", text)]
    assert named[:3] == ["a.png is no image.", "=1+1.png: MemoryError", f"{HOSTILE}: gone"]
    assert "skipped.csv names the other 1." in text
    assert "0 photographs" in text
    assert "skipped.csv" not in written(tmp_path / "other", [inspected("a")])


def test_the_page_tells_how_it_was_made(tmp_path):
    detector = {"method": "afr_clip", "weights": "0123456789abcdef", "category": "steel nut", "image_size": 160}
    detector |= {"tile": 320, "references": ["x", "y"], "roi": "a folder", "ignore": None}
    write_json(tmp_path / "manifest.json", {"detector": detector, "config": {}})
    (tmp_path / "scores.csv").touch()
    text = written(tmp_path, [], calibrate([0.1] * 99, [0.1] * 99, 0.01, {}))
    assert "<h1>Inspection: steel nut</h1>" in text
    assert (
        "Made with afr_clip; weights 0123456789ab; input 160 x 160 px; tile=320; few-shot with 2 references; "
        "roi= limits what is looked at; calibrated with false_alarms=0.01."
    ) in unescape(text)
    assert [a["href"] for a in Tree(text).attributes("a")] == ["scores.csv"]


def test_without_outlines_the_page_says_how_to_get_them_and_what_a_click_does(tmp_path):
    (tmp_path / "a.jpg").touch()
    text = written(tmp_path, [inspected("a")], None, {"a": Path("a.jpg")})
    assert "Outlines need a calibration or region_threshold=VALUE. A click on a photograph opens its heat map." in text
    write_json(tmp_path / "manifest.json", {"config": {"region_threshold": 0.5}})
    text = written(tmp_path, [inspected("a")], None, {"a": Path("a.jpg")})
    assert "Outlines need" not in text
    assert "A click on a photograph opens its heat map." in text


@pytest.mark.parametrize(("undecided", "counted"), [(0.95, ["anomalous", "undecided"]), (None, ["anomalous"])])
def test_nobody_undecided_is_news_only_if_there_is_a_band(tmp_path, undecided, counted):
    scores = np.linspace(0, 0.5, 999)
    calibration = calibrate(scores, scores, 0.01, {}, rule=Rule(undecided=undecided))
    text = written(tmp_path, [inspected("a", 0.9, Decision.anomalous)], calibration)
    assert re.findall(r'<strong class="\w+">\d+</strong> (\w+)</span>', text) == counted


def test_a_calibrated_score_that_rounds_to_one_comes_after_the_image_score(tmp_path):
    high, low = (
        Inspected(name, 6, 4, "nut", 0.7, 0.5, Decision.anomalous, c, ()) for name, c in (("h", 1.0), ("l", 0.999))
    )
    text = written(tmp_path, [high, low])
    assert re.findall(r"image score .*?</p>", text) == [
        "image score 0.7000, calibrated &gt; 0.999</p>",
        "image score 0.7000, calibrated 0.999</p>",
    ]


def test_no_photograph_and_equal_scores_make_a_page_too(tmp_path):
    assert "No photograph was inspected." in written(tmp_path, [])
    assert len(cards(written(tmp_path, [inspected("a"), inspected("b")]))) == 2


def test_the_page_takes_what_was_read_back(tmp_path):
    row = inspected("a", 0.9, Decision.undecided, (region(40, 60, slice(3, 9), slice(4, 30)),))
    again = Inspected.from_dict(json.loads(json.dumps(row.to_dict())))
    assert written(tmp_path / "a", [row]) == written(tmp_path / "b", [again])
