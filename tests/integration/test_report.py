"""The report from the command line: from hand-written results to every table, and every refusal as one sentence."""

import csv
import json

import pytest

from afr_clip.reports.record.results import read_epochs
from helpers.results import CONFIG, measured_in, source, write_run

pytestmark = pytest.mark.integration


@pytest.fixture
def runs(tmp_path):
    """What the paper's protocol leaves behind: two seeds of two trainings, BTAD absent; and WinCLIP."""
    absent = {"btad": {"title": "BTAD", "reason": "no folder BTech_Dataset_transformed"}}
    for seed in (0, 1):
        values = {"MPDD": 0.8 + seed / 10, "MVTec AD": 0.9, "mine_50%": 0.5}
        write_run(tmp_path / f"all/visa_{seed}", values, auxiliary=source("VisA"), seed=seed, absent=absent)
        write_run(tmp_path / f"all/mvtec_{seed}", {"VisA": 0.7}, auxiliary=source("MVTec AD"), seed=seed)
    write_run(tmp_path / "winclip", {"MPDD": 0.6}, config=CONFIG | {"module": {"name": "winclip"}})
    return tmp_path


def test_runs_become_every_table(run, runs, capsys):
    out = runs / "report"
    assert run("report", str(runs / "all"), str(runs / "winclip"), "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert "Table 1: image level" in printed
    assert "absent" in printed
    with (out / "table1.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "image_auroc"]
    mean = {row["method"]: row for row in rows if row["dataset"].startswith("Mean of 3 of 4 industrial datasets")}
    assert float(mean["AFR-CLIP"]["measured"]) == pytest.approx(100 * (0.85 + 0.9 + 0.7) / 3)
    assert float(mean["AFR-CLIP"]["paper"]) == pytest.approx((77.9 + 93.4 + 87.0) / 3)
    assert mean["WinCLIP"]["measured"] == ""
    states = {row["dataset"]: row["state"] for row in rows if row["method"] == "AFR-CLIP"}
    assert (states["BTAD"], states["MPDD"]) == ("absent", "measured")
    assert r"mine\_50\%" not in (out / "table1.tex").read_text()  # it has no place in the paper's table
    assert "mine_50%" in (out / "categories.md").read_text()
    assert "BTAD (no folder BTech_Dataset_transformed)" in (out / "report.html").read_text()


def test_without_runs_the_papers_tables_are_written_where_reports_go(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("report") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "report: outputs/report/report.html"
    assert (tmp_path / "outputs" / "report" / "table2.tex").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nowhere"], 1, "nowhere is not a directory."),
        (["--ot", "x"], 2, "--ot is not known to afr-clip report. Write --out. The usage is "),
        (["--out"], 2, "--out needs a value, got nothing after it. The usage is "),
        (["--hub", "mpdd"], 2, "argument --hub: it must be DATASET=ORG/NAME, got mpdd. The usage is "),
    ],
)
def test_a_mistake_is_one_sentence(run, arguments, code, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("report", *arguments) == code
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_runs_that_contradict_each_other_write_nothing(run, tmp_path, capsys):
    for name, value in (("a", 0.5), ("b", 0.6)):
        write_run(tmp_path / name, {"MPDD": value}, auxiliary=source("VisA"))
    assert run("report", str(tmp_path), "--out", str(tmp_path / "report")) == 1
    assert "MPDD has different results for VisA and seed 0" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_a_training_and_its_evaluation_are_one_setting(run, small, unseen, tmp_path):
    trained, scored = tmp_path / "trained", tmp_path / "scored"
    targets = ["protocol.targets=[parts]", f"+protocol.roots.parts={unseen}", "trainer.max_epochs=1"]
    assert run("train", *small, *targets, f"run_dir={trained}") == 0
    assert run("evaluate", f"checkpoint={trained}", "dataset=folder", "dataset.name=parts", f"dataset.root={unseen}",
               "data.num_workers=0", f"run_dir={scored}") == 0  # fmt: skip
    measured = measured_in(tmp_path)
    (series,) = measured.series
    assert series.label == "AFR-CLIP (tiny, random weights)"
    assert list(measured.datasets.trained_on) == ["generated"]
    assert measured.spread([0], "image_auroc").num == 1
    assert run("report", str(tmp_path), "--out", str(tmp_path / "report")) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/webp") == 2


def test_every_epoch_of_a_run_is_scored_apart_from_its_results(run, small, unseen, tmp_path, capsys):
    trained, scored = tmp_path / "trained", tmp_path / "scored"
    assert run("train", *small, "keep_every_epoch=true", "label=mine", f"run_dir={trained}") == 0
    data = ["dataset=folder", "dataset.name=parts", f"dataset.root={unseen}", "data.num_workers=0", "num_threads=1"]
    evaluate = ("evaluate", f"checkpoint={trained}", *data)
    assert run(*evaluate, "every_epoch=true", f"run_dir={scored}") == 0
    epochs = read_epochs(scored)
    last = dict(epochs[epochs.epoch == 2][["metric", "value"]].itertuples(index=False, name=None))
    results = json.loads((scored / "results.json").read_text())
    mean = {row["metric"]: row["value"] for row in results["results"] if row["category"] == "mean"}
    assert sorted(epochs.epoch.unique()) == [1, 2]
    assert last == mean
    first = epochs[epochs.epoch == 1].value.tolist()
    assert first != list(last.values())
    logged = (scored / "metrics.csv").read_text().splitlines()
    assert len(logged) == len(set(logged))  # the other epochs are logged nowhere
    cost = results["manifest"]["cost"]["parts"]
    assert cost["milliseconds_per_image"] > 0
    assert (cost["device"], cost["batch_size"], cost["image_size"]) == ("cpu", 4, 64)
    of_training = json.loads((trained / "manifest.json").read_text())
    assert results["manifest"]["trainable_parameters"] == of_training["trainable_parameters"] > 0
    assert run("report", str(scored), "--out", str(tmp_path / "report")) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Peeking, not results." in page
    assert '<th scope="row">mine</th>' in page
    capsys.readouterr()
    (trained / "checkpoints" / "epoch_0001.ckpt").unlink()
    (trained / "checkpoints" / "epoch_0002.ckpt").unlink()
    assert run(*evaluate, "every_epoch=true", f"run_dir={tmp_path / 'third'}") == 1
    assert "Train with keep_every_epoch=true." in capsys.readouterr().err
    assert not (tmp_path / "third").exists()
