import logging
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from afr_clip.metrics.protocol import DatasetMetrics
from afr_clip.training import callbacks
from afr_clip.training.callbacks import EpochBar, ForEachPrediction, ForFirstBatchOfEpoch, ProgressLog, show_progress
from helpers.tiny import random_batch


@pytest.fixture
def scored():
    return [replace(random_batch(2, seed=5 + i), index=torch.tensor([2 * i, 2 * i + 1])) for i in range(3)]


def test_every_prediction_is_handed_to_every_sink_in_order(make_module, make_trainer, scored):
    seen = []
    module = make_module()
    module.score_next("noise", DatasetMetrics(["a"] * 6, [False, True] * 3))
    predictions = ForEachPrediction()
    predictions.sinks = (lambda *given: seen.append(("first", *given)), lambda *given: seen.append(("second", *given)))
    make_trainer(callbacks=[predictions]).test(module, DataLoader(scored, batch_size=None), verbose=False)
    module.eval()
    assert [name for name, *_ in seen] == ["first", "second"] * 3
    for i, batch in enumerate(scored):
        with torch.no_grad():
            expected = module(batch)
        for _, handed, anomaly_map, image_score in seen[2 * i : 2 * i + 2]:
            assert torch.equal(handed.image, batch.image)
            assert handed.samples == batch.samples
            torch.testing.assert_close(anomaly_map, expected.anomaly_map)
            torch.testing.assert_close(image_score, expected.image_score)


@pytest.mark.parametrize(
    ("every", "max_epochs", "expected"),
    [(1, 3, [1, 2, 3]), (2, 4, [1, 3, 4]), (2, 5, [1, 3, 5]), (10, 3, [1, 3]), (10, 1, [1])],
)
def test_the_first_batch_of_every_nth_epoch_and_of_the_last_is_shown(
    make_module, fit, batches, every, max_epochs, expected
):
    seen = []
    shown = ForFirstBatchOfEpoch(lambda epoch, batch, *scores: seen.append((epoch, batch, *scores)), every)
    fit(make_module(), batches, max_epochs=max_epochs, callbacks=[shown])
    assert [epoch for epoch, *_ in seen] == expected
    for _, batch, anomaly_map, image_score in seen:
        assert torch.equal(batch.image, batches[0].image)
        assert (anomaly_map.shape, image_score.shape) == ((2, 64, 64), (2,))
        assert not anomaly_map.requires_grad
        assert not image_score.requires_grad


def test_what_is_shown_is_what_the_loss_saw(make_module, fit, batches):
    seen = []
    expected = make_module()(batches[0])
    fit(make_module(), batches, callbacks=[ForFirstBatchOfEpoch(lambda *given: seen.append(given), 1)])
    torch.testing.assert_close(seen[0][2], expected.anomaly_map.detach())
    torch.testing.assert_close(seen[0][3], expected.image_score.detach())


def test_the_bar_counts_epochs_from_one_up_to_how_many_there_are():
    bar = EpochBar()
    bar._trainer = SimpleNamespace(max_epochs=3)
    assert [bar._get_train_description(epoch) for epoch in range(3)] == ["Epoch 1 of 3", "Epoch 2 of 3", "Epoch 3 of 3"]


@pytest.mark.parametrize(("is_terminal", "expected"), [(True, EpochBar), (False, ProgressLog)])
def test_progress_is_a_bar_on_a_terminal_and_log_lines_elsewhere(monkeypatch, is_terminal, expected):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    assert type(show_progress()) is expected


def logged(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == callbacks.__name__]


@pytest.fixture
def lines(make_module, fit, batches, caplog, monkeypatch):
    """Train two epochs of two batches; return the log lines, times and rates replaced by N."""

    def train(interval: float) -> list[str]:
        monkeypatch.setattr(callbacks, "LOG_INTERVAL", interval)
        with caplog.at_level(logging.INFO, logger=callbacks.__name__):
            fit(make_module(), batches, max_epochs=2, enable_progress_bar=True, callbacks=[ProgressLog()])
        return [re.sub(r"\d+[.:][\d.:]+", "N", line) for line in logged(caplog)]

    return train


def test_without_a_terminal_every_epoch_is_a_line_with_loss_rate_and_time_left(lines):
    assert lines(1e9) == [f"Epoch {epoch} of 2: loss N, N images/s, N left" for epoch in (1, 2)]


def test_a_long_epoch_is_logged_once_an_interval(lines):
    within = [f"Epoch {epoch} of 2, batch 1 of 2: loss N, N images/s, N left" for epoch in (1, 2)]
    whole = [f"Epoch {epoch} of 2: loss N, N images/s, N left" for epoch in (1, 2)]
    assert lines(0.0) == [within[0], whole[0], within[1], whole[1]]


def test_only_the_first_process_logs_progress(lines, monkeypatch):
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    assert lines(0.0) == []


def test_rate_and_time_left_are_those_of_the_batches_so_far(caplog, monkeypatch):
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: next(clock))
    progress = ProgressLog()
    progress._num_batches, progress._num_images = 2, 5
    with caplog.at_level(logging.INFO, logger=callbacks.__name__):
        progress._log("Epoch 1 of 3: loss 0.2500", 30)
    assert caplog.messages == ["Epoch 1 of 3: loss 0.2500, 0.5 images/s, 0:02:30 left"]


def test_scoring_is_logged_once_an_interval(make_module, make_trainer, caplog, monkeypatch):
    monkeypatch.setattr(callbacks, "LOG_INTERVAL", 0)
    module, batch = make_module(), random_batch(2, seed=5)
    module.score_next("noise", DatasetMetrics(["a"] * 2, [False, True]))
    trainer = make_trainer(enable_progress_bar=True, callbacks=[ProgressLog()])
    with caplog.at_level(logging.INFO, logger=callbacks.__name__):
        trainer.test(module, DataLoader([batch], batch_size=None), verbose=False)
    (message,) = logged(caplog)
    assert re.fullmatch(r"Scored batch 1 of 1, [\d.]+ images/s, 0:00:00 left", message)
