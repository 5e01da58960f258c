from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from afr_clip.clip.load import Towers
from afr_clip.losses.total import AnomalyLoss
from afr_clip.models.afr_clip.adapters import standardised
from afr_clip.models.afr_clip.settings import AdapterKind, Placement, TrainedMaps
from afr_clip.models.scoring import anomaly_probability, smooth_map, text_on_text_similarity, upsample_map
from afr_clip.models.scoring_settings import ImageScore
from afr_clip.prompts.ensemble import PromptSettings, PromptStyle, expand
from helpers.tiny import assert_probabilities, random_batch, tiny_network, tiny_towers

NAMES = ("metal nut", "screw", "metal nut", "bottle")

VARIANTS = [
    {},
    {"mpfa_window": 1},
    {"tap_ln_post": True},
    {"scoring": {"trained_maps": TrainedMaps.stages}},
    {"prompts": {"normalised": False}},
    {"prompts": {"object_agnostic": True}},
    {"prompts": {"universal_prototypes": True}},
    {"adapters": {"kind": AdapterKind.leaky_relu}},
    {"adapters": {"standardised_patches": True}},
    {"adapters": {"unit_tokens": True}},
    {"cmfr": {"enabled": False}},
    {"cmfr": {"shared": True}},
    {"cmfr": {"symmetric": True}},
    {"cmfr": {"kernel_size": 3}},
    {"cmfr": {"inner_dim": 8}},
    {"self_prompting": {"enabled": False}},
    {"self_prompting": {"image_prompt": False}},
    {"self_prompting": {"shared_prompt": False}},
    {"self_prompting": {"placement": Placement.append}},
    {"self_prompting": {"placement": Placement.append_and_keep}},
    {"self_prompting": {"stages": [1, 2, 3, 4]}},
    {"scoring": {"temperature": 0.07}},
    {"scoring": {"learnable_temperature": True}},
    {"scoring": {"image_score": ImageScore.class_token_and_map_max}},
    {"scoring": {"smoothing_sigma": 4.0}},
    {"scoring": {"align_corners": True}},
    {"scoring": {"softmax_after_upsampling": True}},
    {"scoring": {"mean_class_logits": True}},
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
    # A temperature of 1 that is learnable starts as the fixed one, and the loss sees other maps of the same network.
    trained_otherwise = [{"learnable_temperature": True}, {"trained_maps": TrainedMaps.stages}]
    assert (same_map and same_score) == (variant.get("scoring") in trained_otherwise)


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


def test_placements_differ_only_through_the_prompted_blocks(towers, image):
    replaced, appended, kept = (
        tiny_network(towers, self_prompting={"placement": p})(image, NAMES).layer_maps for p in Placement
    )
    assert_close(replaced[:, 0], appended[:, 0])  # tapped before the first prompted block
    assert not torch.allclose(replaced[:, 1], appended[:, 1])
    assert_close(kept[:, :2], appended[:, :2])  # the prompted stage ends with the second tap
    assert not torch.allclose(kept[:, 2], appended[:, 2])


@pytest.mark.parametrize(
    ("placement", "extra"), [("replace", (0,) * 4), ("append", (0, 5, 0, 0)), ("append_and_keep", (0, 5, 5, 5))]
)
def test_blocks_see_the_tokens_that_the_placement_says(towers, image, placement, extra):
    network = tiny_network(towers, self_prompting={"placement": Placement(placement)})
    seen = []
    hooks = [
        block.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[1] - 17))
        for block in towers.backbone.clip.visual.transformer.resblocks
    ]
    tapped = network.tapped(image)
    for hook in hooks:
        hook.remove()
    assert tuple(seen) == extra
    assert all(tokens.shape[1] == 17 for tokens in tapped)


def test_kept_tokens_pass_the_later_blocks_untouched(towers, image):
    network = tiny_network(towers, self_prompting={"placement": Placement.append_and_keep})
    prompt = network.self_prompting(towers.cnn(image))
    expected = towers.backbone.tap(
        image, lambda number, tokens: torch.cat([tokens, prompt], dim=1) if number == 2 else tokens
    )
    for own, other in zip(network.tapped(image), expected, strict=True):
        assert_close(own, other)


def test_the_loss_sees_every_stage_or_their_mean(towers, image):
    plain, staged = (
        tiny_network(towers)(image, NAMES),
        tiny_network(towers, scoring={"trained_maps": TrainedMaps.stages})(image, NAMES),
    )
    assert (plain.trained_maps.shape[1], staged.trained_maps.shape[1]) == (1, 4)
    for stage in range(4):
        assert_close(staged.trained_maps[:, stage], upsample_map(staged.layer_maps[:, stage], (64, 64)))
    assert_close(staged.trained_maps.mean(dim=1), plain.trained_maps[:, 0])
    assert_close(staged.anomaly_map, plain.anomaly_map)


@pytest.mark.parametrize("trained", TrainedMaps)
def test_the_loss_sees_maps_before_they_are_smoothed(towers, image, trained):
    plain, smooth = (
        tiny_network(towers, scoring={"trained_maps": trained, "smoothing_sigma": sigma})(image, NAMES)
        for sigma in (0.0, 4.0)
    )
    assert torch.equal(smooth.trained_maps, plain.trained_maps)
    assert_close(smooth.anomaly_map, smooth_map(plain.anomaly_map, 4.0))


def test_the_default_map_is_the_upsampled_mean_of_the_stages(towers, image):
    prediction = tiny_network(towers)(image, NAMES)
    expected = upsample_map(prediction.layer_maps.mean(dim=1), (64, 64))
    assert torch.equal(prediction.anomaly_map, expected)
    assert torch.equal(prediction.trained_maps[:, 0], expected)
    aligned = tiny_network(towers, scoring={"align_corners": True})(image, NAMES)
    assert torch.equal(aligned.anomaly_map, upsample_map(aligned.layer_maps.mean(dim=1), (64, 64), align_corners=True))


