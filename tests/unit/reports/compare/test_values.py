import json
import math
import statistics

import pytest

from afr_clip.reports.compare.values import NO_SEED, NOTHING, ComparisonError, read_runs
from afr_clip.reports.record.results import MEAN_ROW
from helpers.results import CONFIG, measured_in, source, write_run

VISA, MVTEC = source("VisA"), source("MVTec AD")


def beside_the_paper(measured):
    (number,) = measured.in_protocol.values()
    return measured.spread([number], "image_auroc")


def test_runs_are_found_in_and_below_folders_and_each_file_is_read_once(tmp_path):
    for name in ("a", "b/deep", "b/other"):
        write_run(tmp_path / name, {"MPDD": 0.5}, auxiliary=VISA)
    runs = read_runs([tmp_path / "b", tmp_path / "a", tmp_path])
    assert [run.folder.relative_to(tmp_path).as_posix() for run in runs] == ["b/deep", "b/other", "a"]


def test_a_measurement_knows_what_it_stands_on(tmp_path):
    write_run(tmp_path, {"MPDD": 0.25, "kvasir": 0.75}, auxiliary=VISA, seed=7)
    values = read_runs([tmp_path])[0].values
    facts = ["target", "auxiliary", "trained_on", "seed", "run", "name"]
    assert values.drop_duplicates("name")[facts].to_numpy().tolist() == [
        ["MPDD", "VisA", "VisA", 7, str(tmp_path), "mpdd"],
        ["kvasir", "VisA", "VisA", 7, str(tmp_path), "kvasir"],
    ]
    mean = values[(values.name == "kvasir") & (values.row == MEAN_ROW) & (values.metric == "pixel_ap")]
    assert mean[["category", "value"]].to_numpy().tolist() == [["mean", 0.75]]


def test_an_evaluation_has_auxiliary_and_seed_of_its_checkpoint(tmp_path):
    checkpoint = {"path": "a", "auxiliary": VISA, "seed": 3, "epochs": 100, "config": {}}
    write_run(tmp_path, {"MPDD": 0.5}, checkpoint=checkpoint)
    first = read_runs([tmp_path])[0].values.iloc[0]
    assert (first.auxiliary, first.seed) == ("VisA", 3)


def test_published_pro_enters_no_comparison(tmp_path):
    write_run(tmp_path, {"MPDD": 0.5})
    path = tmp_path / "results.json"
    content = json.loads(path.read_text())
    before = read_runs([tmp_path])[0].values
    rows = content["results"]
    # Behind the seven metrics of each category.
    extra = [
        [*rows[i : i + 7], rows[i] | {"metric": "pixel_aupro_published", "value": 0.1}] for i in range(0, len(rows), 7)
    ]
    path.write_text(json.dumps(content | {"results": [row for of_category in extra for row in of_category]}))
    assert read_runs([tmp_path])[0].values.reset_index(drop=True).equals(before)


def test_a_method_that_trains_nothing_has_neither(tmp_path):
    write_run(tmp_path, {"MPDD": 0.5})
    first = read_runs([tmp_path])[0].values.iloc[0]
    assert (first.auxiliary, first.trained_on, first.seed) == ("", NOTHING, NO_SEED)


def test_a_dataset_without_a_title_goes_by_its_name(tmp_path):
    untitled = {key: value for key, value in source("MPDD").items() if key != "title"}
    other = {key: value for key, value in source("mine").items() if key != "title"}
    write_run(tmp_path, {"MPDD": 0.5, "mine": 0.5}, sources={"MPDD": untitled, "mine": other})
    assert list(read_runs([tmp_path])[0].values.target.unique()) == ["MPDD", "mine"]


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
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(ComparisonError, match=r"contains no results\.json of a run, nor does any folder below it"):
        read_runs([tmp_path])


