"""A run at Weights & Biases, killed and resumed, read back with W&B's own reader, and what dashboards want of it."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from afr_clip.cli.dashboard import find_offline_runs, read_offline_summary
from afr_clip.metrics.log_keys import table_columns
from afr_clip.reports.dashboards import DashboardSettings, as_plain, build_report, build_workspace

pytestmark = pytest.mark.integration

pytest.importorskip("wandb_workspaces")

GROUP = "table3"
SETTINGS = DashboardSettings("afr-clip", "us", ["parts"], [GROUP])


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def records_of(piece: Path) -> list[dict[str, Any]]:
    """Read every record of a piece with W&B's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(piece)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [json.loads(line) for line in done.stdout.splitlines()]


class ReadBack:
    """What the pieces of a run hold together."""

    def __init__(self, folder: Path, run_id: str = "*") -> None:
        self.folder = folder
        # W&B writes in blocks: of a process that was killed early nothing may be left but the name.
        self.pieces = sorted((folder / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
        self.records = [record for piece in self.pieces for record in records_of(piece)]
        self.runs = [record["run"] for record in self.records if record["type"] == "run"]
        self.history = [record["history"]["item"] for record in self.records if record["type"] == "history"]
        self.axes = [record["metric"] for record in self.records if record["type"] == "metric"]
        self.artifacts = {r["artifact"]["type"]: r["artifact"] for r in self.records if r["type"] == "artifact"}
        self.config: dict[str, Any] = {}
        for record in self.records:
            for kind in ("run", "config"):
                self.config |= record.get(kind, {}).get("config", record.get("config", {})).get("update", {})

    def last(self, key: str) -> float:
        return [item[key] for item in self.history if key in item][-1]

    def file(self, path: str) -> Path:
        (found,) = [p.parent / "files" / path for p in self.pieces if (p.parent / "files" / path).is_file()]
        return found


@pytest.fixture
def read_back(run, killed, small, unseen, tmp_path) -> ReadBack:
    """A training that was killed in its second epoch, and resumed with the same command."""
    command = [*small, "protocol.targets=[parts]", f"+protocol.roots.parts={unseen}", "logger=wandb",
               f"logger.wandb.group={GROUP}", "logger.wandb.tags=[mine]", "ablation=full", "resume=true",
               f"run_dir={tmp_path / 'r'}"]  # fmt: skip
    killed(command, "generated", "training_step", epoch=1)
    assert run("train", *command) == 0
    return ReadBack(tmp_path / "r")


def used_by(spec: object, above: str = "") -> Iterator[tuple[str, str]]:
    """Find every key that a workspace or report reads from runs, and where."""
    if isinstance(spec, dict):
        for key, value in spec.items():
            if key in {"metrics", "mediaKeys", "xAxis", "groupBy"} and above == "config":
                yield from ((key, name) for name in ([value] if isinstance(value, str) else value))
            elif key == "accessor":
                yield key, value
            elif key in {"columnOrder", "columnPinned"}:
                yield from (("accessor", name) for name in value)
            else:
                yield from used_by(value, key)
        if spec.get("nodeType") == "const" and isinstance(spec.get("val"), str):
            yield "table", spec["val"]
        if {"section", "name"} <= spec.keys() and spec["section"] in {"config", "summary"}:
            yield "accessor", f"{spec['section']}:{spec['name']}"
    elif isinstance(spec, list):
        for value in spec:
            yield from used_by(value, above)


def holds(run: ReadBack, kind: str, key: str) -> bool:
    """Whether a run holds a key as a dashboard would look for it."""
    section, _, name = key.rpartition(":") if kind == "accessor" else ("", "", key)
    if section == "run":
        return True  # what W&B knows of every run
    if section == "config" or kind == "groupBy":
        node: Any = run.config
        for part in (part for part in name.split(".") if part != "value"):
            node = node.get(part) if isinstance(node, dict) else None
        return node is not None
    if kind in {"mediaKeys", "table"}:
        return any(f"{name}._type" in item for item in run.history)
    return any(name in item for item in run.history)


def keys_of(run: ReadBack) -> set[str]:
    return {key for item in run.history for key in item}


def id_of(folder: Path) -> str:
    return (folder / "wandb_run_id").read_text().strip()


def test_a_killed_run_goes_on_in_its_run_and_is_made_anew_from_its_files(run, read_back, monkeypatch, capsys):
    run_id, folder = id_of(read_back.folder), read_back.folder
    _holds_what_the_dashboards_use(read_back, run_id)
    _values_are_those_of_the_record(read_back)
    _files_are_there(read_back)

    assert run("dashboard", "rebuild", str(folder)) == 0
    assert id_of(folder) != run_id
    assert capsys.readouterr().out.splitlines()[-1] == f"{folder} ({id_of(folder)}): rebuilt"
    rebuilt = ReadBack(folder, id_of(folder))
    _holds_what_the_dashboards_use(rebuilt, id_of(folder), num_pieces=1)
    _values_are_those_of_the_record(rebuilt)
    _files_are_there(rebuilt)
    # Nothing is missing, not even the picture of the first epoch, which W&B lost with the killed process.
    assert keys_of(rebuilt) >= keys_of(read_back) | {"figures/training/epoch_0001._type"}
    assert [old.is_superseded for old in find_offline_runs([folder])] == [found != id_of(folder) for found in
                                                                          sorted((run_id, id_of(folder)))]  # fmt: skip

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(folder / "none"))
    monkeypatch.setenv("HOME", str(folder))
    assert run("dashboard", "sync", str(folder)) == 1
    assert "error: Uploading needs an API key of Weights & Biases" in capsys.readouterr().err


def test_dashboards_are_written_without_a_key(run, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("dashboard", "build", "--project", "mine", "--datasets", "parts", "--out", str(tmp_path / "d")) == 0
    paths = [tmp_path / "d" / "workspace.json", tmp_path / "d" / "report.json"]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in paths]
    assert {found for path in paths for found in used_by(json.loads(path.read_text()))} >= {
        ("metrics", "mean/parts/i_auroc"),
        ("mediaKeys", "heat_maps/parts/highest"),
    }
    assert run("dashboard", "build", "--project", "mine") == 1
    assert "needs an API key" in capsys.readouterr().err
    assert run("dashboard", "build") == 2


def _holds_what_the_dashboards_use(read_back: ReadBack, run_id: str, num_pieces: int = 2) -> None:
    assert [piece.name for piece in read_back.pieces] == [f"run-{run_id}.wandb"] * num_pieces
    assert {run["run_id"] for run in read_back.runs} == {run_id}
    for run in read_back.runs:
        assert (run["run_group"], run["job_type"], run["resume"]) == (GROUP, "train", True)
        assert {"mine", "method:afr_clip", "backbone:tiny", "trained_on:generated"} <= set(run["tags"])

    used = {found for build in (build_workspace, build_report) for found in used_by(as_plain(build(SETTINGS)))}
    assert {kind for kind, _ in used} == {"metrics", "mediaKeys", "xAxis", "groupBy", "accessor", "table"}
    assert [found for found in sorted(used) if not holds(read_back, *found)] == []
    assert not holds(read_back, "mediaKeys", "heat_maps/other/highest")  # the finder can fail
    assert not holds(read_back, "metrics", "mean/parts/i_recall")

    facts = read_back.config["manifest"]
    manifest = json.loads((read_back.folder / "manifest.json").read_text())
    assert facts["commit"] == manifest["commit"]
    assert facts["targets"]["parts"]["sha256"] == manifest["targets"]["parts"]["sha256"]
    assert read_back.config["seed"] == 0
    assert read_back.config["module"]["network"]["mpfa_window"] == 3


def _values_are_those_of_the_record(read_back: ReadBack) -> None:
    axes = {axis.get("glob_name") or axis.get("name"): axis.get("step_metric") for axis in read_back.axes}
    assert axes["train/*"] == axes["target/*"] == "epoch"
    with (read_back.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    last = {row["metric"]: float(row["value"]) for row in rows}
    assert {"train/loss_epoch", "target/parts/fabric/p_aupro"} <= last.keys()
    assert {key: read_back.last(key) for key in last} == pytest.approx(last)
    # What W&B lost with the killed process is there all the same, and the last value is the summary.
    epochs = {item["epoch"] for item in read_back.history if "train/loss_epoch" in item}
    assert epochs == {float(row["epoch"]) + 1 for row in rows if row["metric"] == "train/loss_epoch"} == {1, 2}
    summary = read_offline_summary(read_back.pieces[-1])["summary"]
    assert {key: summary[key] for key in last} == pytest.approx(last)
    results = json.loads((read_back.folder / "results.json").read_text())["results"]
    means = {row["metric"]: row["value"] for row in results if row["category"] == "mean"}
    assert read_back.last("mean/parts/p_auroc") == pytest.approx(means["pixel_auroc"])
    table = json.loads(read_back.file(read_back.last("results.path")).read_text())
    assert table["columns"] == list(table_columns())
    assert [row[:2] for row in table["data"]] == [["parts", name] for name in ("fabric", "metal_plate", "mean")]
    assert table["data"][2][2] == pytest.approx(means["image_auroc"])


def _files_are_there(read_back: ReadBack) -> None:
    (shown,) = [item for item in read_back.history if "heat_maps/parts/highest.filenames" in item]
    assert len(shown["heat_maps/parts/highest.filenames"]) == 4
    for name in shown["heat_maps/parts/highest.filenames"]:
        assert read_back.file(name)
    masks = shown["heat_maps/parts/highest.all_masks"]
    assert all(mask.keys() == {"truth", "anomaly_map"} for mask in masks)
    labels = read_back.config["_wandb"]["mask/class_labels"]
    assert labels["heat_maps/parts/highest_wandb_delimeter_truth"]["value"] == {"0": "normal", "1": "anomalous"}
    assert read_back.artifacts.keys() == {"model", "results", "run_table"}
    (weights,) = read_back.artifacts["model"]["manifest"]["contents"]
    assert weights["local_path"] == str(read_back.folder / "checkpoints" / "last.ckpt")
    assert json.loads(read_back.artifacts["model"]["metadata"])["seed"] == 0
    # Nothing that is yet to be uploaded lies outside the run folder.
    contents = [c for artifact in read_back.artifacts.values() for c in artifact["manifest"]["contents"]]
    assert all(Path(c["local_path"]).is_relative_to(read_back.folder) for c in contents)
    assert {c["path"] for c in contents} >= {"last.ckpt", "results.json", "results.csv"}