@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_similarities_can_be_upsampled_and_averaged_before_the_softmax(towers, image, temperature):
    network = tiny_network(
        towers,
        scoring={"softmax_after_upsampling": True, "mean_class_logits": True, "temperature": temperature},
    )
    prediction, text = network(image, NAMES), network.adapted_text(NAMES, image.device)
    similarity = torch.stack(
        [
            text_on_text_similarity(network.rectified(stage, tokens, text), text.stateful)
            for stage, tokens in enumerate(network.tapped(image))
        ]
    )  # (L, B, 1 + N, 2)
    maps = [
        anomaly_probability(
            torch.stack([upsample_map(one[:, 1:, s].unflatten(-1, (4, 4)), (64, 64)) for s in (0, 1)], -1), temperature
        )
        for one in similarity
    ]
    assert_close(prediction.anomaly_map, torch.stack(maps).mean(dim=0), atol=1e-5, rtol=1e-5)
    assert_close(prediction.image_score, anomaly_probability(similarity[:, :, 0].mean(dim=0), temperature))


def test_raw_text_keeps_the_length_that_clip_gives_it(towers, image):
    sentences = ("a photo of a screw", "a photo of a normal screw", "a photo of a defective screw")
    raw = tiny_network(towers, prompts={"normalised": False}).text(("screw",), image.device)
    own = towers.backbone.encode_text(sentences)
    assert_close(torch.cat([raw.stateless[:, None], raw.stateful], dim=1)[0], own)
    assert not torch.allclose(own.norm(dim=-1), torch.ones(3), atol=0.01)
    unit = tiny_network(towers).text(("screw",), image.device)
    assert_close(unit.stateful.norm(dim=-1), torch.ones(1, 2))


def test_the_raw_text_of_an_ensemble_is_the_mean_of_its_raw_embeddings(towers, image):
    prompts = {"normalised": False, "style": PromptStyle.april_gan}
    raw = tiny_network(towers, prompts=prompts).text(("screw",), image.device)
    said = expand(PromptSettings(PromptStyle.april_gan, object_agnostic=False), "screw")
    assert_close(raw.stateful[0, 1], towers.backbone.encode_text(said.abnormal).mean(dim=0))


def test_universal_prototypes_are_alike_for_all_and_the_stateless_embedding_is_not(towers, image):
    text = tiny_network(towers, prompts={"universal_prototypes": True}).text(("screw", "bottle"), image.device)
    assert torch.equal(text.stateful[0], text.stateful[1])
    assert not torch.allclose(text.stateless[0], text.stateless[1])
    named = tiny_network(towers).text(("screw", "bottle"), image.device)
    assert torch.equal(text.stateless, named.stateless)


def test_unit_tokens_enter_the_rectification(towers, image):
    network = tiny_network(towers, adapters={"unit_tokens": True})
    text = network.adapted_text(NAMES, image.device)
    tokens = network.tapped(image)[1]
    adapted = network.visual_adapters[1](tokens)
    for part, grid in ((adapted[:, :1], (1, 1)), (network.mpfa(adapted[:, 1:], (4, 4)), (4, 4))):
        unit = part / part.norm(dim=-1, keepdim=True)
        expected = network.cmfr[1](unit, text.stateless, grid)
        first = 0 if grid == (1, 1) else 1
        assert_close(network.rectified(1, tokens, text)[:, first : first + expected.shape[1]], expected)


def test_the_readings_give_their_tokens_no_bias_and_a_layer_of_their_own(towers, image):
    network = tiny_network(towers, adapters={"kind": AdapterKind.leaky_relu})
    tokens, text = network.tapped(image)[2], network.text(NAMES, image.device)

    def leaky(layer: torch.nn.Module, value: torch.Tensor) -> torch.Tensor:
        (weight,) = layer.parameters()
        mapped = value @ weight.T
        return torch.where(mapped > 0, mapped, 0.01 * mapped)

    adapter = network.visual_adapters[2]
    expected = torch.cat([leaky(adapter.first, tokens[:, :1]), leaky(adapter.others, tokens[:, 1:])], dim=1)
    assert_close(adapter(tokens), expected)
    adapted = network.adapted_text(NAMES, image.device)
    assert_close(adapted.stateless, leaky(network.stateless_adapter, text.stateless))
    assert_close(adapted.stateful[:, 0], leaky(network.text_adapter.first, text.stateful[:, 0]))
    assert_close(adapted.stateful[:, 1], leaky(network.text_adapter.others, text.stateful[:, 1]))


def test_standardised_patches_do_not_see_the_scale_of_a_channel_and_the_class_token_does(towers, image):
    network = tiny_network(towers, adapters={"standardised_patches": True}, mpfa_window=1)
    text = network.adapted_text(NAMES, image.device)
    tokens = network.tapped(image)[0]
    moved = tokens.clone()
    moved[:, 1:] = 3 * moved[:, 1:] + 5
    assert_close(network.rectified(0, moved, text), network.rectified(0, tokens, text), atol=1e-4, rtol=1e-4)
    moved[:, 0] *= 3
    assert not torch.allclose(network.rectified(0, moved, text)[:, 0], network.rectified(0, tokens, text)[:, 0])
    spread = standardised(tokens[:, 1:])
    assert_close(spread.mean(dim=1), torch.zeros(4, tokens.shape[-1]), atol=1e-5, rtol=0)
    assert_close(spread.std(dim=1), torch.ones(4, tokens.shape[-1]), atol=1e-3, rtol=0)


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
