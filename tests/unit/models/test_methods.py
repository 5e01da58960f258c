"""What holds for every method."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from afr_clip.config.nodes import method_names
from afr_clip.losses.total import AnomalyLoss
from afr_clip.models.afr_clip.network import AFRCLIP
from afr_clip.models.method_settings import MethodSettings
from helpers.methods import FOR_FOUR_BLOCKS, build_method, build_on_four_blocks, composed_module
from helpers.tiny import assert_probabilities, random_batch, tiny_network, tiny_towers

NAMES = ("metal nut", "screw", "metal nut", "bottle")

LEARNED = {
    "ada_clip": 10_665_472,
    "af_clip": 2_109_440,
    "afr_clip": 28_403_456,
    "anomaly_clip": 43_008,
    "april_gan": 3_148_800,
    "clip_similarity": 0,
    "uni_adet": 15_360,
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


def test_one_image_is_scored_at_its_size(network, image):
    prediction = network(image[:1], NAMES[:1])
    assert_probabilities(prediction)
    assert prediction.anomaly_map.shape == (1, 64, 64)
    assert prediction.image_score.shape == (1,)
    assert prediction.layer_maps.shape[2:] == (4, 4)
    assert prediction.trained_maps.shape[2:] in ((64, 64), (4, 4))


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
    assert (
        prediction.trained_maps.requires_grad
        == bool(names)
        == composed_module(package_of(network).rpartition(".")[2]).network.trains
    )
    if names:
        optimizer = torch.optim.Adam([p for n, p in network.named_parameters() if n in names], lr=0.1)
        seen = prediction.trained_maps, prediction.trained_scores
        AnomalyLoss()(*seen, batch.mask, batch.is_anomalous).total.backward()
        learned = {name for name, p in network.named_parameters() if p.grad is not None and (p.grad != 0).any()}
        assert learned == names
        optimizer.step()
    assert towers.fingerprint() == before


@pytest.mark.parametrize("method", [name for name, num in LEARNED.items() if num])
def test_the_loss_sees_maps_before_they_are_smoothed(method, image):
    predictions = []
    for sigma in (0, 4):
        torch.manual_seed(0)
        smoothed = f"module.network.scoring.smoothing_sigma={sigma}"
        network = build_method(method, tiny_towers(), *FOR_FOUR_BLOCKS.get(method, ()), smoothed)
        predictions.append(network.eval()(image, NAMES))
    plain, smooth = predictions
    assert torch.equal(plain.trained_maps, smooth.trained_maps)
    assert not torch.allclose(plain.anomaly_map, smooth.anomaly_map, atol=1e-6)


def package_of(network: torch.nn.Module) -> str:
    return type(network).__module__.removesuffix(".network")


@pytest.mark.parametrize("method", LEARNED)
def test_as_many_parameters_learn_as_published(large_towers, method):
    with torch.device("meta"):
        network = build_method(method, large_towers)
    names = network.trainable_parameter_names()
    assert sum(p.numel() for name, p in network.named_parameters() if name in names) == LEARNED[method]


def test_the_paper_also_counts_the_weight_that_it_never_uses(large_towers):
    with torch.device("meta"):
        network = build_method("afr_clip", large_towers, "module.network.cmfr.symmetric=true")
    names = network.trainable_parameter_names()
    assert sum(p.numel() for name, p in network.named_parameters() if name in names) == 33_125_120


def test_scores_are_float32_under_autocast(network, image):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = network(image, NAMES)
    assert_probabilities(prediction)


def test_one_name_per_image(network, image):
    with pytest.raises(ValueError, match="category must name each of 4 images, got 1"):
        network(image, ["screw"])


def settings_of(network: torch.nn.Module, *overrides: str) -> MethodSettings:
    method = package_of(network).rpartition(".")[2]
    return composed_module(method, *overrides).network


def test_frozen_taps_are_read_out_without_a_graph_and_scored_alike(network, image):
    if isinstance(network, AFRCLIP):
        assert not settings_of(network).has_frozen_taps
        assert network.tapped(image)[-1].requires_grad
        network = tiny_network(tiny_towers(), self_prompting={"enabled": False})
    elif not settings_of(network).has_frozen_taps:
        pytest.skip("its image tower takes prompts that learn, or nothing is trained")
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        tapped = network.tapped(image)
    assert kept == []
    assert all(tokens.grad_fn is None and len(tokens) == len(image) for tokens in tapped)
    scored, whole = network.score(tapped, NAMES), network(image, NAMES)
    assert torch.equal(scored.trained_maps, whole.trained_maps)
    assert torch.equal(scored.image_score, whole.image_score)


def test_what_is_not_trained_is_scored_without_a_graph(image, towers):
    for method in ("clip_similarity", "winclip"):
        prediction = build_on_four_blocks(method, towers)(image, NAMES)
        assert prediction.anomaly_map.grad_fn is None
        assert prediction.image_score.grad_fn is None


def test_self_prompting_alone_changes_the_taps(towers):
    network = build_on_four_blocks("afr_clip", towers)
    off = ("module.network.self_prompting.enabled=false", "module.network.self_prompting.image_prompt=false")
    assert settings_of(network, off[0]).has_frozen_taps
    assert not settings_of(network, off[1]).has_frozen_taps
