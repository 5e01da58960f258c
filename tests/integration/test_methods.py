"""Every method through the commands, on the smallest backbone."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest

import afr_clip
from afr_clip.config.nodes import method_names
from afr_clip.reports.record.provenance import TITLES
from helpers.method_package import importable, write_files
from helpers.methods import FOR_FOUR_BLOCKS, IN_TWO_EPOCHS, composed_module

pytestmark = pytest.mark.integration

SMALL = ("backbone=tiny", "backbone.image_size=64", "data.num_workers=0", "num_threads=1")


def chosen(method: str) -> list[str]:
    return [f"module={method}", *SMALL, *FOR_FOUR_BLOCKS.get(method, ()), *IN_TWO_EPOCHS.get(method, ())]


def trains(method: str) -> bool:
    return composed_module(method).network.trains


@pytest.fixture(params=method_names())
def method(request) -> str:
    return request.param


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_method_trains_if_it_does_scores_the_same_later_and_predicts(run, method, auxiliary, unseen, tmp_path):
    target = ["dataset=folder", "dataset.name=parts", f"dataset.root={unseen}"]
    scored = tmp_path / "scored"
    source = chosen(method)
    if trains(method):
        data = [
            "dataset=folder",
            "dataset.name=generated",
            f"dataset.root={auxiliary}",
            f"trainer.max_epochs={2 if method in IN_TWO_EPOCHS else 1}",
        ]
        targets = ["protocol.targets=[parts]", f"+protocol.roots.parts={unseen}"]
        trained = tmp_path / "trained"
        assert run("train", *source, *data, *targets, f"run_dir={trained}") == 0
        source = [f"checkpoint={trained}", "data.num_workers=0", "num_threads=1"]
    assert run("evaluate", *source, *target, f"run_dir={scored}") == 0
    manifest = json.loads((scored / "manifest.json").read_text())
    assert manifest["config"]["module"]["name"] == method
    assert (manifest["checkpoint"] is None) != trains(method)
    assert {row["category"] for row in rows(scored / "results.csv")} == {"fabric", "metal_plate", "mean"}
    assert "parts" in (scored / "report.html").read_text()
    if trains(method):
        assert (scored / "scores.csv").read_text() == (trained / "scores.csv").read_text()

    photographs = unseen / "metal_plate" / "test"
    predicted = tmp_path / "predicted"
    assert run("predict", *source, f"images={photographs}", "category=metal_plate", f"run_dir={predicted}") == 0
    assert len(rows(predicted / "scores.csv")) == len(list(photographs.rglob("*.png")))


def test_a_checkpoint_is_refused_where_nothing_is_trained(run, unseen, tmp_path, capsys):
    target = ["dataset=folder", f"dataset.root={unseen}", "checkpoint=somewhere", f"run_dir={tmp_path / 'r'}"]
    assert run("evaluate", *chosen("clip_similarity"), *target) == 1
    assert "module=clip_similarity takes no checkpoint" in capsys.readouterr().err


def test_winclip_looks_at_as_many_normal_images_as_asked(run, unseen, tmp_path):
    target = ["dataset=folder", "dataset.name=parts", f"dataset.root={unseen}"]
    scores = {}
    for shots in (0, 1):
        folder = tmp_path / str(shots)
        assert run("evaluate", *chosen("winclip"), f"module.network.shots={shots}", *target, f"run_dir={folder}") == 0
        scores[shots] = [row["image_score"] for row in rows(folder / "scores.csv")]
    assert scores[0] != scores[1]


@pytest.mark.parametrize("method", ["adapt_clip", "af_clip", "uni_adet"])
def test_what_was_trained_without_normal_images_scores_with_some_and_says_so(run, method, auxiliary, unseen, tmp_path):
    data = ["dataset=folder", "dataset.name=generated", f"dataset.root={auxiliary}", "data.mosaic=0"]
    target = ["dataset=folder", "dataset.name=parts", f"dataset.root={unseen}", "data.num_workers=0", "num_threads=1"]
    scores = {}
    for cached in ("false", "true"):
        cache = [f"data.feature_cache={cached}", f"cache_dir={tmp_path / 'cache'}"]
        trained = tmp_path / cached
        assert run("train", *chosen(method), *data, *cache, "trainer.max_epochs=1", f"run_dir={trained}") == 0
        for shots in (0, 1):
            scored = tmp_path / "scored" / f"{cached}{shots}"
            few = [f"module.network.shots={shots}", f"run_dir={scored}"]
            assert run("evaluate", f"checkpoint={trained}", *target, *few) == 0
            assert ("(few-shot)" in (scored / "report.html").read_text()) == (shots == 1)
            scores[cached, shots] = {row["image"]: row["image_score"] for row in rows(scored / "scores.csv")}
    assert scores["true", 1] == scores["false", 1] != scores["false", 0] == scores["true", 0]
    assert run("report", str(tmp_path / "scored"), "--out", str(tmp_path / "report")) == 0
    report = (tmp_path / "report" / "report.html").read_text()
    assert "generated and 1 normal image of each category (few-shot)" in report
    assert f"{TITLES[method]} (tiny, random weights): few-shot (1)" in report


def test_a_detector_is_told_that_it_has_no_normal_images(run, auxiliary, unseen, tmp_path, capsys):
    trained = tmp_path / "trained"
    own = [*chosen("uni_adet"), "module.network.shots=1", "dataset=folder", "dataset.name=generated"]
    assert run("train", *own, f"dataset.root={auxiliary}", "trainer.max_epochs=1", f"run_dir={trained}") == 0
    without = [
        "dataset=folder",
        f"dataset.root={unseen}",
        "data.num_workers=0",
        "num_threads=1",
        "module.network.shots=0",
    ]
    assert run("evaluate", f"checkpoint={trained}", *without, f"run_dir={tmp_path / 'scored'}") == 0
    detector = afr_clip.load(trained)
    assert "A detector has no such images, so it scores zero-shot. Pass references=DIR" in capsys.readouterr().err
    first = rows(tmp_path / "scored" / "scores.csv")[0]
    score = detector.inspect(unseen / first["image"], first["category"]).image_score
    assert score == pytest.approx(float(first["image_score"]), abs=1e-6)
    good = unseen / "metal_plate" / "train" / "good"
    few_shot = afr_clip.load(trained, category="metal_plate", references=good)
    assert "zero-shot" not in capsys.readouterr().err
    assert few_shot.inspect(unseen / first["image"], "metal_plate").image_score != score


def test_more_shots_than_normal_images_are_one_sentence(run, unseen, tmp_path, capsys):
    target = ["dataset=folder", "dataset.name=parts", f"dataset.root={unseen}", f"run_dir={tmp_path / 'run'}"]
    assert run("evaluate", *chosen("winclip"), "module.network.shots=4", *target) == 1
    assert "4 shots need 4 normal images of each category in the train split" in capsys.readouterr().err


def test_a_method_of_an_installed_package_does_what_the_others_do(
    run, auxiliary, unseen, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("hatchling")
    write_files(tmp_path / "linear-probe")
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(installed), str(tmp_path / "linear-probe")], check=True, capture_output=True)
    data = ["dataset=folder", "dataset.name=generated", f"dataset.root={auxiliary}", "trainer.max_epochs=1"]
    target = ["dataset=folder", "dataset.name=parts", f"dataset.root={unseen}"]
    trained, scored, exported = tmp_path / "trained", tmp_path / "scored", tmp_path / "exported"
    source = [f"checkpoint={trained}", "data.num_workers=0", "num_threads=1"]
    with importable(installed):
        targets = ["protocol.targets=[parts]", f"+protocol.roots.parts={unseen}", f"run_dir={trained}"]
        assert run("train", "module=linear_probe", *SMALL, *data, *targets) == 0
        assert run("evaluate", *source, *target, f"run_dir={scored}") == 0
        assert run("report", str(trained), "--out", str(tmp_path / "report")) == 0
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # shapes are symbols while a graph is exported
        assert run("export", *source, "categories=[cap]", f"run_dir={exported}") == 0
    assert (scored / "scores.csv").read_text() == (trained / "scores.csv").read_text()
    manifest = json.loads((trained / "manifest.json").read_text())
    assert (manifest["config"]["module"]["name"], manifest["packages"]["linear-probe"]) == ("linear_probe", "0.1.0")
    assert "linear_probe" in (tmp_path / "report" / "report.html").read_text()
    assert (exported / "model.onnx").is_file()
    capsys.readouterr()
    assert run("evaluate", *source, *target, f"run_dir={tmp_path / 'again'}") != 0
    assert "got linear_probe. Add your own file with --config-dir. If a package brings" in capsys.readouterr().err
