"""What holds for every method."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from afr_clip.config.methods import declared_by, method_names
from afr_clip.losses.total import AnomalyLoss
from helpers.methods import build_method, build_on_four_blocks
from helpers.tiny import assert_probabilities, random_batch, tiny_towers

NAMES = ("metal nut", "screw", "metal nut", "bottle")

LEARNED = {
    "ada_clip": 10_665_472,
    "afr_clip": 33_125_120,
    "anomaly_clip": 43_008,
    "april_gan": 3_148_800,
    "clip_similarity": 0,
    "winclip": 0,
}
"""How many parameters each method trains on ViT-L/14@336, as published where it was."""


@pytest.fixture(params=method_names())
def build(request):
    torch.manual_seed(0)
    return partial(build_on_four_blocks, request.param)


@pytest.fixture
def network(build, towers):
    return build(towers)


@pytest.fixture
def image() -> torch.Tensor:
    return random_batch().image


def test_one_image_is_scored_at_its_size(network, image):
    prediction = network(image[:1], NAMES[:1])
    assert_probabilities(prediction)
    assert prediction.anomaly_map.shape == (1, 64, 64)
    assert prediction.image_score.shape == (1,)
    assert prediction.layer_maps.shape[2:] == (4, 4)
    assert prediction.trained_maps.shape[2:] == (64, 64)


def test_a_batch_of_one_equals_its_row_in_a_batch(network, image):
    network.eval()
    together = network(image, NAMES)
    for i, name in enumerate(NAMES):
        alone = network(image[i : i + 1], [name])
        assert_close(alone.anomaly_map[0], together.anomaly_map[i])
        assert_close(alone.image_score[0], together.image_score[i])
        assert_close(alone.trained_maps[0], together.trained_maps[i])


def test_exactly_what_learns_gets_a_gradient_and_a_step_leaves_the_towers_alone(build):
    towers = tiny_towers()
    before = towers.fingerprint()
    network, batch = build(towers), random_batch()
    network.train()
    names = network.trainable_parameter_names()
    prediction = network(batch.image, NAMES)
    assert_probabilities(prediction)
    assert prediction.trained_maps.requires_grad == bool(names) == declared_by(package_of(network)).trains
    if names:
        optimizer = torch.optim.Adam([p for n, p in network.named_parameters() if n in names], lr=0.1)
        AnomalyLoss()(prediction.trained_maps, prediction.image_score, batch.mask, batch.is_anomalous).total.backward()
        learned = {name for name, p in network.named_parameters() if p.grad is not None and (p.grad != 0).any()}
        assert learned == names
        optimizer.step()
    assert towers.fingerprint() == before


def package_of(network: torch.nn.Module) -> str:
    return type(network).__module__.removesuffix(".network")


@pytest.mark.parametrize("method", LEARNED)
def test_as_many_parameters_learn_as_published(large_towers, method):
    with torch.device("meta"):
        network = build_method(method, large_towers)
    names = network.trainable_parameter_names()
    assert sum(p.numel() for name, p in network.named_parameters() if name in names) == LEARNED[method]


def test_scores_are_float32_under_autocast(network, image):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = network(image, NAMES)
    assert_probabilities(prediction)


def test_one_name_per_image(network, image):
    with pytest.raises(ValueError, match="category must name each of 4 images, got 1"):
        network(image, ["screw"])
