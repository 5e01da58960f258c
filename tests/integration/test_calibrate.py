import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afr_clip.inspection.calibration import Decision, read_calibration

OPTIONS = ("category=bolt", "num_threads=1", "data.eval_batch_size=8")


def write_parts(folder: Path, num: int, seed: int, spots: int = 0) -> Path:
    """Write photographs of grey parts of different shades and shapes, with bright spots on the bad ones."""
    rng = np.random.default_rng(seed)
    for i in range(num):
        pixels = np.kron(rng.integers(90, 160, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        for y, x in rng.integers(0, 56, (spots, 2)):
            pixels[y : y + 8, x : x + 8] = (255, 0, 0)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_parts(tmp_path / "good parts", 21, seed=0)


def test_a_calibration_agrees_with_the_scores_it_was_made_from(run: Callable[..., int], good, tmp_path, capsys):
    bad = write_parts(tmp_path / "bad", 5, seed=1, spots=3)
    assert (
        run("calibrate", f"good={good}", *OPTIONS, "false_alarms=0.05", f"bad={bad}", f"run_dir={tmp_path / 'run'}")
        == 0
    )
    made = read_calibration(tmp_path / "run")
    scores = rows_of(tmp_path / "run" / "good_scores.csv")
    images = sorted(float(row["image_score"]) for row in scores)
    assert list(made.image.good_scores) == images
    assert made.image.threshold == images[-1]  # floor(22 * 0.05) = 1 good part may score higher
    assert list(made.region.good_scores) == sorted(float(row["map_maximum"]) for row in scores)
    assert {row["decision"] for row in scores} == {"normal"}
    assert (made.num_good, made.num_bad, made.identity["category"]) == (21, 5, "bolt")
    for row in rows_of(tmp_path / "run" / "bad_scores.csv"):
        decided = made.decide(float(row["image_score"]), float(row["map_maximum"]))
        assert decided is Decision(row["decision"])
    printed = capsys.readouterr().out
    assert "at most 5 %" in printed
    assert printed.rstrip().endswith(f"run: {tmp_path / 'run'}")
    assert run("calibrate", f"good={good}", *OPTIONS, "false_alarms=0.05", f"run_dir={tmp_path / 'run'}") == 1
    assert "holds the results of a run. Choose another run_dir.\n" in capsys.readouterr().err


def test_what_is_no_new_part_is_left_out_and_named(run: Callable[..., int], good, tmp_path, capsys):
    (good / "copy.png").write_bytes((good / "0.png").read_bytes())
    Image.fromarray(np.asarray(Image.open(good / "1.png")) + np.uint8(1)).save(good / "again.png")
    (good / "broken.png").write_bytes(b"no")
    assert run("calibrate", f"good={good}", *OPTIONS, "false_alarms=0.05", f"run_dir={tmp_path / 'run'}") == 3
    said = capsys.readouterr().err
    assert "1 photograph is an exact copy and counts once: copy.png" in said
    assert "1 of 22 good photographs looks like another one: again.png (1.png)" in said
    assert "1 photograph could not be used: broken.png" in said
    assert read_calibration(tmp_path / "run").num_good == 22
    (row,) = rows_of(tmp_path / "run" / "skipped.csv")
    assert row["image"] == "broken.png"


def test_what_leaves_too_few_parts_is_named_and_recorded(run: Callable[..., int], tmp_path, capsys):
    good, bad = write_parts(tmp_path / "good", 3, seed=0), write_parts(tmp_path / "bad", 3, seed=1, spots=3)
    for folder in (good, bad):
        (folder / "1.png").write_bytes(folder.name.encode())
    assert run("calibrate", f"good={good}", f"bad={bad}", *OPTIONS, "false_alarms=0.25", f"run_dir={tmp_path}/run") == 1
    said = capsys.readouterr().err
    assert "at least 3 good parts, got 2. Add 1 more, or write false_alarms=0.3334. 2 photographs could not be" in said
    rows = rows_of(tmp_path / "run" / "skipped.csv")
    assert [(row["image"], row["kind"]) for row in rows] == [("1.png", "good"), ("1.png", "bad")]
    assert not (tmp_path / "run" / "calibration.json").exists()


def test_a_photograph_too_thin_to_tile_is_left_out(run: Callable[..., int], good, tmp_path):
    Image.fromarray(np.zeros((1, 10_001), np.uint8)).save(good / "thin.png")
    assert run("calibrate", f"good={good}", *OPTIONS, "false_alarms=0.05", "tile=auto", f"run_dir={tmp_path}/run") == 3
    (row,) = rows_of(tmp_path / "run" / "skipped.csv")
    assert (row["image"], "10,001 tiles of 1 pixels" in row["reason"]) == ("thin.png", True)


def test_references_among_the_good_parts_are_named(run: Callable[..., int], good, tmp_path, capsys):
    references = tmp_path / "references"
    references.mkdir()
    for name, said in {"0.png": "0.png is in both", "1.png": "0.png, 1.png are in both"}.items():
        (references / name).write_bytes((good / name).read_bytes())
        assert run("calibrate", f"good={good}", *OPTIONS, "false_alarms=0.1", f"references={references}",
                   f"run_dir={tmp_path}/run") == 1  # fmt: skip
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "code", "fault"),
    [
        (["false_alarms=0.01"], 1, "at least 99 good parts, got 21. Add 78 more, or write false_alarms=0.0455."),
        (["false_alarms=0.05", "decide_by=either"], 1, "2.5 % for each of the two scores needs at least 39"),
        (["false_alarms=2"], 1, "false_alarms must lie between 0 and 1, got 2.0"),
        (["escape=0.02"], 1, "escape needs labelled bad parts, got none. Add bad=FOLDER."),
        (["bad=missing"], 1, "bad=missing does not exist"),
        (["decide_by=score"], 2, "decide_by"),
        (["trainer.devices=2", "false_alarms=0.1"], 1, "calibrate runs in one process"),
        (["false_alarm=0.1"], 2, "Did you mean false_alarms"),
    ],
)  # fmt: skip
def test_what_cannot_be_calibrated_is_refused_and_leaves_no_folder(run, good, tmp_path, capsys, typed, code, fault):
    assert run("calibrate", f"good={good}", *OPTIONS, *typed, f"run_dir={tmp_path / 'run'}") == code
    assert fault in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_thresholds_come_from_the_bad_side_where_an_escape_is_asked_for(run: Callable[..., int], good, tmp_path):
    bad = write_parts(tmp_path / "bad", 9, seed=1, spots=3)
    assert run("calibrate", str(good), *OPTIONS, "false_alarms=0.1", f"bad={bad}", "escape=0.1", "decide_by=region",
               f"run_dir={tmp_path / 'run'}") == 0  # fmt: skip
    content = json.loads((tmp_path / "run" / "calibration.json").read_text())
    lowest = min(float(row["map_maximum"]) for row in rows_of(tmp_path / "run" / "bad_scores.csv"))
    assert content["threshold_from"] == "escape"
    assert content["region"]["threshold"] == np.nextafter(lowest, -1)
    assert {row["decision"] for row in rows_of(tmp_path / "run" / "bad_scores.csv")} == {"anomalous"}


