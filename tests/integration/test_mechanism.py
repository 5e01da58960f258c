"""The study of which readings make the name decide: its design, its estimates, and two of its cells."""

import csv
import json
import shutil
import sys
from importlib import import_module
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from afr_clip.config.axes import read_axes
from helpers.trees import write_mvtec_tree

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "experiments" / "mechanism"))
        yield import_module("study")
    sys.modules.pop("study", None)


@pytest.fixture(scope="module")
def settings(study) -> list[str]:
    """The settings of the experiment, as a sweep names them."""
    content = yaml.safe_load((REPOSITORY / "conf" / "experiment" / "mechanism.yaml").read_text())
    return [name for name, _ in read_axes(content["hydra"]["sweeper"]["params"]).settings()]


def test_main_effects_are_clear_of_each_other_and_of_interactions_of_two(study):
    levels = np.array([[1 if factor in run else -1 for factor in study.FACTORS] for run in study.fraction()])
    assert levels.shape == (16, 8)
    assert (levels.T @ levels == 16 * np.eye(8)).all()
    for one, other in combinations(range(8), 2):
        assert not (levels.T @ (levels[:, one] * levels[:, other])).any()


def test_the_experiment_has_the_fraction_and_every_single_change(study, settings):
    runs = [study.changed(setting) for setting in settings]
    assert len(set(runs)) == len(runs) == 25
    assert set(study.fraction()) <= set(runs)
    assert {frozenset([factor]) for factor in study.FACTORS} <= set(runs)


def cell(study, setting: str, seed: int, gap: float):
    by_pair = {measure: {"a/b": 50.0, "c/d": 60.0} for measure in study.MEASURES}
    by_pair["gap"] = {"a/b": gap, "c/d": gap + seed}
    return study.Cell(setting, seed, by_pair, {}, 75.0, reads_name=True, manifest={})


def test_effects_are_recovered_from_the_fraction_and_from_single_changes(study, settings):
    def gap(setting: str) -> float:
        files = study.changed(setting)
        return 8.0 * ("reading_unit_tokens" in files) - 3.0 * ("no_cmfr" in files)

    cells = [cell(study, setting, seed, gap(setting)) for setting in settings for seed in (0, 1)]
    rows = study.effects(cells)
    found = {(row["kind"], row["change"]): row for row in rows if row["measure"] == "gap"}
    for kind in ("main effect", "single change"):
        for factor in study.FACTORS:
            expected = {"reading_unit_tokens": 8.0, "no_cmfr": -3.0}.get(factor, 0.0)
            row = found[kind, factor]
            assert [row[key] for key in ("points", "low", "high")] == pytest.approx([expected] * 3)
            assert (row["num_seeds"], row["num_pairs"]) == (2, 2)
    assert all(row["points"] == pytest.approx(0) for row in rows if row["measure"] != "gap")
    # A run of the fraction that is not done leaves only what does not need it.
    some = study.effects([one for one in cells if one.setting != settings[-1]])
    assert {row["kind"] for row in some} == {"single change"}


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """Write two names that share pictures: what is good under one is flawed under the other."""
    root = write_mvtec_tree(tmp_path / "names", ("dotted_sheet",), num_normal=2, num_anomalous=2, seed=1)
    own, other = root / "dotted_sheet" / "test", root / "striped_sheet" / "test"
    (other / "good").mkdir(parents=True)
    for picture in sorted(own.glob("s*/*.png")):
        shutil.copy(picture, other / "good" / picture.name)
    shutil.copytree(own / "good", other / "instead")
    masks = other.parent / "ground_truth" / "instead"
    masks.mkdir(parents=True)
    for picture in (other / "instead").iterdir():
        with Image.open(picture) as opened:
            Image.new("L", opened.size, 255).save(masks / f"{picture.stem}_mask.png")
    return root


class OneAtATime:
    """Stands for a pool of threads: a command handles signals, which only the main thread may."""

    def __init__(self, _: int) -> None:
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None: ...


@pytest.mark.integration
def test_two_cells_are_trained_diagnosed_and_compared_and_then_skipped(
    study, run, settings, auxiliary, names, tmp_path, monkeypatch
):
    commands: list[str] = []

    def command(name: str, *overrides: str) -> None:
        commands.append(name)
        assert run(name, *overrides) == 0

    monkeypatch.setattr(study, "command", command)
    monkeypatch.setattr(study, "ThreadPoolExecutor", OneAtATime)
    left_out = [setting for setting in settings if "+" not in setting and setting not in ("full", "reading_universal")]
    target = [f"protocol.roots.demo_names_unseen={names}"]
    target.append("protocol.categories.demo_names_unseen=[dotted_sheet,striped_sheet]")
    tiny = ["backbone=tiny", "backbone.image_size=64", "trainer.limit_train_batches=1"]
    data = [f"dataset.root={auxiliary}", f"cache_dir={tmp_path / 'cache'}"]
    out = tmp_path / "out"
    options = ["--seeds", "0", "--fraction-seeds", "--jobs", "2", "--leave-out", *left_out]
    typed = ["--out", str(out), *options, "--", *data, *target, *tiny]
    study.main(typed)
    with (out / "cells.csv").open(newline="") as file:
        full, universal = csv.DictReader(file)
    assert (full["setting"], universal["setting"], universal["reading_universal"]) == ("full", "reading_universal", "1")
    for row in (full, universal):
        assert float(row["bound"]) == pytest.approx(50)
        assert float(row["gap"]) == pytest.approx(float(row["right"]) - float(row["wrong"]))
        assert 0 < float(row["text_share_patches"]) < 100
    content = json.loads((out / "results.json").read_text())
    (gap,) = [row for row in content["effects"] if row["measure"] == "gap"]
    assert gap["points"] == pytest.approx(float(universal["gap"]) - float(full["gap"]))
    before = {
        path: path.stat().st_mtime_ns
        for path in out.glob("single/cells/*/*")
        if path.name in ("DONE", "diagnosis.json")
    }
    assert len(before) == 4
    study.main(typed)
    assert commands == ["sweep", "diagnose", "diagnose", "sweep"]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert json.loads((out / "results.json").read_text()) == content
