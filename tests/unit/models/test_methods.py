"""What holds for every method."""

import pytest
import torch

from afr_clip.config.nodes import method_names
from afr_clip.models.method_settings import MethodSettings
from afr_clip.run.validation import CHECKS, CannotCheckError, Subject, check_taps
from helpers.methods import FOR_FOUR_BLOCKS, build_method, build_on_four_blocks, composed_module
from helpers.tiny import tiny_towers

NAMES = ("metal nut", "screw", "metal nut", "bottle")

LEARNED = {
    "aa_clip": 12_582_912,
    "ada_clip": 10_665_472,
    "adapt_clip": 1_763_266,
    "af_clip": 2_109_440,
    "afr_clip": 28_403_456,
    "anomaly_clip": 43_008,
    "april_gan": 3_148_800,
    "clip_ad": 3_148_800,
    "clip_similarity": 0,
    "cocoop": 77_616,
    "coop": 12_288,
    "dense_clip": 3_762_432,
    "uni_adet": 15_360,
    "visual_ad": 31_522_836,
    "winclip": 0,
}
"""How many parameters each method trains on ViT-L/14@336, as published where it was."""


@pytest.mark.parametrize("check", [name for name in CHECKS if name not in ("export", "cost")])
@pytest.mark.parametrize("method", method_names())
def test_every_method_does_what_every_method_must(method, check, towers):
    try:
        CHECKS[check](Subject(composed_module(method, *FOR_FOUR_BLOCKS.get(method, ())), towers))
    except CannotCheckError as reason:
        pytest.skip(str(reason))


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


def settings_of(network: torch.nn.Module, *overrides: str) -> MethodSettings:
    method = package_of(network).rpartition(".")[2]
    return composed_module(method, *overrides).network


def test_without_self_prompting_afr_clip_has_frozen_taps(towers, image):
    network = build_on_four_blocks("afr_clip", towers)
    assert network.tapped(image)[-1].requires_grad
    off = "module.network.self_prompting.enabled=false"
    assert check_taps(Subject(composed_module("afr_clip", off), towers)).startswith("4 tensors")


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
