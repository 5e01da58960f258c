import json

import pytest

from afr_clip.reports.record.run_folder import write_json
from afr_clip.sweep import command
from afr_clip.sweep.cells import DONE, FAILED, FileLock
from afr_clip.sweep.command import SweepFolderError, UnfinishedSweepError, read_record, sweep, write_record


def test_a_record_names_the_cells_and_their_states(sweep_of, cell):
    cells = [cell("table6_1"), cell("table6_3", digest="4567"), cell("table6_1", 1, "89ab")]
    write_json(cells[0].folder / DONE, {})
    write_json(cells[1].folder / FAILED, {"error": "It must hold."})
    job = sweep_of(*cells, reference="table6_3")
    write_record(job)
    assert job.record_path == job.folder / "table6.json"
    record = json.loads(job.record_path.read_text())
    assert (record["experiment"], record["reference"]) == ("table6", "table6_3")
    assert (record["axes"], record["overrides"]) == ({"ablation": ["table6_1", "table6_3"]}, list(job.overrides))
    assert record["cells"][:2] == [
        {"setting": "table6_1", "seed": 0, "folder": "cells/table6_1-seed0-0123", "state": "done", "error": None},
        {"setting": "table6_3", "seed": 0, "folder": "cells/table6_3-seed0-4567", "state": "failed",
         "error": "It must hold."},
    ]  # fmt: skip
    assert (record["cells"][2]["seed"], record["cells"][2]["state"]) == (1, "waiting")


def test_other_seeds_extend_a_record_and_the_same_change_nothing(sweep_of, cell):
    first = sweep_of(cell(seed=0), reference="table6_1")
    write_record(first)
    write_record(sweep_of(cell(seed=1, digest="4567")))
    before = first.record_path.read_text()
    write_record(first)
    assert first.record_path.read_text() == before
    assert [entry["seed"] for entry in json.loads(before)["cells"]] == [0, 1]


def test_another_sweep_in_the_folder_is_refused_but_not_for_what_has_no_influence(sweep_of, cell):
    write_record(sweep_of(cell()))
    assert read_record(sweep_of(overrides=("experiment=table6", "data_dir=elsewhere")))
    with pytest.raises(SweepFolderError, match=r"overrides it was started with.*another sweep_dir"):
        read_record(sweep_of(decisive=["experiment=table6", "optimizer.lr=1"]))
    assert read_record(sweep_of(experiment="table5")) == {}


def test_one_sweep_at_a_time_works_in_a_folder(sweep_of, tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(SweepFolderError, match="Only one sweep may run in"):
        sweep(sweep_of())


def test_a_sweep_ends_with_what_failed_and_what_was_stopped(sweep_of, cell, monkeypatch, capsys):
    cells = [cell("table6_1"), cell("table6_3", digest="4567"), cell("table6_5", digest="89ab")]

    def run(_job, _cells, _on_end):
        write_json(cells[0].folder / DONE, {})
        write_json(cells[1].folder / FAILED, {"error": "It must hold."})

    monkeypatch.setattr(command, "check_model", lambda _training: None)
    monkeypatch.setattr(command, "check_datasets", lambda _cells: None)
    monkeypatch.setattr(command, "run_cells", run)
    monkeypatch.setattr(command, "write_ablations", lambda _folder, report: report / "index.html")
    job = sweep_of(*cells)
    with pytest.raises(UnfinishedSweepError, match="1 of 3 cells failed, 1 were stopped") as unfinished:
        sweep(job)
    assert "table6_3 with seed 0: It must hold." in str(unfinished.value)
    assert capsys.readouterr().out.splitlines()[-1] == f"sweep: {job.folder}"