def test_a_run_that_lacked_its_auxiliary_dataset_has_no_setting_and_says_what_is_absent(tmp_path):
    write_run(tmp_path, {}, absent={"visa": {"title": "VisA", "reason": "no such folder"}})
    content = json.loads((tmp_path / "results.json").read_text())
    del content["manifest"]["backbone"]
    (tmp_path / "results.json").write_text(json.dumps(content))
    (run,) = read_runs([tmp_path])
    assert (run.setting, len(run.values), run.absent) == (None, 0, {"VisA": "no such folder"})


@pytest.mark.parametrize("content", ["[]", '{"results": []}', '{"manifest": {}, "results": []}', '{"manifest": []}'])
def test_a_file_that_is_no_runs_is_refused_by_name(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ComparisonError, match=r"results\.json cannot be read as the results of a run"):
        read_runs([tmp_path])


def test_a_result_whose_dataset_the_manifest_does_not_know_is_refused(tmp_path):
    write_run(tmp_path, {"MPDD": 0.5})
    content = json.loads((tmp_path / "results.json").read_text())
    del content["manifest"]["targets"]["mpdd"]
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(
        ComparisonError,
        match=r"results\.json cannot be read as the results of a run: manifest\.targets\.mpdd is missing",
    ):
        read_runs([tmp_path])


def test_a_part_of_a_published_test_split_says_what_it_lacks(tmp_path):
    part = source("BTAD", ["01"]) | {"num_normal": 21, "num_anomalous": 49}
    sources = {"BTAD": part, "mine": source("mine", ["a"])}
    write_run(tmp_path, {"BTAD": 0.5, "mine": 0.5, "MPDD": 0.5}, sources=sources)
    lacks = measured_in(tmp_path).datasets.set_index("target").target_lacks.to_dict()
    said = "1 of 3 categories, 21 of 451 normal, 49 of 290 anomalous images"
    assert lacks == {"BTAD": said, "mine": "", "MPDD": ""}


def test_what_lies_in_folders_that_are_left_out_is_not_read(tmp_path):
    for name in ("a", "b/c"):
        write_run(tmp_path / name, {"MPDD": 0.5}, auxiliary=source("VisA"))
    assert [run.folder for run in read_runs([tmp_path], without=[tmp_path / "b"])] == [tmp_path / "a"]
    assert read_runs([tmp_path / "b"], without=[tmp_path / "b"]) == []


def test_mean_and_sample_standard_deviation_over_seeds(tmp_path):
    for seed, value in enumerate((0.1, 0.2, 0.6)):
        write_run(tmp_path / str(seed), {"MPDD": value}, auxiliary=VISA, seed=seed)
    spread = measured_in(tmp_path).spread([0], "image_auroc")
    assert (spread.mean, spread.num) == (pytest.approx(0.3), 3)
    assert spread.deviation == pytest.approx(math.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 2))


def test_one_seed_has_no_deviation(tmp_path):
    write_run(tmp_path, {"MPDD": 0.4}, auxiliary=VISA)
    spread = measured_in(tmp_path).spread([0], "pixel_ap")
    assert (spread.mean, spread.deviation, spread.num) == (pytest.approx(0.4), None, 1)


def test_a_domain_mean_spreads_over_the_means_of_each_seed(tmp_path):
    values = {0: (0.2, 0.4), 1: (0.8, 0.2)}
    for seed, (mpdd, btad) in values.items():
        write_run(tmp_path / str(seed), {"MPDD": mpdd, "BTAD": btad}, auxiliary=VISA, seed=seed)
    spread = measured_in(tmp_path).spread([0, 1], "image_auroc")
    assert spread.mean == pytest.approx(0.4)
    assert spread.deviation == pytest.approx(statistics.stdev([0.3, 0.5]))


