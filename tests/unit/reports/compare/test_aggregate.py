import math
import statistics

import pytest

from afr_clip.reports.compare.aggregate import aggregate
from afr_clip.reports.compare.gather import ComparisonError, read_runs
from afr_clip.reports.compare.paper import find_dataset
from helpers.results import CONFIG, source, write_run

VISA, MVTEC = source("VisA"), source("MVTec AD")


def settings_of(tmp_path):
    return aggregate(read_runs([tmp_path]))


def named(*titles):
    return [find_dataset(title) for title in titles]


def test_mean_and_sample_standard_deviation_over_seeds(tmp_path):
    for seed, value in enumerate((0.1, 0.2, 0.6)):
        write_run(tmp_path / str(seed), {"MPDD": value}, auxiliary=VISA, seed=seed)
    spread = settings_of(tmp_path)[0].datasets[0].spread("image_auroc")
    assert (spread.mean, spread.num) == (pytest.approx(0.3), 3)
    assert spread.deviation == pytest.approx(math.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 2))


def test_one_seed_has_no_deviation(tmp_path):
    write_run(tmp_path, {"MPDD": 0.4}, auxiliary=VISA)
    spread = settings_of(tmp_path)[0].datasets[0].spread("pixel_ap")
    assert (spread.mean, spread.deviation, spread.num) == (pytest.approx(0.4), None, 1)


def test_a_domain_mean_spreads_over_the_means_of_each_seed(tmp_path):
    values = {0: (0.2, 0.4), 1: (0.8, 0.2)}
    for seed, (mpdd, btad) in values.items():
        write_run(tmp_path / str(seed), {"MPDD": mpdd, "BTAD": btad}, auxiliary=VISA, seed=seed)
    spread = settings_of(tmp_path)[0].mean_over(named("MPDD", "BTAD"), "image_auroc")
    assert spread.mean == pytest.approx(0.4)
    assert spread.deviation == pytest.approx(statistics.stdev([0.3, 0.5]))


def test_a_domain_mean_over_other_seeds_has_a_mean_and_no_deviation(tmp_path):
    write_run(tmp_path / "a", {"MPDD": 0.2, "BTAD": 0.4}, auxiliary=VISA, seed=0)
    write_run(tmp_path / "b", {"MPDD": 0.4}, auxiliary=VISA, seed=1)
    spread = settings_of(tmp_path)[0].mean_over(named("MPDD", "BTAD"), "image_auroc")
    assert (spread.mean, spread.deviation, spread.num) == (pytest.approx(0.35), None, 0)


def test_the_two_trainings_of_the_paper_meet_in_one_mean(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"v{seed}", {"MVTec AD": 0.5}, auxiliary=VISA, seed=seed)
        write_run(tmp_path / f"m{seed}", {"VisA": 0.7 + seed / 10}, auxiliary=MVTEC, seed=seed)
    spread = settings_of(tmp_path)[0].mean_over(named("VisA", "MVTec AD"), "image_auroc")
    assert (spread.mean, spread.num) == (pytest.approx(0.625), 2)


def test_absent_and_undefined_never_enter_a_mean(tmp_path):
    write_run(tmp_path, {"MPDD": 0.5, "BTAD": {"image_auroc": 0.5, "pixel_ap": math.nan}}, auxiliary=VISA)
    (setting,) = settings_of(tmp_path)
    assert setting.mean_over(named("MPDD", "MVTec AD"), "image_auroc") is None
    assert setting.mean_over(named("MPDD", "BTAD"), "pixel_ap") is None
    assert setting.mean_over(named("MPDD", "BTAD"), "image_auroc").mean == 0.5
    assert setting.mean_over([], "image_auroc") is None


def test_runs_that_measured_nothing_are_no_setting_and_say_what_is_absent(tmp_path):
    write_run(tmp_path / "a", {}, absent={"visa": {"title": "VisA", "reason": "no such folder"}})
    assert settings_of(tmp_path) == []
    write_run(tmp_path / "b", {"MPDD": 0.5}, auxiliary=VISA)
    (setting,) = settings_of(tmp_path)
    assert setting.absent == {"VisA": "no such folder"}


def test_a_metric_that_one_seed_lacks_is_undefined(tmp_path):
    write_run(tmp_path / "a", {"MPDD": 0.5}, auxiliary=VISA, seed=0)
    write_run(tmp_path / "b", {"MPDD": {"pixel_ap": math.nan}}, auxiliary=VISA, seed=1)
    dataset = settings_of(tmp_path)[0].datasets[0]
    assert dataset.spread("pixel_ap") is None
    assert dataset.spread("image_ap").num == 2


def test_the_same_measured_twice_counts_once_and_must_agree(tmp_path):
    write_run(tmp_path / "train", {"MPDD": 0.5}, auxiliary=VISA)
    checkpoint = {"auxiliary": VISA, "seed": 0, "epochs": 100, "config": CONFIG}
    write_run(tmp_path / "again", {"MPDD": 0.5}, checkpoint=checkpoint)
    (setting,) = settings_of(tmp_path)
    assert setting.datasets[0].spread("image_auroc").num == 1
    write_run(tmp_path / "again", {"MPDD": 0.6}, checkpoint=checkpoint)
    with pytest.raises(ComparisonError, match=r"VisA and seed 0 in .*again/results\.json and .*train/results\.json"):
        settings_of(tmp_path)


