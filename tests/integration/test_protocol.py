"""A whole protocol in one command: what it leaves behind, and how it goes on after anything."""

import csv
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from afr_clip.run import fit
from helpers.trees import write_mvtec_tree, write_visa_tree

pytestmark = pytest.mark.integration

LEGS = ("protocol=cross_dataset", "protocol.legs.visa=[mvtec_ad,mpdd,colon_db]")
"""ColonDB is the one that is absent."""

REWRITTEN = {"report", "report.html", "train.log", ".lock", ".lock.json"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def scored(leg: Path) -> list[str]:
    return list(dict.fromkeys(row["dataset"] for row in rows(leg / "results.csv")))


def manifest(leg: Path) -> dict:
    return json.loads((leg / "manifest.json").read_text())


def weights(leg: Path) -> dict[str, torch.Tensor]:
    return torch.load(leg / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_numbers(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    for name in ("results.csv", "scores.csv", "metrics.csv"):
        assert (one / name).read_text() == (other / name).read_text(), name


def touched(folder: Path) -> dict[str, int]:
    """When each file that is not written again whatever happens was written."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = (path for path in files if not REWRITTEN & {path.name, path.parts[0]})
    return {str(path): (folder / path).stat().st_mtime_ns for path in kept}


def add_colon_db(data: Path) -> None:
    for number in range(3):
        for kind, value in (("images", 90), ("masks", 0)):
            pixels = np.full((64, 64) if kind == "masks" else (64, 64, 3), value, dtype=np.uint8)
            pixels[20:40, 20 : 30 + 5 * number] = 255
            path = data / "CVC-ColonDB" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data directory as a user would have it, in small, and with most datasets missing."""
    folder = tmp_path_factory.mktemp("datasets")
    write_visa_tree(folder / "VisA", ("candle",))
    write_mvtec_tree(folder / "mvtec_anomaly_detection", ("bottle",), seed=3)
    write_mvtec_tree(folder / "MPDD", ("metal_plate",), seed=4)
    return folder


@pytest.fixture(scope="module")
def command(data, quick) -> list[str]:
    return [*LEGS, *quick, "num_figures=1", f"data_dir={data}"]


@pytest.fixture(scope="module")
def whole(run_once, command, tmp_path_factory) -> Path:
    """An undisturbed run of both legs, which nothing may write into."""
    folder = tmp_path_factory.mktemp("whole") / "r"
    assert run_once("train", *command, f"run_dir={folder}") == 0
    return folder


@pytest.fixture
def finished(whole, tmp_path) -> Path:
    """The same, to go on with."""
    return shutil.copytree(whole, tmp_path / "finished")


def test_one_command_runs_every_leg_and_names_what_is_absent(run, whole, tmp_path):
    assert scored(whole / "visa") == ["mvtec_ad", "mpdd"]
    assert scored(whole / "mvtec_ad") == ["visa"]
    absent = manifest(whole / "visa")["absent"]
    assert absent.keys() == {"colon_db"}
    assert absent["colon_db"]["title"] == "ColonDB"
    assert absent["colon_db"]["reason"].startswith("Dataset 'colon_db' needs a folder that contains")
    assert manifest(whole / "mvtec_ad")["absent"] == {}
    results = json.loads((whole / "visa" / "results.json").read_text())
    assert results["manifest"]["absent"] == absent
    assert {name: facts["title"] for name, facts in results["manifest"]["targets"].items()} == {
        "mvtec_ad": "MVTec AD",
        "mpdd": "MPDD",
    }
    scored_again = ["dataset=mpdd", f"data_dir={whole.parent}", "data.num_workers=0", f"run_dir={tmp_path / 'e'}"]
    root = manifest(whole / "visa")["targets"]["mpdd"]["root"]
    assert run("evaluate", f"checkpoint={whole / 'visa'}", *scored_again, f"dataset.root={root}") == 0
    assert rows(tmp_path / "e" / "scores.csv") == [
        row for row in rows(whole / "visa" / "scores.csv") if row["dataset"] == "mpdd"
    ]


@pytest.mark.parametrize(("auxiliary", "targets"), [("visa", "mvtec_ad,mpdd"), ("mvtec_ad", "visa")])
def test_a_leg_is_the_training_it_would_be_alone(run, quick, data, whole, tmp_path, auxiliary, targets):
    own = [f"dataset={auxiliary}", f"protocol.targets=[{targets}]", f"data_dir={data}"]
    assert run("train", *quick, *own, f"run_dir={tmp_path / 'alone'}") == 0
    assert_same_numbers(tmp_path / "alone", whole / auxiliary)


def test_a_finished_protocol_started_again_does_nothing_but_report(run, command, finished, capsys):
    before = touched(finished)
    (finished / "report" / "report.html").unlink()
    assert run("train", *command, f"run_dir={finished}") == 0
    assert touched(finished) == before
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"page: {finished / 'report' / 'report.html'}", f"run: {finished}"]
    assert f"{finished / 'visa'} is finished: trained, and scored on mvtec_ad, mpdd." in err
    assert (finished / "report" / "report.html").exists()


def test_killed_while_scoring_it_goes_on_with_what_is_left(run, killed, command, whole, tmp_path):
    folder = tmp_path / "r"
    overrides = [*command, "~protocol.legs.mvtec_ad", f"run_dir={folder}"]  # the other leg would only take time
    killed(overrides, "mpdd", "test_step", epoch=2)
    assert scored(folder / "visa") == ["mvtec_ad"]
    before = touched(folder / "visa")
    assert run("train", *overrides) == 0
    assert_same_numbers(folder / "visa", whole / "visa")
    after = touched(folder / "visa")
    done = [name for name in before if name.startswith(("checkpoints/", "figures/mvtec_ad/", "figures/training/"))]
    assert len(done) >= 6
    assert [name for name in done if after[name] != before[name]] == []
    assert manifest(folder / "visa")["seconds_scoring"].keys() == {"mvtec_ad", "mpdd"}


def test_killed_while_training_it_goes_on_from_the_last_epoch(run, killed, command, whole, finished):
    shutil.rmtree(finished / "mvtec_ad")
    overrides = [*command, f"run_dir={finished}"]
    before = touched(finished / "visa")
    killed(overrides, "mvtec_ad", "training_step", epoch=1)
    first_sheet = finished / "mvtec_ad" / "figures" / "training" / "epoch_0001.png"
    drawn = first_sheet.stat().st_mtime_ns
    assert run("train", *overrides) == 0
    assert touched(finished / "visa") == before
    assert first_sheet.stat().st_mtime_ns == drawn
    assert_same_numbers(finished / "mvtec_ad", whole / "mvtec_ad")


def test_a_dataset_that_arrives_later_is_scored_and_nothing_else(run, command, data, finished, tmp_path):
    more = shutil.copytree(data, tmp_path / "more")
    add_colon_db(more)
    before, scores = touched(finished), rows(finished / "visa" / "scores.csv")
    again = [*command, f"data_dir={more}", f"run_dir={finished}"]
    assert run("train", *again) == 0
    after = touched(finished)
    assert [name for name in before if "/checkpoints/" in name and after[name] != before[name]] == []
    assert [name for name in before if name.startswith("mvtec_ad/") and after[name] != before[name]] == []
    assert scored(finished / "visa") == ["mvtec_ad", "mpdd", "colon_db"]
    assert rows(finished / "visa" / "scores.csv")[: len(scores)] == scores
    assert manifest(finished / "visa")["absent"] == {}
    assert run("train", *again) == 0  # what is undefined is no reason to score again
    assert touched(finished) == after


def test_what_was_scored_stays_where_its_files_have_gone(run, command, data, finished, tmp_path):
    fewer = shutil.copytree(data, tmp_path / "fewer")
    shutil.rmtree(fewer / "MPDD")
    before = touched(finished)
    assert run("train", *command, f"data_dir={fewer}", f"run_dir={finished}") == 0
    assert touched(finished) == before
    add_colon_db(fewer)
    assert run("train", *command, f"data_dir={fewer}", f"run_dir={finished}") == 0
    assert scored(finished / "visa") == ["mvtec_ad", "mpdd", "colon_db"]
    assert manifest(finished / "visa")["absent"] == {}


def test_a_leg_without_its_auxiliary_dataset_is_recorded_and_the_other_runs(run, command, data, tmp_path):
    fewer, folder = shutil.copytree(data, tmp_path / "fewer"), tmp_path / "r"
    shutil.rmtree(fewer / "VisA")
    short = ["protocol.legs.mvtec_ad=[visa,mpdd]", "trainer.max_epochs=1", "num_figures=0"]
    again = [*command, *short, f"data_dir={fewer}", f"run_dir={folder}"]
    assert run("train", *again) == 0
    assert scored(folder / "mvtec_ad") == ["mpdd"]
    results = json.loads((folder / "visa" / "results.json").read_text())
    assert results["results"] == []
    absent = results["manifest"]["absent"]
    assert manifest(folder / "visa")["absent"] == absent
    assert absent.keys() == {"visa", "mvtec_ad", "mpdd", "colon_db"}
    assert absent["visa"]["reason"].startswith("Dataset 'visa' needs")
    assert "VisA is absent" in absent["mpdd"]["reason"]
    assert not (folder / "visa" / "checkpoints").exists()
    shutil.copytree(data / "VisA", fewer / "VisA")
    assert run("train", *again) == 0
    assert scored(folder / "visa") == ["mvtec_ad", "mpdd"]
    assert scored(folder / "mvtec_ad") == ["visa", "mpdd"]


def failing(run, capsys, *overrides: str) -> str:
    assert run("train", *overrides) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return said


def test_where_nothing_can_be_trained_it_says_what_was_looked_for(run, command, tmp_path, capsys):
    said = failing(run, capsys, *command, f"data_dir={tmp_path}", f"run_dir={tmp_path / 'r'}")
    assert "A protocol needs a dataset to train on, but none was found." in said
    assert str(tmp_path / "VisA") in said
    assert str(tmp_path / "mvtec_anomaly_detection") in said
    assert not (tmp_path / "r" / "visa").exists()


def test_what_was_trained_is_not_recorded_as_absent(run, command, data, finished, tmp_path, capsys):
    fewer = shutil.copytree(data, tmp_path / "fewer")
    shutil.rmtree(fewer / "VisA")
    before = touched(finished)
    assert "Dataset 'visa' needs" in failing(run, capsys, *command, f"data_dir={fewer}", f"run_dir={finished}")
    assert touched(finished) == before


def test_another_config_is_refused_before_anything_happens(run, command, whole, capsys):
    before = touched(whole)
    said = failing(run, capsys, *command, "optimizer.lr=0.5", f"run_dir={whole}")
    assert f"but optimizer.lr changed since {whole / 'visa' / 'manifest.json'}" in said
    single = failing(run, capsys, *command, f"run_dir={whole / 'visa'}")
    assert "run_dir must be new" in single
    assert touched(whole) == before


def test_a_target_that_holds_what_was_trained_on_is_refused_before_anything_is_trained(
    run, command, data, tmp_path, capsys
):
    mixed = shutil.copytree(data, tmp_path / "mixed")
    shutil.copytree(mixed / "mvtec_anomaly_detection", mixed / "MPDD", dirs_exist_ok=True)
    overrides = ["protocol.legs.mvtec_ad=[mpdd]", f"data_dir={mixed}", f"run_dir={tmp_path / 'r'}"]
    said = failing(run, capsys, *command, *overrides)
    assert "Auxiliary dataset 'mvtec_ad' and target 'mpdd' share" in said
    assert not (tmp_path / "r" / "visa").exists()


def test_a_dataset_that_lacks_files_is_as_good_as_absent(run, command, data, tmp_path):
    broken = shutil.copytree(data, tmp_path / "broken")
    next((broken / "MPDD").rglob("*_mask.png")).unlink()
    short = ["protocol.legs.mvtec_ad=[visa,mpdd]", "~protocol.legs.visa", "trainer.max_epochs=1", "num_figures=0"]
    assert run("train", *command, *short, f"data_dir={broken}", f"run_dir={tmp_path / 'r'}") == 0
    assert scored(tmp_path / "r" / "mvtec_ad") == ["visa"]
    reason = manifest(tmp_path / "r" / "mvtec_ad")["absent"]["mpdd"]["reason"]
    assert reason.startswith("Every anomalous image must have a mask")


def test_the_first_leg_is_out_of_memory_before_the_second_begins(run, command, tmp_path, monkeypatch):
    build, alive = fit.build_towers, []

    def building(*args):
        assert [tower for tower in alive if tower() is not None] == []
        towers = build(*args)
        alive.append(weakref.ref(towers.backbone))
        return towers

    monkeypatch.setattr(fit, "build_towers", building)
    assert run("train", *command, "trainer.max_epochs=1", "num_figures=0", f"run_dir={tmp_path / 'r'}") == 0
    assert len(alive) == 2


def test_each_leg_has_a_run_of_its_own_at_weights_and_biases(run, command, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    short = ["trainer.max_epochs=1", "num_figures=0", "protocol.legs.visa=[]", "protocol.legs.mvtec_ad=[]"]
    assert run("train", *command, *short, "logger=wandb", f"run_dir={tmp_path / 'r'}") == 0
    for leg in ("visa", "mvtec_ad"):
        assert len(list((tmp_path / "r" / leg / "wandb").glob("offline-run-*/*.wandb"))) == 1