def test_a_domain_mean_over_other_seeds_has_a_mean_and_no_deviation(tmp_path):
    write_run(tmp_path / "a", {"MPDD": 0.2, "BTAD": 0.4}, auxiliary=VISA, seed=0)
    write_run(tmp_path / "b", {"MPDD": 0.4}, auxiliary=VISA, seed=1)
    spread = measured_in(tmp_path).spread([0, 1], "image_auroc")
    assert (spread.mean, spread.deviation, spread.num) == (pytest.approx(0.35), None, 0)


def test_the_two_trainings_of_the_paper_meet_in_one_mean(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"v{seed}", {"MVTec AD": 0.5}, auxiliary=VISA, seed=seed)
        write_run(tmp_path / f"m{seed}", {"VisA": 0.7 + seed / 10}, auxiliary=MVTEC, seed=seed)
    spread = measured_in(tmp_path).spread([0, 1], "image_auroc")
    assert (spread.mean, spread.num) == (pytest.approx(0.625), 2)


def test_absent_and_undefined_never_enter_a_mean(tmp_path):
    write_run(tmp_path, {"MPDD": 0.5, "BTAD": {"image_auroc": 0.5, "pixel_ap": math.nan}}, auxiliary=VISA)
    measured = measured_in(tmp_path)
    assert measured.spread([0, 1], "pixel_ap") is None
    assert measured.spread([0, 1], "image_auroc").mean == 0.5
    assert measured.spread([], "image_auroc") is None


def test_runs_that_measured_nothing_are_no_setting_and_say_what_is_absent(tmp_path):
    write_run(tmp_path / "a", {}, absent={"visa": {"title": "VisA", "reason": "no such folder"}})
    assert measured_in(tmp_path).series == []
    write_run(tmp_path / "b", {"MPDD": 0.5}, auxiliary=VISA)
    (series,) = measured_in(tmp_path).series
    assert series.absent == {"VisA": "no such folder"}


def test_a_metric_that_one_seed_lacks_is_undefined(tmp_path):
    write_run(tmp_path / "a", {"MPDD": 0.5}, auxiliary=VISA, seed=0)
    write_run(tmp_path / "b", {"MPDD": {"pixel_ap": math.nan}}, auxiliary=VISA, seed=1)
    measured = measured_in(tmp_path)
    assert measured.spread([0], "pixel_ap") is None
    assert measured.spread([0], "image_ap").num == 2


def test_the_same_measured_twice_counts_once_and_must_agree(tmp_path):
    write_run(tmp_path / "train", {"MPDD": 0.5}, auxiliary=VISA)
    checkpoint = {"path": "a", "auxiliary": VISA, "seed": 0, "epochs": 100, "config": CONFIG}
    write_run(tmp_path / "again", {"MPDD": 0.5}, checkpoint=checkpoint)
    assert measured_in(tmp_path).spread([0], "image_auroc").num == 1
    write_run(tmp_path / "again", {"MPDD": 0.6}, checkpoint=checkpoint)
    with pytest.raises(ComparisonError, match=r"VisA and seed 0 in .*again/results\.json and .*train/results\.json"):
        measured_in(tmp_path)


def test_a_method_that_trains_nothing_has_one_result_per_dataset(tmp_path):
    winclip = CONFIG | {"module": {"name": "winclip"}}
    write_run(tmp_path / "a", {"MPDD": 0.5}, config=winclip)
    write_run(tmp_path / "b", {"MPDD": 0.6}, config=winclip)
    with pytest.raises(ComparisonError, match="a method that trains nothing"):
        measured_in(tmp_path)


def test_other_images_are_never_averaged_and_cannot_both_stand_in_the_papers_row(tmp_path):
    for seed, digest in enumerate("ab"):
        sources = {"MPDD": source("MPDD", digest=digest), "mine": source("mine", digest=digest)}
        values = {"MPDD": 0.5, "mine": 0.5}
        write_run(tmp_path / digest, values, auxiliary=VISA, seed=seed, sources=sources)
    measured = measured_in(tmp_path)
    assert [measured.spread([number], "image_auroc").num for number in measured.datasets.index] == [1, 1, 1, 1]
    with pytest.raises(
        ComparisonError, match=r"All seeds of AFR-CLIP.*the same images of MPDD.*Report them separately"
    ):
        _ = measured.in_protocol


