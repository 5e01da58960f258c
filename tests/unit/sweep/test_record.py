import dataclasses
import json

import pytest

from afr_clip.reports.record.run_folder import write_json
from afr_clip.sweep.cell import DONE, FAILED
from afr_clip.sweep.record import (
    SweepFolderError,
    only_sweep_in,
    read_record,
    record_path,
    write_record,
)


def test_a_record_names_the_cells_and_their_states(plan, cell):
    cells = [cell("table6_1"), cell("table6_3", digest="4567"), cell("table6_1", 1, "89ab")]
    write_json(cells[0].folder / DONE, {})
    write_json(cells[1].folder / FAILED, {"error": "It must hold."})
    write_record(plan, cells, "table6_3")
    assert record_path(plan) == plan.folder / "table6.json"
    record = json.loads(record_path(plan).read_text())
    assert (record["experiment"], record["reference"]) == ("table6", "table6_3")
    assert (record["axes"], record["overrides"]) == ({"ablation": ["table6_1", "table6_3"]}, list(plan.overrides))
    assert record["cells"][:2] == [
        {"setting": "table6_1", "seed": 0, "folder": "cells/table6_1-seed0-0123", "state": "done", "error": None},
        {"setting": "table6_3", "seed": 0, "folder": "cells/table6_3-seed0-4567", "state": "failed",
         "error": "It must hold."},
    ]  # fmt: skip
    assert (record["cells"][2]["seed"], record["cells"][2]["state"]) == (1, "waiting")


def test_other_seeds_extend_a_record_and_the_same_change_nothing(plan, cell):
    write_record(plan, [cell(seed=0)], "table6_1")
    write_record(plan, [cell(seed=1, digest="4567")], "table6_1")
    before = record_path(plan).read_text()
    write_record(plan, [cell(seed=0)], "table6_1")
    assert record_path(plan).read_text() == before
    assert [entry["seed"] for entry in json.loads(before)["cells"]] == [0, 1]


def test_another_sweep_in_the_folder_is_refused_but_not_for_what_has_no_influence(plan, cell):
    write_record(plan, [cell()], "table6_1")
    assert read_record(dataclasses.replace(plan, overrides=("experiment=table6", "data_dir=elsewhere")))
    with pytest.raises(SweepFolderError, match=r"overrides it was started with.*another sweep_dir"):
        read_record(dataclasses.replace(plan, decisive=["experiment=table6", "optimizer.lr=1"]))
    assert read_record(dataclasses.replace(plan, experiment="table5")) == {}


def test_one_sweep_at_a_time_works_in_a_folder(tmp_path):
    with only_sweep_in(tmp_path), pytest.raises(SweepFolderError, match="One sweep at a time"), only_sweep_in(tmp_path):
        pass
    with only_sweep_in(tmp_path):
        pass
