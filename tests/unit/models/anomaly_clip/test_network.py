import pytest
import torch
from torch.testing import assert_close

from afr_clip.losses.total import AnomalyLoss
from afr_clip.models.scoring import anomaly_probability, smooth_map, text_on_text_similarity, upsample_map
from helpers.methods import build_method
from helpers.naive_anomaly_clip import naive_attention, naive_learned_sentence, naive_two_streams
from helpers.tiny import assert_probabilities, random_batch, tiny_towers

NAMES = ("metal nut", "screw", "metal nut", "bottle")

VARIANTS = [
    "readout.all_taps=true",
    "readout.local_from_block=3",
    "prompts.num_context_tokens=4",
    "prompts.num_deep_tokens=1",
    "prompts.num_deep_blocks=0",
    "scoring.temperature=1.0",
    "scoring.smoothing_sigma=0.0",
]


def build(towers, *overrides: str):
    torch.manual_seed(0)
    return build_method("anomaly_clip", towers, *(f"module.network.{override}" for override in overrides))


@torch.no_grad()
def test_the_result_is_what_the_two_streams_and_the_two_sentences_say(towers, image):
    backbone, network = towers.backbone, build(towers)
    torch.nn.init.normal_(network.prompts.context)
    torch.nn.init.normal_(network.prompts.deep)
    h, after = naive_two_streams(backbone, image[:2], from_block=1)
    words = zip(("object.", "damaged object."), network.prompts.context, strict=True)
    sentences = [naive_learned_sentence(backbone, ending, context, network.prompts.deep) for ending, context in words]
    stateful = torch.stack(sentences).expand(2, -1, -1)
    projection = backbone.clip.visual.proj.double()
    cosines = text_on_text_similarity((h[:, 0] @ projection)[:, None], stateful)
    patches = backbone.project(after[-1][:, 1:].float()).double()
    maps = anomaly_probability(text_on_text_similarity(patches, stateful), 0.07).view(2, 4, 4)
    upsampled = upsample_map(maps, (64, 64))

    prediction = network(image[:2], NAMES[:2])
    assert_close(prediction.image_score, anomaly_probability(cosines, 0.07)[:, 0].float(), atol=1e-3, rtol=0)
    assert_close(prediction.layer_maps[:, 0], maps.float(), atol=1e-3, rtol=0)
    assert_close(prediction.trained_maps[:, 0], upsampled.float(), atol=1e-3, rtol=0)
    assert_close(prediction.anomaly_map, smooth_map(upsampled.float(), sigma=4.0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_reading_is_another_function_and_exactly_its_words_learn(towers, image, variant):
    network, batch = build(towers, variant), random_batch()
    prediction = network(image, NAMES)
    assert_probabilities(prediction)
    plain = build(towers)(image, NAMES)
    assert not torch.allclose(prediction.anomaly_map, plain.anomaly_map, atol=1e-6)
    AnomalyLoss()(prediction.trained_maps, prediction.image_score, batch.mask, batch.is_anomalous).total.backward()
    learned = {name for name, p in network.named_parameters() if p.grad is not None and (p.grad != 0).any()}
    nothing = set() if network.prompts.deep.numel() else {"prompts.deep"}
    assert learned == network.trainable_parameter_names() - nothing


@torch.no_grad()
def test_all_taps_give_a_trained_map_each_and_their_mean(towers, image):
    network = build(towers, "readout.all_taps=true", "scoring.smoothing_sigma=0.0")
    prediction = network(image, NAMES)
    assert prediction.layer_maps.shape == (4, 4, 4, 4)
    assert prediction.trained_maps.shape == (4, 4, 64, 64)
    assert_close(prediction.anomaly_map, prediction.trained_maps.mean(dim=1))
    last = build(towers)(image, NAMES)
    assert_close(prediction.layer_maps[:, -1], last.layer_maps[:, 0])
    assert_close(prediction.image_score, last.image_score)


@torch.no_grad()
def test_smoothing_touches_the_final_map_alone(towers, image):
    smooth, plain = (build(towers, f"scoring.smoothing_sigma={s}")(image, NAMES) for s in (4.0, 0.0))
    assert torch.equal(smooth.trained_maps, plain.trained_maps)
    assert torch.equal(plain.anomaly_map, plain.trained_maps[:, 0])
    assert smooth.anomaly_map.std() < plain.anomaly_map.std()


@torch.no_grad()
def test_the_names_of_categories_are_not_read(towers, image):
    network = build(towers)
    assert torch.equal(network(image, NAMES).anomaly_map, network(image, ("object",) * 4).anomaly_map)


def test_the_text_tower_runs_once_for_all_images(towers, image):
    network, calls = build(towers), []
    network.prompts.register_forward_hook(lambda *_: calls.append(1))
    network(image, NAMES)
    assert len(calls) == 1


def test_the_image_tower_keeps_no_graph(towers, image):
    network = build(towers)
    network.prompts.requires_grad_(False)
    assert not network(image, NAMES).trained_maps.requires_grad


def test_a_readout_before_the_local_stream_is_refused():
    with pytest.raises(ValueError, match=r"readout.local_from_block must lie in 1\.\.2, .* got 3"):
        build(tiny_towers(tap_layers=[2, 4]), "readout.local_from_block=3", "readout.all_taps=true")


def two_streams(image: torch.Tensor, from_block: int, layers: tuple[int, ...]) -> list[torch.Tensor]:
    """The image's embedding, then the patches of the local stream after each of the layers."""
    readout = (f"readout.local_from_block={from_block}", "readout.all_taps=true")
    embedding, *patches = build(tiny_towers(tap_layers=list(layers)), *readout).tapped(image)
    return [embedding[:, 0], *patches]


@torch.no_grad()
@pytest.mark.parametrize("from_block", [1, 2])
def test_equals_both_streams_token_by_token(towers, image, from_block):
    backbone = towers.backbone
    h, after = naive_two_streams(backbone, image[:2], from_block)
    layers = (2, 3, 4)
    embedding, *read_out = two_streams(image[:2], from_block, layers)
    assert_close(embedding, h[:, 0].float() @ backbone.clip.visual.proj, atol=1e-4, rtol=0)
    for layer, patches in zip(layers, read_out, strict=True):
        expected = backbone.project(after[layer - from_block][:, 1:].float())
        assert_close(patches, expected, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("fault", [{"mlp_on_local": True}, {"values_of": "local"}], ids=str)
def test_the_local_stream_passes_no_mlp_and_its_values_are_the_original_streams(towers, image, fault):
    _, after = naive_two_streams(towers.backbone, image[:2], from_block=2, **fault)
    _, patches = two_streams(image[:2], 2, (4,))
    assert (patches - towers.backbone.project(after[-1][:, 1:].float())).abs().max() > 0.01


@torch.no_grad()
def test_the_local_stream_is_where_it_left_plus_what_value_attention_gave_block_by_block(towers, image):
    backbone = towers.backbone
    inputs = []
    backbone.tap(image[:2], lambda number, tokens: inputs.append(tokens) or tokens)
    gathered = inputs[2]
    for number in (3, 4):
        block = backbone.clip.visual.transformer.resblocks[number - 1]
        gathered = gathered + naive_attention(block.attn, block.ln_1(inputs[number - 1]), by_value=True)
    _, patches = two_streams(image[:2], 3, (4,))
    assert_close(patches, backbone.project(gathered[:, 1:].float()), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_original_stream_is_clips_own(towers, image):
    (original,) = towers.backbone.tap(image[:2], layers=(4,))
    embedding, _ = two_streams(image[:2], 1, (2,))  # also where the local stream ends before it
    assert_close(embedding, original[:, 0] @ towers.backbone.clip.visual.proj, atol=0, rtol=0)


@torch.no_grad()
def test_every_layer_read_out_keeps_what_it_was(image):
    _, *several = two_streams(image[:2], 1, (1, 2, 3, 4))
    for layer, patches in enumerate(several, start=1):
        _, alone = two_streams(image[:2], 1, (layer,))
        assert torch.equal(patches, alone)
    assert all(not torch.allclose(a, b) for i, a in enumerate(several) for b in several[:i])
