import pytest
from omegaconf import OmegaConf

from afr_clip.reports.record.run_folder import write_json
from afr_clip.sweep import cost
from afr_clip.sweep.cell import DONE
from afr_clip.sweep.cost import Images, Pace, images_of, measured_pace


def test_images_are_counted_once_an_epoch_and_once_a_target(monkeypatch):
    config = OmegaConf.create(
        {
            "dataset": "aux",
            "protocol": {"legs": {}, "targets": ["one", "two"]},
            "trainer": {"max_epochs": 3, "limit_train_batches": 1.0},
            "data": {"batch_size": 4},
        }
    )
    monkeypatch.setattr(cost, "compose_target", lambda name, *_nodes: name)
    monkeypatch.setattr(cost, "dataset_spec", lambda node, _config: node)
    count = {"aux": 10, "one": 5, "two": 7}.__getitem__
    assert images_of(config, count) == Images(30, 12)
    config.trainer.limit_train_batches = 2
    assert images_of(config, count) == Images(24, 12)
    config.trainer.limit_train_batches = 0.5
    assert images_of(config, count) == Images(15, 12)


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
