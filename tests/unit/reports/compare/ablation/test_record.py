import json
from pathlib import Path

import pytest

from afr_clip.reports.compare.ablation.record import find_sweeps, read_sweep
from afr_clip.reports.compare.gather import ComparisonError
from helpers.results import write_run
from helpers.sweeps import VISA, cell, write_record, write_search


def test_a_sweep_is_read_back_with_its_folders_below_it(tmp_path):
    write_record(tmp_path, [cell("table3_full", 1), cell("table3_cmfr", 0, "failed", "It broke.", "cells/x")])
    (experiment,) = read_sweep(tmp_path).experiments
    done, failed = experiment.cells
    assert (experiment.name, experiment.reference) == ("table3", "table3_full")
    assert (done.setting, done.seed, done.state, done.error) == ("table3_full", 1, "done", "")
    assert (failed.folder, failed.state, failed.error) == (tmp_path / "cells" / "x", "failed", "It broke.")


def test_several_experiments_and_a_search_lie_in_one_folder(tmp_path):
    for name in ("table6", "table3"):
        write_record(tmp_path, [], name)
    write_search(tmp_path, [0.1, None, 0.3], space={"optimizer.lr": {"log": True}, "x": {"log": False}})
    sweep = read_sweep(tmp_path)
    assert [experiment.name for experiment in sweep.experiments] == ["table3", "table6"]
    assert (sweep.search.best.number, len(sweep.search.finished)) == (2, 2)
    assert sweep.search.logarithmic == {"optimizer.lr"}


def test_the_best_trial_of_a_search_for_the_least_is_the_lowest(tmp_path):
    write_search(tmp_path, [0.4, 0.2, None, 0.2], objective={"direction": "minimize"})
    assert read_sweep(tmp_path).search.best.number == 1


def test_sweeps_are_found_below_a_folder_and_runs_are_none(tmp_path):
    write_record(tmp_path / "a" / "sweep", [])
    write_run(tmp_path / "run", {"MPDD": 0.5}, auxiliary=VISA)
    (tmp_path / "run" / "other.json").write_text("[1")
    assert find_sweeps([tmp_path, tmp_path / "a"]) == [tmp_path / "a" / "sweep"]


def refusal(folder: Path) -> str:
    with pytest.raises(ComparisonError) as caught:
        read_sweep(folder)
    return str(caught.value)


def test_a_folder_without_a_record_is_refused(tmp_path):
    assert "must hold the record of a sweep" in refusal(tmp_path)
    with pytest.raises(FileNotFoundError, match="A sweep must be a folder"):
        read_sweep(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["{", json.dumps({"experiment": "table3", "cells": [{"setting": "x"}]})])
def test_a_record_that_cannot_be_read_is_refused_by_name(tmp_path, text):
    (tmp_path / "table3.json").write_text(text)
    assert "table3.json must be the record of a sweep, and could not be read" in refusal(tmp_path)


def test_an_unknown_state_is_refused(tmp_path):
    write_record(tmp_path, [cell("table3_full", 0, "running")])
    assert "must be done, failed, waiting, got running for table3_full with seed 0" in refusal(tmp_path)


def test_a_setting_with_the_same_seed_twice_is_refused(tmp_path):
    write_record(tmp_path, [cell("table3_full", 0, folder="a"), cell("table3_full", 0, folder="b")])
    assert "one run per setting and seed" in refusal(tmp_path)
