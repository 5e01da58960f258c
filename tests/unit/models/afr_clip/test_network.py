from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from afr_clip.clip.load import Towers
from afr_clip.losses.total import AnomalyLoss
from afr_clip.models.afr_clip.cmfr import CrossModalFeatureRectification
from afr_clip.models.afr_clip.self_prompting import SelfPrompting
from afr_clip.models.afr_clip.settings import Placement
from afr_clip.models.scoring import anomaly_probability, text_on_text_similarity
from afr_clip.models.scoring_settings import ImageScore
from helpers.tiny import assert_probabilities, random_batch, tiny_network, tiny_towers

NAMES = ("metal nut", "screw", "metal nut", "bottle")

VARIANTS = [
    {},
    {"mpfa_window": 1},
    {"tap_ln_post": True},
    {"cmfr": {"enabled": False}},
    {"cmfr": {"shared": True}},
    {"cmfr": {"symmetric": True}},
    {"cmfr": {"kernel_size": 3}},
    {"cmfr": {"inner_dim": 8}},
    {"self_prompting": {"enabled": False}},
    {"self_prompting": {"image_prompt": False}},
    {"self_prompting": {"shared_prompt": False}},
    {"self_prompting": {"placement": Placement.append}},
    {"self_prompting": {"stages": [1, 2, 3, 4]}},
    {"scoring": {"temperature": 0.07}},
    {"scoring": {"learnable_temperature": True}},
    {"scoring": {"image_score": ImageScore.class_token_and_map_max}},
    {"scoring": {"smoothing_sigma": 4.0}},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_reading_scores_and_exactly_its_adapters_learn(towers, variant):
    network, batch = tiny_network(towers, **variant), random_batch()
    prediction = network(batch.image, NAMES)
    assert_probabilities(prediction)
    AnomalyLoss()(prediction.trained_maps, prediction.image_score, batch.mask, batch.is_anomalous).total.backward()
    learned = {name for name, p in network.named_parameters() if p.grad is not None and (p.grad != 0).any()}
    assert learned == network.trainable_parameter_names()


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v], ids=str)
def test_every_reading_is_another_function(towers, image, variant):
    changed, plain = tiny_network(towers, **variant)(image, NAMES), tiny_network(towers)(image, NAMES)
    same_map = torch.allclose(changed.anomaly_map, plain.anomaly_map, atol=1e-6)
    same_score = torch.allclose(changed.image_score, plain.image_score, atol=1e-6)
    # A temperature of 1 that is learnable starts as the fixed one.
    assert (same_map and same_score) == (variant == {"scoring": {"learnable_temperature": True}})


def test_stages_give_different_maps(towers, image):
    maps = tiny_network(towers)(image, NAMES).layer_maps
    assert maps.shape == (4, 4, 4, 4)
    assert all(not torch.allclose(a, b) for a, b in pairwise(maps.unbind(1)))


def test_the_result_is_the_mean_over_stages_of_equations_1_to_14(towers, image):
    network = tiny_network(towers).eval()
    prompt = network.self_prompting(towers.cnn(image))

    def overwrite(number: int, tokens: torch.Tensor) -> torch.Tensor:
        return torch.cat([tokens[:, :-5], prompt], dim=1) if number == 2 else tokens

    text = network.text(NAMES, image.device)
    stateless, stateful = network.text_adapter(text.stateless), network.text_adapter(text.stateful)
    scores, maps = [], []
    for stage, tokens in enumerate(towers.backbone.tap(image, overwrite)):
        adapted = network.visual_adapters[stage](tokens)
        patches = network.mpfa(adapted[:, 1:], (4, 4))
        for out, seen in ((scores, adapted[:, :1]), (maps, patches)):
            rectified = network.cmfr[stage](seen, stateless)
            out.append(anomaly_probability(text_on_text_similarity(rectified, stateful)))
    prediction = network(image, NAMES)
    assert_close(prediction.image_score, torch.stack(scores).mean(0)[:, 0])
    assert_close(prediction.layer_maps, torch.stack(maps, dim=1).view(4, 4, 4, 4))


def test_without_rectification_the_score_is_image_text(towers, image):
    network = tiny_network(towers, cmfr={"enabled": False}, self_prompting={"enabled": False}, mpfa_window=1)
    stateful = network.text_adapter(network.text(NAMES, image.device).stateful)
    tokens = network.visual_adapters[3](towers.backbone.tap(image)[3])
    expected = anomaly_probability(text_on_text_similarity(tokens[:, 1:], stateful))
    assert_close(network(image, NAMES).layer_maps[:, 3].flatten(1), expected)


def test_blank_patches_give_a_flat_map(towers, image):
    network = tiny_network(towers)
    for adapter in network.visual_adapters:
        torch.nn.init.zeros_(adapter.weight)
        torch.nn.init.zeros_(adapter.bias)
    spread = network(image, NAMES).anomaly_map.flatten(1).std(dim=1).detach()
    assert spread.tolist() == pytest.approx([0.0] * 4, abs=1e-6)


def test_append_and_replace_differ_only_through_the_prompted_blocks(towers, image):
    replace, append = (tiny_network(towers, self_prompting={"placement": p}) for p in Placement)
    replaced, appended = replace(image, NAMES).layer_maps, append(image, NAMES).layer_maps
    assert_close(replaced[:, 0], appended[:, 0])  # tapped before the first prompted block
    assert not torch.allclose(replaced[:, 1], appended[:, 1])


def test_without_image_prompt_no_cnn_is_held(towers):
    names = {
        name.split(".")[0] for name, _ in tiny_network(towers, self_prompting={"image_prompt": False}).named_modules()
    }
    assert "cnn" not in names


def test_scores_are_float32_under_autocast(towers, image):
    network = tiny_network(towers)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = network(image, NAMES)
    assert prediction.anomaly_map.dtype == prediction.image_score.dtype == torch.float32
    assert prediction.anomaly_map.unique().numel() > 1000  # half precision would leave some hundred levels


def test_stages_must_exist_in_the_tower():
    shallow: Towers = tiny_towers(tap_layers=[2, 4])
    with pytest.raises(ValueError, match=r"must lie in 1\.\.2"):
        tiny_network(shallow, self_prompting={"stages": [3]})


def test_the_unused_half_of_old_weights_and_moments_is_cut_off(towers):
    network, symmetric = tiny_network(towers), tiny_network(towers, cmfr={"symmetric": True})
    old = {name: p.detach() for name, p in symmetric.named_parameters() if name in network.trainable_parameter_names()}
    for name, own in network.named_parameters():
        if name in old:
            assert torch.equal(network.upgraded(name, old[name]), own)
            assert torch.equal(symmetric.upgraded(name, old[name]), old[name])
    assert network.upgraded("cmfr.0.mix.bias", torch.tensor(3.0)) == 3  # Adam's step


def test_the_papers_network_trains_28_403_456_parameters_and_33_125_120_with_the_unused_weight():
    dim, tap_dim, cnn_dim, num_prompts = 768, 1024, 2048, 5
    with torch.device("meta"):
        adapters = [torch.nn.Linear(tap_dim, dim) for _ in range(4)] + [torch.nn.Linear(dim, dim)]
        prompting = SelfPrompting(cnn_dim, tap_dim, num_prompts)
        both = [CrossModalFeatureRectification(dim, symmetric=symmetric) for symmetric in (False, True)]
    num = {part: sum(p.numel() for p in part.parameters()) for part in (*adapters, prompting, *both)}
    others = sum(num[part] for part in (*adapters, prompting))
    assert [others + 4 * num[cmfr] for cmfr in both] == [28_403_456, 33_125_120]
