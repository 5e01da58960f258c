import pytest
import torch
from torch.testing import assert_close

from afr_clip.losses.total import AnomalyLoss
from helpers.methods import build_method, composed_module
from helpers.naive_methods import naive_april_gan_map
from helpers.tiny import random_batch

NAMES = ("metal_nut", "screw")


@pytest.fixture
def network(towers):
    torch.manual_seed(0)
    return build_method("april_gan", towers)


@pytest.fixture
def image() -> torch.Tensor:
    return random_batch(2).image


def test_the_map_is_that_of_the_loops(network, towers, image):
    prediction = network(image, NAMES)
    taps = [tap[:, 1:].double() for tap in towers.backbone.tap(image)]
    stateful = network.text(NAMES, image.device).stateful.double()
    adapters = network.adapters.double()
    with torch.no_grad():
        for row in range(2):
            summed = naive_april_gan_map([tap[row] for tap in taps], adapters, stateful[row], size=64)
            assert_close(prediction.anomaly_map[row].double(), summed / 4, atol=1e-4, rtol=0)


def test_training_changes_maps_and_leaves_image_scores(network):
    batch = random_batch()
    before = network(batch.image, batch.category)
    optimizer = torch.optim.Adam(network.adapters.parameters(), lr=0.01)
    loss = AnomalyLoss(image_weight=0.0, complement_weight=0.0)
    loss(before.trained_maps, before.image_score, batch.mask, batch.is_anomalous).total.backward()
    optimizer.step()
    after = network(batch.image, batch.category)
    assert_close(after.image_score, before.image_score, rtol=0, atol=0)
    assert not torch.allclose(after.anomaly_map, before.anomaly_map)


def test_the_image_score_compares_clips_own_image_embedding(network, towers, image):
    with torch.no_grad():
        embedding = towers.backbone.clip.encode_image(image, normalize=True)
        stateful = network.text(NAMES, image.device).stateful
        expected = (100 * torch.einsum("bd,bsd->bs", embedding, stateful)).softmax(dim=-1)[:, 1]
        assert_close(network(image, NAMES).image_score, expected, atol=1e-4, rtol=0)


def test_underscores_reach_the_sentences():
    assert composed_module("april_gan").category_names.name == "raw"
