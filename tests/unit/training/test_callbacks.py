import pytest
import torch
from torch.utils.data import DataLoader

from afr_clip.metrics.protocol import DatasetMetrics
from afr_clip.training.callbacks import ForEachPrediction, ForFirstBatchOfEpoch
from helpers.tiny import random_batch


@pytest.fixture
def scored():
    return [random_batch(2, seed=seed) for seed in (5, 6, 7)]


@pytest.fixture
def run(make_module, make_trainer, scored):
    """Test or predict three batches; return the module."""

    def run(kind: str, *sinks):
        module = make_module()
        # Every batch counts its images from 0, so the metrics of the second would count them twice.
        module.score_next("noise", DatasetMetrics(["a"] * 2, [False, True]))
        loader = DataLoader(scored[:1] if kind == "test" else scored, batch_size=None)
        predictions = ForEachPrediction()
        predictions.sinks = sinks
        trainer = make_trainer(callbacks=[predictions])
        getattr(trainer, kind)(
            module, loader, **{"return_predictions": False} if kind == "predict" else {"verbose": False}
        )
        return module.eval()

    return run


@pytest.mark.parametrize(("kind", "num"), [("test", 1), ("predict", 3)])
def test_every_prediction_is_handed_to_every_sink_in_order(run, scored, kind, num):
    seen = []
    module = run(kind, lambda *given: seen.append(("first", *given)), lambda *given: seen.append(("second", *given)))
    assert [name for name, *_ in seen] == ["first", "second"] * num
    for i, batch in enumerate(scored[:num]):
        with torch.no_grad():
            expected = module(batch)
        for _, handed, anomaly_map, image_score in seen[2 * i : 2 * i + 2]:
            assert torch.equal(handed.image, batch.image)
            assert handed.samples == batch.samples
            torch.testing.assert_close(anomaly_map, expected.anomaly_map)
            torch.testing.assert_close(image_score, expected.image_score)


@pytest.mark.parametrize(
    ("every", "max_epochs", "expected"),
    [(1, 3, [0, 1, 2]), (2, 4, [0, 2, 3]), (2, 5, [0, 2, 4]), (10, 3, [0, 2]), (10, 1, [0])],
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
