from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from afr_clip.config.plan import composed_training, evaluation_job
from afr_clip.data.disk.reading import DatasetSpec
from afr_clip.data.errors import MissingDataError
from afr_clip.reports.record.run_folder import write_json
from afr_clip.run.job import EvaluationJob, Record, TrainingJob
from afr_clip.sweep import cost
from afr_clip.sweep.cells import DONE
from afr_clip.sweep.cost import Images, Pace, count, find_faults, images_of, is_absent, measured_pace, probe
from helpers.configs import _compose
from helpers.trees import write_mvtec_tree


@pytest.mark.parametrize(("limit", "trained"), [(1.0, 30), (2, 24), (0.5, 15)])
def test_images_are_counted_once_an_epoch_and_once_a_target(cell, monkeypatch, limit, trained):
    job = Mock(spec=TrainingJob, auxiliary="aux", targets=("one", "two"), data=SimpleNamespace(batch_size=4))
    job.trainer = SimpleNamespace(max_epochs=3, limit_train_batches=limit)
    monkeypatch.setattr(cost, "dataset_spec", lambda dataset, _job: dataset)
    monkeypatch.setattr(cost, "count", {"aux": 10, "one": 5, "two": 7}.__getitem__)
    assert images_of(replace(cell(), job=job)) == Images(trained, 12)


def test_the_pace_is_the_mean_of_what_is_done(cell, monkeypatch):
    monkeypatch.setattr(cost, "images_of", lambda _cell: Images(100, 50))
    cells = [cell(name) for name in ("a", "b", "unfinished", "absent")]
    for made, seconds in zip(cells, (20.0, 40.0, 1e6), strict=False):
        facts = {"seconds_training": seconds, "seconds_scoring": {"one": seconds / 10, "two": seconds / 10}}
        write_json(made.folder / "manifest.json", facts)
    for made in cells[:2]:
        write_json(made.folder / DONE, {})
    pace = measured_pace(cells)
    assert pace is not None
    assert (pace.training, pace.scoring) == (pytest.approx(0.3), pytest.approx(0.12))
    assert "2 finished cells" in pace.source
    assert pace.seconds(Images(100, 50)) == pytest.approx(36.0)
    assert measured_pace(cells[2:]) is None


def test_long_times_are_said_in_hours():
    assert [cost.duration(seconds) for seconds in (5.0, 600.0, 7260.0, 8e5)] == [
        "5 s", "10 min", "2 h 01 min", "9 days 6 h"
    ]  # fmt: skip
    assert Pace(1.0, 2.0, "").seconds(Images(1, 1)) == 3.0


def spec(name, folder):
    return DatasetSpec(name, "folder", root=folder)


def test_every_fault_of_every_cell_is_found_before_the_first_starts(cell, monkeypatch, tmp_path):
    """Two cells score what they train on, one lacks its target and cannot be built, one is right."""
    tree = write_mvtec_tree(tmp_path / "tree", ("bolt",), num_normal=2, num_anomalous=2, size=(16, 16))
    other = write_mvtec_tree(tmp_path / "other", ("bolt",), num_normal=2, num_anomalous=2, size=(16, 16), seed=1)
    targets = {
        "a": spec("same", tree),
        "b": spec("same", tree),
        "c": spec("gone", tmp_path / "no"),
        "d": spec("x", other),
    }
    cells = [
        replace(cell(name), job=Mock(spec=TrainingJob, auxiliary=spec("own", tree), targets=(target,)))
        for name, target in targets.items()
    ]
    broken = cells[2].job

    def check(job):
        if job is broken:
            msg = "The backbone has no stem."
            raise ValueError(msg)

    monkeypatch.setattr(cost, "check_model", check)
    monkeypatch.setattr(cost, "dataset_spec", lambda dataset, _job: dataset)
    faults = find_faults(cells, with_data=True)
    (shared,) = (fault for fault, names in faults.items() if names == ["a", "b"])
    assert "share the folder" in shared
    missing, stem = sorted(fault for fault, names in faults.items() if names == ["c"])
    assert missing.startswith("Dataset 'gone' needs a folder")
    assert stem == "The backbone has no stem."
    assert len(faults) == 3
    assert find_faults(cells, with_data=False) == {"The backbone has no stem.": ["c"]}


def test_the_estimate_has_a_start_for_each_cell(cell, monkeypatch):
    monkeypatch.setattr(cost, "images_of", lambda _cell: Images(100, 50))
    made = [cell("whole"), cell("in pieces")]
    facts = {"seconds_training": 20.0, "seconds_scoring": {"one": 5.0}}
    write_json(made[0].folder / "manifest.json", facts)
    write_json(made[1].folder / "manifest.json", facts | {"resumed_from": [{}]})
    for one in made:
        write_json(one.folder / DONE, {"seconds": 40.0})
    pace = measured_pace(made)
    assert pace is not None
    assert pace.starting == 15.0
    assert pace.seconds(Images(100, 50), 1) == pytest.approx(40.0)
    assert pace.seconds(Images(200, 100), 2) == pytest.approx(80.0)
    assert "without starting up" not in pace.source


def test_a_missing_dataset_is_counted_as_published_and_one_without_numbers_is_an_error(tmp_path):
    assert count(DatasetSpec("visa", "visa", data_dir=tmp_path)) == 962 + 1200
    assert count(DatasetSpec("visa", "visa", categories=("pcb1", "candle"), data_dir=tmp_path)) == 400
    assert count(DatasetSpec("tn3k", "tn3k", data_dir=tmp_path)) == 614
    with pytest.raises(MissingDataError, match="needs a folder"):
        count(spec("mine", tmp_path / "no"))


def test_a_plan_may_lack_data_but_no_model(cell, monkeypatch, tmp_path):
    gone = spec("gone", tmp_path / "no")
    training = replace(cell("a"), job=Mock(spec=TrainingJob, auxiliary=gone, targets=(gone,)))
    scoring = replace(cell("b"), job=Mock(spec=EvaluationJob, targets=(gone,)))
    monkeypatch.setattr(cost, "check_model", lambda _job: None)
    monkeypatch.setattr(cost, "dataset_spec", lambda dataset, _job: dataset)
    assert [is_absent(one) for one in (training, scoring)] == [False, True]
    (names,) = find_faults([training, scoring], with_data=True).values()
    assert set(names) == {"a", "b"}
    assert find_faults([training, scoring], with_data=True, may_lack=True) == {}


def test_a_method_without_training_is_timed_on_the_pictures_that_it_will_score(tmp_path):
    write_mvtec_tree(tmp_path / "mvtec_anomaly_detection", ("bolt",))
    overrides = ["module=winclip", "backbone=tiny", "backbone.image_size=64", "dataset=mvtec_ad"]
    data = ["dataset.categories=[bolt]", f"data_dir={tmp_path}", "data.num_workers=0"]
    config = _compose(*overrides, *data, command="evaluate")
    pace = probe(evaluation_job(config, tmp_path, Record("evaluate", (), {}, {})))
    assert 0 < pace.scoring < 60
    assert pace.training == 0


@pytest.mark.parametrize("method", ["afr_clip", "ada_clip", "aa_clip", "adapt_clip"])
def test_a_method_is_timed_on_noise_where_there_are_no_pictures(method, tmp_path):
    job = composed_training(f"module={method}", "backbone=tiny", "backbone.image_size=64", f"data_dir={tmp_path}")
    pace = probe(job)
    assert 0 < pace.scoring < 60
    assert 0 < pace.training < 60
    assert 100 < pace.memory < 20_000
    assert pace.disk > 2e7
