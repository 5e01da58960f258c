import dataclasses

import pytest

from afr_clip.config.plan import composed_training
from afr_clip.reports.record.run_folder import write_json
from afr_clip.sweep import cost
from afr_clip.sweep.cell import DONE
from afr_clip.sweep.cost import Images, Pace, images_of, measured_pace


def test_images_are_counted_once_an_epoch_and_once_a_target(monkeypatch, cell):
    job = composed_training("backbone=tiny", "protocol.targets=[mpdd,isic]", "trainer.max_epochs=3")
    monkeypatch.setattr(cost, "dataset_spec", lambda dataset, _job: dataset.name)
    count = {"visa": 10, "mpdd": 5, "isic": 7}.__getitem__
    for limit, trained in ((1.0, 30), (2, 24), (0.5, 15)):
        job.trainer.limit_train_batches = limit
        assert images_of(dataclasses.replace(cell(), job=job), count) == Images(trained, 12)


def test_the_pace_is_the_mean_of_what_is_done(tmp_path):
    for name, seconds in (("a", 20.0), ("b", 40.0), ("unfinished", 1e6)):
        facts = {"seconds_training": seconds, "seconds_scoring": {"one": seconds / 10, "two": seconds / 10}}
        write_json(tmp_path / name / "manifest.json", facts)
    for name in "ab":
        write_json(tmp_path / name / DONE, {})
    cells = [(tmp_path / name, Images(100, 50)) for name in ("a", "b", "unfinished", "absent")]
    pace = measured_pace(cells)
    assert pace is not None
    assert (pace.training, pace.scoring) == (pytest.approx(0.3), pytest.approx(0.12))
    assert "2 finished cells" in pace.source
    assert pace.seconds(Images(100, 50)) == pytest.approx(36.0)
    assert measured_pace(cells[2:]) is None


def test_long_times_are_said_in_hours():
    assert [cost._duration(seconds) for seconds in (5.0, 600.0, 7260.0)] == ["5 s", "10 min", "2 h 01 min"]
    assert Pace(1.0, 2.0, "").seconds(Images(1, 1)) == 3.0
