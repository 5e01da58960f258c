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
        sweep([sweep_of()])


def test_a_sweep_ends_with_what_failed_and_what_was_stopped(sweep_of, cell, monkeypatch, capsys):
    cells = [cell("table6_1"), cell("table6_3", digest="4567"), cell("table6_5", digest="89ab")]

    def run(_job, _cells, _on_end):
        write_json(cells[0].folder / DONE, {})
        write_json(cells[1].folder / FAILED, {"error": "It must hold."})

    monkeypatch.setattr(command, "find_faults", lambda _cells, **_: {})
    monkeypatch.setattr(command, "run_cells", run)
    monkeypatch.setattr(command, "report_on", lambda _folders: [])
    monkeypatch.setattr(command, "write_reports", lambda _reports, out: [out / "index.html"])
    job = sweep_of(*cells)
    with pytest.raises(UnfinishedSweepError, match="Of 3 cells, 1 failed and 1 stopped") as unfinished:
        sweep([job])
    assert "table6_3 with seed 0: It must hold." in str(unfinished.value)
    assert capsys.readouterr().out.splitlines()[-1] == f"sweep: {job.folder}"


def test_faults_of_cells_are_named_together_and_nothing_is_started(sweep_of, cell, monkeypatch, tmp_path):
    faults = {"No data.": ["table6_1", "table6_3"], "No stem.": ["table6_5"]}
    monkeypatch.setattr(command, "find_faults", lambda _cells, **_: faults)
    with pytest.raises(ValueError, match="cannot run") as refused:
        sweep([sweep_of(cell())])
    assert str(refused.value) == "table6_1, table6_3 cannot run: No data.\ntable6_5 cannot run: No stem."
    assert not (tmp_path / ".lock").exists()


def test_progress_counts_cells_and_the_time_they_took_with_their_starts(sweep_of, cell, monkeypatch, caplog):
    cells = [cell(f"s{i}", digest=f"{i:04}") for i in range(4)]
    now = [100.0]
    monkeypatch.setattr(command.time, "monotonic", lambda: now[0])
    write_json(cells[0].folder / DONE, {})
    caplog.set_level("INFO")
    progress = command._Progress([job := sweep_of(*cells)], cells)
    for made, seconds in zip(cells[1:], (60.0, 80.0, 100.0), strict=True):
        now[0] = 100 + seconds
        write_json(made.folder / DONE, {})
        progress()
    assert [record.message for record in caplog.records] == [
        "2 of 4 cells done, about 2 min left.",
        "3 of 4 cells done, about 40 s left.",
        "4 of 4 cells done.",
    ]
    assert [entry["state"] for entry in json.loads((job.record_path).read_text())["cells"]] == ["done"] * 4


def test_an_experiment_of_any_name_keeps_its_record_in_the_folder(sweep_of, tmp_path):
    names = [sweep_of(experiment=name).record_path for name in ("../../x", "mine/table3", "a" * 300, "search", "")]
    assert {path.parent for path in names} == {tmp_path}
    assert len(set(names)) == 5
    assert all(len(path.name) < 100 and path.name != "search.json" for path in names)
