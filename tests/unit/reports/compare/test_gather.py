import json

import pytest

from afr_clip.reports.compare.gather import ComparisonError, Source, read_runs
from helpers.results import source, write_run

VISA = source("VisA")


def test_runs_are_found_in_and_below_folders_and_each_file_is_read_once(tmp_path):
    for name in ("a", "b/deep", "b/other"):
        write_run(tmp_path / name, {"MPDD": 0.5}, auxiliary=VISA)
    runs = read_runs([tmp_path / "b", tmp_path / "a", tmp_path])
    assert [run.folder.relative_to(tmp_path).as_posix() for run in runs] == ["b/deep", "b/other", "a"]


def test_a_measurement_knows_what_it_stands_on(tmp_path):
    write_run(tmp_path, {"MPDD": 0.25, "kvasir": 0.75}, auxiliary=VISA, seed=7)
    mpdd, kvasir = read_runs([tmp_path])[0].measurements
    assert (mpdd.target.title, mpdd.auxiliary.title, mpdd.seed) == ("MPDD", "VisA", 7)
    assert (kvasir.target.published, kvasir.rows[-1].category, kvasir.rows[-1].values["pixel_ap"]) == (
        None,
        "mean",
        0.75,
    )
    assert kvasir.figures == tmp_path / "figures" / "kvasir"


def test_an_evaluation_has_auxiliary_and_seed_of_its_checkpoint(tmp_path):
    checkpoint = {"auxiliary": VISA, "seed": 3, "epochs": 100, "config": {}}
    write_run(tmp_path, {"MPDD": 0.5}, checkpoint=checkpoint)
    measurement = read_runs([tmp_path])[0].measurements[0]
    assert (measurement.auxiliary.title, measurement.seed) == ("VisA", 3)


def test_a_method_that_trains_nothing_has_neither(tmp_path):
    write_run(tmp_path, {"MPDD": 0.5})
    measurement = read_runs([tmp_path])[0].measurements[0]
    assert (measurement.auxiliary, measurement.seed) == (None, None)


def test_a_dataset_without_a_title_goes_by_its_name(tmp_path):
    untitled = {key: value for key, value in source("MPDD").items() if key != "title"}
    other = {key: value for key, value in source("mine").items() if key != "title"}
    write_run(tmp_path, {"MPDD": 0.5, "mine": 0.5}, sources={"MPDD": untitled, "mine": other})
    assert [m.target.title for m in read_runs([tmp_path])[0].measurements] == ["MPDD", "mine"]


def test_what_has_no_numbers_is_absent_with_its_reason(tmp_path):
    absent = {"btad": {"title": "BTAD", "reason": "no folder BTech_Dataset_transformed"}}
    targets = {"mpdd": source("MPDD"), "isic": source("ISIC")}
    write_run(tmp_path, {"MPDD": 0.5}, absent=absent, targets=targets)
    assert read_runs([tmp_path])[0].absent == {
        "BTAD": "no folder BTech_Dataset_transformed",
        "ISIC": "not scored yet",
    }


def test_no_folder_is_no_run():
    assert read_runs([]) == []


def test_a_folder_must_exist_and_hold_results(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a folder, got .*nowhere, which is none"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(ComparisonError, match=r"must hold results\.json of a run, and neither"):
        read_runs([tmp_path])


def test_a_run_that_lacked_its_auxiliary_dataset_has_no_setting_and_says_what_is_absent(tmp_path):
    write_run(tmp_path, {}, absent={"visa": {"title": "VisA", "reason": "no such folder"}})
    content = json.loads((tmp_path / "results.json").read_text())
    del content["manifest"]["backbone"]
    (tmp_path / "results.json").write_text(json.dumps(content))
    (run,) = read_runs([tmp_path])
    assert (run.setting, run.measurements, run.absent) == (None, (), {"VisA": "no such folder"})


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"results": []}', '{"manifest": {}, "results": []}', '{"manifest": []}']
)
def test_a_file_that_is_no_runs_is_refused_by_name(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ComparisonError, match=r"results\.json must be the results of a run, and could not be read"):
        read_runs([tmp_path])


def test_a_result_whose_dataset_the_manifest_does_not_know_is_refused(tmp_path):
    write_run(tmp_path, {"MPDD": 0.5})
    content = json.loads((tmp_path / "results.json").read_text())
    del content["manifest"]["targets"]["mpdd"]
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ComparisonError, match="KeyError: 'mpdd'"):
        read_runs([tmp_path])


def test_a_part_of_a_published_test_split_says_what_it_lacks():
    whole = Source("BTAD", ("01", "02", "03"), 451, 290, "")
    assert whole.missing == ""
    part = Source("BTAD", ("01",), 21, 49, "")
    assert part.missing == "1 of 3 categories, 21 of 451 normal, 49 of 290 anomalous images"
    assert Source("mine", ("a",), 1, 1, "").missing == ""


def test_what_lies_in_folders_that_are_left_out_is_not_read(tmp_path):
    for name in ("a", "b/c"):
        write_run(tmp_path / name, {"MPDD": 0.5}, auxiliary=source("VisA"))
    assert [run.folder for run in read_runs([tmp_path], besides=[tmp_path / "b"])] == [tmp_path / "a"]
    assert read_runs([tmp_path / "b"], besides=[tmp_path / "b"]) == []
