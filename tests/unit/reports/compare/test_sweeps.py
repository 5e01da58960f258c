import json
import re
from pathlib import Path

import pytest
from PIL import Image

from afr_clip.reports.compare.report import report_on, write_reports
from afr_clip.reports.compare.sweeps import read_sweep, separate
from afr_clip.reports.compare.values import ComparisonError
from helpers.results import source, write_run
from helpers.sweeps import VISA, cell, config_with, write_cell, write_record, write_search


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
    assert [sweep.folder for sweep in separate([tmp_path, tmp_path / "a"]).sweeps] == [tmp_path / "a" / "sweep"]


def refusal(folder: Path) -> str:
    with pytest.raises(ComparisonError) as caught:
        read_sweep(folder)
    return str(caught.value)


def test_a_folder_without_a_record_is_refused(tmp_path):
    assert "contains no record of a sweep" in refusal(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        read_sweep(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["3", json.dumps({"experiment": "table3", "cells": [{"setting": "x"}]})])
def test_a_record_that_cannot_be_read_is_refused_by_name(tmp_path, text):
    (tmp_path / "table3.json").write_text(text)
    assert "table3.json cannot be read as the record of a sweep" in refusal(tmp_path)


def test_an_unknown_state_is_refused(tmp_path):
    write_record(tmp_path, [cell("table3_full", 0, "running")])
    assert "must be one of done, failed, waiting, got running for table3_full with seed 0" in refusal(tmp_path)


def test_a_setting_with_the_same_seed_twice_is_refused(tmp_path):
    write_record(tmp_path, [cell("table3_full", 0, folder="a"), cell("table3_full", 0, folder="b")])
    assert "one run per setting and seed" in refusal(tmp_path)


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
    found = separate([tmp_path])
    assert found.experiments == []
    assert "one run per setting and seed" in found.faults[0]


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        separate([tmp_path / "nowhere"])


def test_cells_that_compare_methods_are_runs_of_tables_1_and_2(tmp_path):
    write_sweep(tmp_path)
    for name in ("afr_clip", "winclip"):
        write_cell(tmp_path / "cells" / name / "visa", [0.5])
    cells = [cell(name, 0, folder=f"cells/{name}") for name in ("afr_clip", "winclip", "absent")]
    write_record(tmp_path, cells, "methods", reference="x")
    path = tmp_path / "methods.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reference": None}))
    found = separate([tmp_path])
    assert [run.folder for run in found.runs] == [
        tmp_path / "cells" / name / "visa" for name in ("afr_clip", "winclip")
    ]
    assert [experiment.name for sweep in found.sweeps for experiment in sweep.experiments] == ["table3"]
    assert found.faults == []


def test_one_page_holds_everything_and_its_figures(tmp_path):
    write_sweep(tmp_path)
    write_cell(tmp_path / "cells" / "afr_clip", [0.5])
    write_record(tmp_path, [cell("afr_clip", 0, folder="cells/afr_clip")], "methods", reference="x")
    path = tmp_path / "methods.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reference": None}))
    out = tmp_path / "report"
    (out / "figures").mkdir(parents=True)
    Image.new("RGB", (20, 10), "red").save(out / "figures" / "figure4_mvtec_ad.png")
    reports = report_on([tmp_path])
    *_, together = write_reports(reports, out)
    assert together.name == "paper.html"
    assert len((out / "values.csv").read_text().splitlines()) > 10
    page = together.read_text()
    assert page.count("<h1>") == 1
    for number in range(1, 7):
        assert page.count(f'<h2 id="table{number}">') == int(number < 4)
        assert (f'href="#table{number}"' in page) == (number < 4)
    assert "Figure 4: mvtec_ad" in page
    assert page.count("data:image/webp") == 2  # with the bars of table 3
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
