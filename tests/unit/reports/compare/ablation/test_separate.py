import pytest

from afr_clip.reports.compare.ablation.separate import separate
from afr_clip.reports.compare.gather import ComparisonError
from helpers.results import source, write_run
from helpers.sweeps import VISA, cell, config_with, write_cell, write_record


def chosen(name):
    return {"choices": {"ablation": name, "backbone": "tiny"}}


def write_sweep(folder):
    write_cell(folder / "cells/table3_full_0", [0.5])
    write_record(folder, [cell("table3_full", 0), cell("table3_cmfr", 0, "failed", "It broke.")])
    return folder


def test_the_cells_of_a_sweep_are_not_among_the_runs(tmp_path):
    sweep = write_sweep(tmp_path / "sweep")
    write_run(tmp_path / "plain", {"MPDD": 0.5}, auxiliary=VISA)
    for folders in ([tmp_path], [sweep, tmp_path / "plain"]):
        found = separate(folders)
        assert [run.folder.name for run in found.runs] == ["plain"]
        assert [given.folder for given in found.sweeps] == [sweep]


def test_a_sweep_whose_cells_all_failed_is_still_a_sweep(tmp_path):
    write_record(tmp_path, [cell("table3_full", 0, "failed", "It broke.")])
    found = separate([tmp_path])
    assert (len(found.sweeps), found.runs, found.experiments) == (1, [], [])


def test_cells_outside_the_sweep_folder_are_not_among_the_runs_either(tmp_path):
    elsewhere = write_cell(tmp_path / "elsewhere", [0.5])
    write_record(tmp_path / "sweep", [cell("table3_full", 0, folder=str(elsewhere))])
    assert separate([tmp_path]).runs == []


def test_runs_of_a_plain_multirun_are_grouped_by_their_table(tmp_path):
    for name in ("table3_cmfr", "table3_full", "table6_1", "reading_append", "no_cmfr"):
        write_cell(tmp_path / name, [0.5], **chosen(name))
    found = separate([tmp_path])
    groups = {e.name: (e.reference, sorted(c.setting for c in e.cells)) for e in found.experiments}
    assert groups == {
        "table3": ("table3_full", ["table3_cmfr", "table3_full"]),
        "table6": ("table6_3", ["table6_1"]),
        "readings": ("full", ["reading_append"]),
    }
    assert [run.folder.name for run in found.runs] == ["no_cmfr"]


def test_full_models_of_the_same_training_are_the_reference_of_the_readings_and_stay_runs(tmp_path):
    append = config_with(module__network__mpfa_window=5)
    write_cell(tmp_path / "a", [0.5], config=append, **chosen("reading_append"))
    write_cell(tmp_path / "b", [0.6], **chosen("full"))
    write_cell(tmp_path / "c", [0.6], auxiliary=source("BTAD", digest="c"), **chosen("full"))
    found = separate([tmp_path])
    (readings,) = found.experiments
    assert sorted((c.setting, c.folder.name) for c in readings.cells) == [("full", "b"), ("reading_append", "a")]
    assert [run.folder.name for run in found.runs] == ["b", "c"]


def test_the_same_setting_and_seed_twice_is_refused(tmp_path):
    for name in ("a", "b"):
        write_cell(tmp_path / name, [0.5], **chosen("table3_full"))
    with pytest.raises(ComparisonError, match="one run per setting and seed"):
        separate([tmp_path])


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="A run must be a folder"):
        separate([tmp_path / "nowhere"])
