import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import afr_clip
from afr_clip.demo_page import photographs
from afr_clip.demo_page.photographs import COCO, SCORES, Chosen, Session
from afr_clip.inspection.calibration import CalibrationError
from afr_clip.inspection.calibration import calibrate as find_thresholds
from afr_clip.inspection.detector import as_rgb
from afr_clip.inspection.scan import InspectionError


@pytest.fixture(scope="module")
def detector():
    return afr_clip.load("pocket")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Twelve photographs: grey noise, of which the last four have a bright spot."""
    folder, draw = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    for number in range(12):
        pixels = draw.integers(100, 130, (60, 80, 3), dtype=np.uint8)
        if number >= 8:
            pixels[20:40, 30:50] = draw.integers(0, 255, 3)
        Image.fromarray(pixels).save(folder / f"part_{number:02d}.png")
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def session(detector, files):
    return photographs.inspect(detector, "pocket", " nut ", files, Session())


@pytest.fixture(scope="module")
def calibrated(detector, files, session):
    return photographs.calibrate_with(detector, "pocket", "nut", files[:8], 20.0, session)


def at_calibration(session):
    return Chosen(session.calibration.image.threshold, session.calibration.map_high)


def test_scores_are_those_of_the_detector_and_what_cannot_be_read_is_named(detector, files, session, tmp_path):
    expected = [one.image_score for one in detector.inspect(files, "nut")]
    assert [one.scan.image_score for one in session.scored] == expected
    assert [one.name for one in session.scored] == [f"part_{i:02d}.png" for i in range(12)]
    (tmp_path / "part_00.png").write_bytes(b"no picture")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "part_00.png").symlink_to(files[0])
    given = [files[0], str(tmp_path / "part_00.png"), str(tmp_path / "a" / "part_00.png")]
    found = photographs.inspect(detector, "pocket", "nut", given, Session())
    assert [one.name for one in found.scored] == ["part_00.png", "part_00.png (3)"]
    (reason,) = found.skipped
    assert reason.startswith("part_00.png (2) ")


def test_what_is_too_large_comes_with_what_a_visitor_can_do(detector, files):
    small = replace(detector, max_pixels=60 * 80 - 1)
    sentence = "part_00.png cannot be read: it has 80 x 60 pixels, more than 4799. This page takes no larger ones."
    with pytest.raises(InspectionError, match=re.escape(f"{sentence} Scale it down.") + "$"):
        photographs.inspect(small, "pocket", "nut", files[:1], Session())


def test_a_higher_threshold_reports_fewer_and_a_score_equal_to_it_is_normal(detector, session):
    scores = sorted(one.scan.image_score for one in session.scored)
    numbers = []
    for threshold in (0.0, scores[3], scores[7], 1.0):
        judged = photographs.judge(detector, session, Chosen(threshold, 0.5))
        numbers.append(sum(one.decision == "anomalous" for one in judged))
        assert all((one.decision == "anomalous") == (one.image_score > threshold) for one in judged)
        assert {one.threshold for one in judged} == {threshold}
    assert numbers == [12, 8, 4, 0]


def test_a_lower_outline_encloses_no_less_and_does_not_change_decisions(detector, session):
    judged = [photographs.judge(detector, session, Chosen(0.5, outline)) for outline in (0.0, 0.3, 0.6, 0.9)]
    areas = [[one.area_px for one in found] for found in judged]
    assert all((np.diff(np.array(areas), axis=0) <= 0).all(axis=0))
    assert sum(areas[0]) > sum(areas[-1])
    assert len({tuple(one.decision for one in found) for found in judged}) == 1


def test_where_the_calibration_put_the_sliders_its_own_detector_decides(detector, files, calibrated):
    own = replace(detector, calibration=calibrated.calibration)
    expected = [one.inspected for one in own.inspect(files, "nut")]
    rounded = Chosen(
        *(round(value, 4) for value in (at_calibration(calibrated).threshold, at_calibration(calibrated).outline))
    )
    for chosen in (at_calibration(calibrated), rounded):  # a slider has steps
        judged = photographs.judge(detector, calibrated, chosen)
        assert [replace(one, image="") for one in judged] == [replace(one, image="") for one in expected]
    moved = photographs.judge(detector, calibrated, replace(rounded, threshold=1.0))
    assert {one.decision for one in moved} == {"normal"}
    assert [one.regions for one in moved] == [one.regions for one in expected]
    sentences = " ".join(photographs.summary(calibrated, moved, replace(rounded, threshold=1.0)))
    assert "12 photographs: 12 normal. The threshold was moved from" in sentences


def test_a_calibration_is_that_of_the_same_scores_with_exact_copies_counted_once(
    detector, files, session, calibrated, tmp_path
):
    good = [one.scan for one in session.scored[:8]]
    expected = find_thresholds(
        [scan.image_score for scan in good], [scan.highest for scan in good], 0.2, detector.identity("nut")
    )
    assert calibrated.calibration == expected
    assert calibrated.scored == session.scored
    copies = []
    for number in range(4):
        copies.append(tmp_path / f"{number}.png")
        copies[-1].write_bytes(Path(files[0]).read_bytes())
    with pytest.raises(
        CalibrationError, match=r"20 % false alarms need 4 different good parts, got 1. Add 3 more, or acc"
    ):
        photographs.calibrate_with(detector, "pocket", "nut", [str(copy) for copy in copies], 20.0, session)
    assert photographs.summary(calibrated, [], at_calibration(calibrated)) == [expected.guarantee()]


def test_another_name_forgets_the_calibration_and_the_same_keeps_it(detector, files, calibrated):
    assert photographs.inspect(detector, "pocket", "nut", files[:1], calibrated).calibration == calibrated.calibration
    assert photographs.inspect(detector, "pocket", "bolt", files[:1], calibrated).calibration is None
    assert photographs.calibrate_with(detector, "pocket", "bolt", files[:8], 20.0, calibrated).scored == ()


def test_the_sliders_reach_every_score(session, calibrated):
    for one in (Session(), session, calibrated):
        low, high = one.ends
        scores = [scored.scan.image_score for scored in one.scored]
        assert 0 <= low < min([0.5 if one.calibration is None else 1, *scores])
        assert max(scores, default=0) <= high <= 1


def test_the_files_are_those_of_predict(detector, session, calibrated, tmp_path):
    judged = photographs.judge(detector, calibrated, at_calibration(calibrated))
    files = photographs.write_files(detector, calibrated, judged, tmp_path)
    with Path(files[SCORES]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["image_score"]) for row in rows] == [one.image_score for one in judged]
    assert [row["decision"] for row in rows] == [one.decision for one in judged]
    content = json.loads(Path(files[COCO]).read_text())
    assert [one["file_name"] for one in content["images"]] == [one.image for one in judged]
    assert len(content["annotations"]) == sum(len(one.regions) for one in judged)
    kept = afr_clip.load("pocket", calibration=files["calibration.json"])
    assert kept.category == "nut"
    assert set(photographs.write_files(detector, session, judged, tmp_path)) == {SCORES, COCO}


def test_overlays_are_small_pictures_of_the_photographs(detector, session, tmp_path):
    chosen = Chosen(0.5, 0.0)
    photographs.draw_overlays(session, photographs.judge(detector, session, chosen), chosen, tmp_path)
    sizes = [as_rgb(photographs.overlay_path(tmp_path, number)).shape for number in range(12)]
    assert sizes == [(3, 60, 80)] * 12


@pytest.mark.parametrize(
    ("category", "number", "fault"),
    [
        (" ", 1, "The photographs need a name"),
        ("nut", 0, "No photographs were given"),
        ("nut", 201, "takes 200 photographs"),
    ],
)
def test_what_cannot_be_inspected_is_refused(detector, files, category, number, fault):
    with pytest.raises(InspectionError, match=fault):
        photographs.inspect(detector, "pocket", category, files[:1] * number, Session())