def test_the_published_test_split_wins_over_a_part_of_it(tmp_path):
    part = {"MPDD": source("MPDD", ["tubes"], "b")}
    write_run(tmp_path / "part", {"MPDD": 0.1}, auxiliary=VISA, sources=part)
    assert beside_the_paper(measured_in(tmp_path)).is_partial
    write_run(tmp_path / "whole", {"MPDD": 0.9}, auxiliary=VISA)
    spread = beside_the_paper(measured_in(tmp_path))
    assert (spread.mean, spread.is_partial) == (0.9, False)


def test_a_part_of_the_auxiliary_dataset_makes_the_number_partial(tmp_path):
    write_run(tmp_path, {"MPDD": 0.5}, auxiliary=source("VisA", ["candle"]))
    assert measured_in(tmp_path).spread([0], "image_auroc").is_partial


@pytest.mark.parametrize(
    ("title", "auxiliary", "is_in_protocol"),
    [("MPDD", "VisA", True), ("MPDD", "MVTec AD", False), ("VisA", "MVTec AD", True), ("VisA", "demo", False),
     ("MPDD", None, True), ("VisA", None, True), ("kvasir", "VisA", False)],
)  # fmt: skip
def test_only_the_papers_trainings_are_its_protocol(tmp_path, title, auxiliary, is_in_protocol):
    write_run(tmp_path, {title: 0.5}, auxiliary=None if auxiliary is None else source(auxiliary))
    assert bool(measured_in(tmp_path).in_protocol) is is_in_protocol


def test_released_weights_are_what_was_learned_from_and_not_the_papers_training(tmp_path):
    config = CONFIG | {"module": {"name": "anomaly_clip", "network": {"released_weights": "a.pth"}}}
    released = {"path": "a.pth", "sha256": "1" * 64}
    write_run(tmp_path / "a", {"MPDD": 0.9}, config=config, released_weights=released)
    moved = CONFIG | {"module": {"name": "anomaly_clip", "network": {"released_weights": "b.pth"}}}
    write_run(tmp_path / "b", {"BTAD": 0.8}, config=moved, released_weights=released | {"path": "b.pth"})
    write_run(tmp_path / "c", {"BTAD": 0.7}, config=moved, released_weights={"path": "b.pth", "sha256": "2" * 64})
    measured = measured_in(tmp_path)
    assert len(measured.series) == 2  # the file counts, not where it lies
    assert list(measured.datasets.trained_on) == ["released weights"] * 3
    assert measured.in_protocol == {}


def test_images_that_were_shown_first_make_no_zero_shot_number_and_their_seed_counts(tmp_path):
    config = CONFIG | {"module": {"name": "winclip", "network": {"shots": 2}}}
    for seed, value in enumerate((0.7, 0.9)):
        write_run(tmp_path / str(seed), {"MPDD": value}, config=config, seed=seed)
    measured = measured_in(tmp_path)
    assert list(measured.datasets.trained_on) == ["2 normal images of each category (few-shot)"]
    assert measured.in_protocol == {}
    assert measured.spread([0], "image_auroc").mean == pytest.approx(0.8)


def test_a_folder_without_results_is_left_out_where_others_have_some(tmp_path, caplog):
    write_run(tmp_path / "good", {"MPDD": 0.9}, auxiliary=source("VisA"))
    (tmp_path / "stopped").mkdir()
    assert len(read_runs([tmp_path / "stopped", tmp_path / "good"])) == 1
    assert "stopped contains no results.json and is left out." in caplog.text
    with pytest.raises(ComparisonError, match=r"stopped contains no results\.json"):
        read_runs([tmp_path / "stopped"])
