from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from afr_clip.reports.record.run_folder import write_json
from afr_clip.run.job import TrainingJob
from afr_clip.sweep import cost
from afr_clip.sweep.cells import DONE
from afr_clip.sweep.cost import Images, Pace, images_of, measured_pace


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
    assert [cost._duration(seconds) for seconds in (5.0, 600.0, 7260.0)] == ["5 s", "10 min", "2 h 01 min"]
    assert Pace(1.0, 2.0, "").seconds(Images(1, 1)) == 3.0
