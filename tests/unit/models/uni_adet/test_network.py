import math

import pytest
import torch
from torch.testing import assert_close

from afr_clip.losses.total import AnomalyLoss
from afr_clip.models.uni_adet.settings import taps_of_the_second_half
from helpers.methods import build_method, composed_module
from helpers.tiny import assert_probabilities, random_batch

NAMES = ("metal nut", "screw")


@pytest.fixture
def network(towers):
    torch.manual_seed(0)
    return build_method("uni_adet", towers).eval()


@pytest.fixture
def image() -> torch.Tensor:
    return random_batch(2).image


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


def probability(token: torch.Tensor, pair: torch.Tensor) -> float:
    normal, abnormal = (math.exp(cosine(token, weights) / 0.07) for weights in pair)
    return abnormal / (normal + abnormal)


@torch.no_grad()
def test_every_tap_is_compared_with_its_own_weights_as_in_the_loops(network, towers, image):
    prediction = network(image, NAMES)
    layers = taps_of_the_second_half(towers.backbone.depth)
    for i, tap in enumerate(towers.backbone.tap(image, layers=layers)):
        tokens = towers.backbone.project(tap).double()
        class_pair, patch_pair = network.class_weights[i].double(), network.patch_weights[i].double()
        for row in range(2):
            assert float(prediction.class_scores[row, i]) == pytest.approx(
                probability(tokens[row, 0], class_pair), abs=1e-5
            )
            expected = [probability(token, patch_pair) for token in tokens[row, 1:]]
            assert prediction.layer_maps[row, i].flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_the_image_score_is_the_mean_of_class_scores_and_the_highest_pixel(network, image):
    prediction = network(image, NAMES)
    expected = (prediction.class_scores.mean(dim=1) + prediction.anomaly_map.amax(dim=(1, 2))) / 2
    assert_close(prediction.image_score, expected)
    assert_close(prediction.anomaly_map, prediction.trained_maps.mean(dim=1))


def test_image_and_patches_learn_apart(network):
    batch = random_batch()
    for weights, others in (
        ({"image_weight": 0.0}, "class_weights"),
        ({"focal_weight": 0.0, "dice_weight": 0.0}, "patch_weights"),
    ):
        network.zero_grad()
        prediction = network(batch.image, batch.category)
        loss = AnomalyLoss(complement_weight=0.0, **weights)
        seen = prediction.trained_maps, prediction.trained_scores
        loss(*seen, batch.mask, batch.is_anomalous).total.backward()
        for name in ("class_weights", "patch_weights"):
            gradient = getattr(network, name).grad
            assert (gradient is None or not gradient.any()) == (name == others)


def test_no_name_is_read(network, image):
    assert torch.equal(network(image, NAMES).anomaly_map, network(image, ("cat", "dog")).anomaly_map)
    assert not composed_module("uni_adet").network.reads_category


def test_what_a_reference_shows_becomes_less_anomalous(towers, image):
    torch.manual_seed(0)
    network = build_method("uni_adet", towers, "module.network.shots=1").eval()
    network.observe(image[:1], "metal nut")
    network.observe(image[:1], "screw")
    own, other = network(image, NAMES).anomaly_map
    network.shots = 0
    alone = network(image, NAMES).anomaly_map
    assert_close(own, alone[0] / 2, atol=1e-5, rtol=0)  # nothing differs from the reference
    assert (other > alone[1] / 2 + 1e-4).any()


def test_references_are_not_asked_for_in_training(towers):
    network, batch = build_method("uni_adet", towers, "module.network.shots=1").train(), random_batch(2)
    assert_probabilities(network(batch.image, NAMES))


def test_as_many_references_as_shots(towers, image):
    network = build_method("uni_adet", towers, "module.network.shots=1")
    with pytest.raises(ValueError, match="needs exactly shots=1 reference images, got 2"):
        network.observe(image, "screw")


@pytest.mark.parametrize(
    ("depth", "taps"), [(24, (12, 15, 18, 21, 24)), (3, (1, 2, 3)), (1, (1,)), (32, (16, 20, 24, 28, 32))]
)
def test_taps_of_the_second_half(depth, taps):
    assert taps_of_the_second_half(depth) == taps


def test_taps_beyond_the_tower_and_negative_shots_are_refused(towers):
    with pytest.raises(ValueError, match=r"tap_layers must ascend within 1\.\.4, got \[2, 9\]"):
        build_method("uni_adet", towers, "module.network.tap_layers=[2,9]")
    with pytest.raises(Exception, match="shots must be 0 or more, got -1"):
        composed_module("uni_adet", "module.network.shots=-1")
