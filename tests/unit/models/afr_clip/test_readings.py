"""Each file of ``conf/ablation`` that is a reading trains, and is another method than the default."""

from pathlib import Path

import pytest
import torch

from afr_clip.clip.load import load_towers
from afr_clip.config.nodes import config_dir
from afr_clip.losses.total import AnomalyLoss
from afr_clip.training.module import AnomalyDetectionModule
from helpers.configs import validate
from helpers.tiny import random_batch

READINGS = sorted(path.stem for path in Path(config_dir()).glob("ablation/reading_*.yaml"))


@pytest.fixture(scope="module")
def one_step(composed):
    """Train a step as the config says; returns map, score and loss before it."""

    def step(ablation: str) -> list[torch.Tensor]:
        typed = validate(composed("backbone=tiny", "backbone.image_size=64", f"ablation={ablation}", "dataset=visa"))
        torch.manual_seed(0)
        network = typed.module.network.build(load_towers(typed.backbone, needs_cnn=True))
        module = AnomalyDetectionModule(network, category_names=typed.module.category_names)
        batch = random_batch()
        optimizer = torch.optim.Adam(module.trainable_parameters(), lr=0.01)
        prediction = module(batch)
        loss = AnomalyLoss(**vars(typed.loss))(
            prediction.trained_maps, prediction.image_score, batch.mask, batch.is_anomalous
        ).total
        loss.backward()
        assert all(parameter.grad is not None for parameter in module.trainable_parameters())
        optimizer.step()
        assert torch.isfinite(module(batch).anomaly_map).all()
        return [prediction.anomaly_map.detach(), prediction.image_score.detach(), loss.detach()]

    return step


@pytest.fixture(scope="module")
def default(one_step):
    return one_step("full")


@pytest.mark.parametrize("name", READINGS)
def test_a_reading_trains_and_differs_from_the_default(one_step, default, name):
    ours = one_step(name)
    assert any(not torch.allclose(a, b, atol=1e-6, rtol=1e-5) for a, b in zip(ours, default, strict=True))


def test_the_default_is_itself(one_step, default):
    assert all(torch.equal(a, b) for a, b in zip(one_step("full"), default, strict=True))