def test_a_method_that_trains_nothing_has_one_result_per_dataset(tmp_path):
    winclip = CONFIG | {"module": {"name": "winclip"}}
    write_run(tmp_path / "a", {"MPDD": 0.5}, config=winclip)
    write_run(tmp_path / "b", {"MPDD": 0.6}, config=winclip)
    with pytest.raises(ComparisonError, match="a method that trains nothing"):
        settings_of(tmp_path)


def test_other_images_are_never_averaged_and_cannot_both_stand_in_the_papers_row(tmp_path):
    for seed, digest in enumerate("ab"):
        sources = {"MPDD": source("MPDD", digest=digest), "mine": source("mine", digest=digest)}
        values = {"MPDD": 0.5, "mine": 0.5}
        write_run(tmp_path / digest, values, auxiliary=VISA, seed=seed, sources=sources)
    (setting,) = settings_of(tmp_path)
    assert [dataset.spread("image_auroc").num for dataset in setting.datasets] == [1, 1, 1, 1]
    with pytest.raises(
        ComparisonError, match=r"MPDD must be the same images for all seeds of AFR-CLIP.*Report them apart"
    ):
        setting.in_protocol(find_dataset("MPDD"))


def test_the_published_test_split_wins_over_a_part_of_it(tmp_path):
    part = {"MPDD": source("MPDD", ["tubes"], "b")}
    write_run(tmp_path / "part", {"MPDD": 0.1}, auxiliary=VISA, sources=part)
    (setting,) = settings_of(tmp_path)
    assert setting.in_protocol(find_dataset("MPDD")).spread("image_auroc").is_partial
    write_run(tmp_path / "whole", {"MPDD": 0.9}, auxiliary=VISA)
    (setting,) = settings_of(tmp_path)
    spread = setting.in_protocol(find_dataset("MPDD")).spread("image_auroc")
    assert (spread.mean, spread.is_partial) == (0.9, False)


def test_a_part_of_the_auxiliary_dataset_makes_the_number_partial(tmp_path):
    write_run(tmp_path, {"MPDD": 0.5}, auxiliary=source("VisA", ["candle"]))
    assert settings_of(tmp_path)[0].datasets[0].spread("image_auroc").is_partial


@pytest.mark.parametrize(
    ("title", "auxiliary", "is_in_protocol"),
    [("MPDD", "VisA", True), ("MPDD", "MVTec AD", False), ("VisA", "MVTec AD", True), ("VisA", "demo", False),
     ("MPDD", None, True), ("VisA", None, True), ("kvasir", "VisA", False)],
)  # fmt: skip
def test_only_the_papers_trainings_are_its_protocol(tmp_path, title, auxiliary, is_in_protocol):
    write_run(tmp_path, {title: 0.5}, auxiliary=None if auxiliary is None else source(auxiliary))
    assert settings_of(tmp_path)[0].datasets[0].is_in_protocol is is_in_protocol


def test_released_weights_are_what_was_learned_from_and_not_the_papers_training(tmp_path):
    config = CONFIG | {"module": {"name": "anomaly_clip", "network": {"released_weights": "a.pth"}}}
    released = {"path": "a.pth", "sha256": "1" * 64}
    write_run(tmp_path / "a", {"MPDD": 0.9}, config=config, released_weights=released)
    moved = CONFIG | {"module": {"name": "anomaly_clip", "network": {"released_weights": "b.pth"}}}
    write_run(tmp_path / "b", {"BTAD": 0.8}, config=moved, released_weights=released | {"path": "b.pth"})
    write_run(tmp_path / "c", {"BTAD": 0.7}, config=moved, released_weights={"path": "b.pth", "sha256": "2" * 64})
    one, other = settings_of(tmp_path)  # the file counts, not where it lies
    assert [dataset.trained_on for dataset in one.datasets] == ["released weights"] * 2
    assert not any(dataset.is_in_protocol for dataset in (*one.datasets, *other.datasets))


def test_images_that_were_shown_first_make_no_zero_shot_number_and_their_seed_counts(tmp_path):
    config = CONFIG | {"module": {"name": "winclip", "network": {"shots": 2}}}
    for seed, value in enumerate((0.7, 0.9)):
        write_run(tmp_path / str(seed), {"MPDD": value}, config=config, seed=seed)
    ((shown,),) = (setting.datasets for setting in settings_of(tmp_path))
    assert shown.trained_on == "2 normal images of each category"
    assert not shown.is_in_protocol
    assert shown.spread("image_auroc").mean == pytest.approx(0.8)


def test_a_folder_without_results_is_left_out_where_others_have_some(tmp_path, caplog):
    write_run(tmp_path / "good", {"MPDD": 0.9}, auxiliary=source("VisA"))
    (tmp_path / "stopped").mkdir()
    assert len(read_runs([tmp_path / "stopped", tmp_path / "good"])) == 1
    assert "stopped holds no results.json and is left out." in caplog.text
    with pytest.raises(ComparisonError, match=r"stopped must hold results\.json"):
        read_runs([tmp_path / "stopped"])