@pytest.mark.parametrize("decide_by", ["image", "region", "either"])
def test_a_prediction_decides_as_the_calibration_says(run: Callable[..., int], good, tmp_path, decide_by):
    bad = write_parts(tmp_path / "bad", 4, seed=1, spots=3)
    options = (*OPTIONS, "data.num_workers=0")
    assert run("calibrate", f"good={good}", *options, "false_alarms=0.1", f"decide_by={decide_by}", f"bad={bad}",
               f"run_dir={tmp_path / 'made'}") == 0  # fmt: skip
    made = read_calibration(tmp_path / "made")
    assert run("predict", f"images={bad}", *options, f"calibration={tmp_path / 'made'}",
               f"run_dir={tmp_path / 'run'}") == 0  # fmt: skip
    expected = {row["image"]: row for row in rows_of(tmp_path / "made" / "bad_scores.csv")}
    for row in rows_of(tmp_path / "run" / "scores.csv"):
        part = expected[row["image"]]
        assert float(row["image_score"]) == pytest.approx(float(part["image_score"]), abs=1e-5)
        assert row["decision"] == part["decision"]
        deciding = made.region if decide_by == "region" else made.image
        assert float(row["threshold"]) == deciding.threshold


def test_a_calibration_of_another_category_or_size_is_refused_before_anything_is_scored(run, good, tmp_path, capsys):
    assert run("calibrate", f"good={good}", *OPTIONS, "false_alarms=0.1", f"run_dir={tmp_path / 'made'}") == 0
    for typed, said in {
        "category=nut": 'category was "bolt" and is "nut"',
        "backbone.image_size=96": "image_size was 160 and is 96",
    }.items():
        options = [option for option in OPTIONS if not typed.startswith(option.split("=")[0])]
        assert run("predict", f"images={good}", *options, typed, "data.num_workers=0",
                   f"calibration={tmp_path}/made", f"run_dir={tmp_path}/run") == 1  # fmt: skip
        assert said in capsys.readouterr().err
        assert not (tmp_path / "run" / "scores.csv").exists()
