"""From photographs of good parts to decisions: calibrate, predict, resume."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.integration

QUICK = ("num_threads=1", "data.num_workers=0", "category=plate")


def photograph(path: Path, seed: int, *, is_bad: bool = False) -> None:
    pixels = np.random.default_rng(seed).integers(110, 130, (64, 64, 3), dtype=np.uint8)
    if is_bad:
        pixels[28:36, 26:38] = (250, 20, 20)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_good_parts_alone_lead_to_decisions_that_survive_a_repair_and_more_processes(run, tmp_path, capsys):
    for i in range(12):
        photograph(tmp_path / "good" / f"{i}.png", i)
    for i in range(6):
        photograph(tmp_path / "Teile (Los 7)" / f"{i}.png", 100 + i, is_bad=i < 2)
    broken = tmp_path / "Teile (Los 7)" / "5.png"
    sound = broken.read_bytes()
    assert run("calibrate", f"good={tmp_path / 'good'}", "false_alarms=0.01", f"run_dir={tmp_path / 'no'}", *QUICK) == 1
    assert "needs at least 99 good parts, got 12. Add 87 more" in capsys.readouterr().err
    calibrated = tmp_path / "calibrated"
    assert run("calibrate", f"good={tmp_path / 'good'}", "false_alarms=0.1", f"run_dir={calibrated}", *QUICK) == 0

    predict = (
        "predict",
        f"images={tmp_path / 'Teile (Los 7)'}",
        f"calibration={calibrated}",
        "fail_on=anomalous",
        *QUICK,
    )
    broken.write_bytes(sound[:50])
    folder = tmp_path / "r"
    assert run(*predict, "formats=[coco]", f"run_dir={folder}") == 4
    said = capsys.readouterr().err
    assert "photographs found anomalous: " in said
    assert "1 of 6 photographs could not be scored: 5.png" in said
    with (folder / "scores.csv").open() as file:
        decisions = {row["image"]: row["decision"] for row in csv.DictReader(file)}
    assert {"0.png", "1.png"} <= {name for name, decision in decisions.items() if decision == "anomalous"}
    assert "5.png" not in decisions

    broken.write_bytes(sound)
    assert run(*predict, "formats=[coco]", f"run_dir={folder}", "resume=true") == 4
    whole = tmp_path / "whole"
    assert run(*predict, "formats=[coco]", f"run_dir={whole}") == 4
    files = [
        "scores.csv",
        "regions.json",
        *(path.relative_to(whole) for path in (whole / "annotations").rglob("*.json")),
    ]
    assert len(files) > 2
    assert [name for name in files if (folder / name).read_bytes() != (whole / name).read_bytes()] == []
    assert not (folder / "skipped.csv").exists()
    assert json.loads((whole / "manifest.json").read_text())["calibration"]["sha256"]

    (good,) = (tmp_path / "good").glob("0.png")
    assert run(*predict, f"references={good}", f"run_dir={tmp_path / 'few'}") == 1
    assert "The calibration belongs to another detector: references was" in capsys.readouterr().err
