import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from afr_clip.models.visual_ad.network import SpatialCrossAttention
from helpers.kinds_of_tower import towers_of
from helpers.methods import build_method, composed_module
from helpers.tiny import random_batch

NAMES = ("metal nut", "screw")


@pytest.fixture
def build(towers):
    def make(*overrides: str) -> torch.nn.Module:
        torch.manual_seed(0)
        return build_method("visual_ad", towers, *(f"module.network.{override}" for override in overrides)).eval()

    return make


@pytest.fixture
def image() -> torch.Tensor:
    return random_batch(2).image


def normed(row: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    return (row - row.mean()) / (row.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias


@torch.no_grad()
def test_anchors_pass_on_what_the_gate_of_each_token_lets_through():
    torch.manual_seed(0)
    attention = SpatialCrossAttention(dim=6, num_patches=5, num_anchors=3, dropout=0.5).eval().double()
    for parameter in attention.parameters():
        parameter.copy_(torch.randn_like(parameter))
    tokens, patches = torch.randn(1, 2, 6, dtype=torch.float64), torch.randn(1, 5, 6, dtype=torch.float64)
    keys = [
        normed(attention.key.weight @ (patch + place), attention.key_norm)
        for patch, place in zip(patches[0], attention.positions, strict=False)
    ]
    values = [attention.value.weight @ patch for patch in patches[0]]
    for token, result in zip(tokens[0], attention(tokens, patches)[0], strict=True):
        let_through = torch.zeros(6, dtype=torch.float64)
        for anchor, weight, bias in zip(attention.anchors, attention.gate.weight, attention.gate.bias, strict=True):
            query = normed(attention.query.weight @ anchor, attention.query_norm)
            logits = [float(query @ key) / math.sqrt(6) for key in keys]
            shares = [math.exp(logit - max(logits)) for logit in logits]
            seen = sum(share / sum(shares) * value for share, value in zip(shares, values, strict=True))
            let_through += seen / (1 + math.exp(-float(weight @ token + bias)))
        expected = token + attention.gain * (attention.out.weight @ let_through + attention.out.bias)
        assert_close(result, expected)


@torch.no_grad()
def test_maps_are_differences_of_cosines_added_up_before_one_sigmoid(build, towers, image):
    network = build("scoring.smoothing_sigma=0")
    prediction, backbone = network(image, NAMES), towers.backbone
    added = backbone.tower.embed_class_token(network.tokens).expand(2, -1, -1)
    tokens, taps = torch.cat([backbone.embed(image).tokens, added], dim=1), []
    for number in range(1, 5):
        tokens = backbone.tower.block(number, tokens, None)
        taps.append(backbone.ln_post(backbone.tower.patches(tokens)))
    total = 0
    for tap, attend, transform in zip(taps, network.attentions, network.transforms, strict=True):
        pair, patches = attend(backbone.ln_post(tokens[:, -2:]), tap), transform(tap)
        normal, abnormal = (F.cosine_similarity(patches, pair[:, state, None], dim=-1) for state in range(2))
        total += F.interpolate((abnormal - normal).view(2, 1, 4, 4), (64, 64), mode="bilinear")[:, 0]
    assert_close(prediction.anomaly_map, total.sigmoid(), atol=1e-5, rtol=0)
    top = total.flatten(1).topk(41, dim=1).values.mean(dim=1)
    assert_close(prediction.image_score, top.sigmoid(), atol=1e-5, rtol=0)
    assert_close(prediction.class_scores[:, 0], prediction.image_score)


@torch.no_grad()
def test_the_order_in_which_the_tokens_stand_does_not_matter_and_swapping_them_turns_the_map(build, image):
    network = build("scoring.smoothing_sigma=0")
    before = network(image, NAMES).anomaly_map
    network.tokens.copy_(network.tokens.flip(0))
    assert_close(network(image, NAMES).anomaly_map, 1 - before, atol=1e-5, rtol=0)


def test_the_trained_norm_scores_only_if_it_is_kept(build, image):
    plain, kept = build("dropout=0"), build("dropout=0", "keeps_norm=true")
    before = plain(image, NAMES).anomaly_map
    assert torch.equal(kept(image, NAMES).anomaly_map, before)
    factors = 2 * torch.rand(64)
    for network in (plain, kept):
        with torch.no_grad():
            network.final_norm.weight.mul_(factors)
    assert torch.equal(plain(image, NAMES).anomaly_map, before)
    assert not torch.allclose(kept(image, NAMES).anomaly_map, before, atol=1e-5)
    assert torch.equal(plain.train()(image, NAMES).anomaly_map, kept.eval()(image, NAMES).anomaly_map)


def test_training_drops_other_values_each_time_and_scoring_none(build, image):
    network = build()
    assert torch.equal(network(image, NAMES).trained_maps, network(image, NAMES).trained_maps)
    network.train()
    assert not torch.equal(network(image, NAMES).trained_maps, network(image, NAMES).trained_maps)


@pytest.mark.parametrize("kind", ["afr-clip-tiny", "Tiny-EVA02", "Tiny-SigLIP2", "timm:tiny_dinov2"])
def test_a_token_that_equals_the_class_token_becomes_what_the_class_token_becomes(kind):
    """Where a tower has one; without one, only the norm in front of the blocks is left."""
    backbone, image = towers_of(kind).backbone, random_batch(1).image
    clip, given = backbone.clip, torch.randn(1, backbone.token_dim)
    trunk = clip.trunk if kind.startswith("timm:") else getattr(clip.visual, "trunk", None)
    own = clip.visual.class_embedding[None] if trunk is None else trunk.cls_token
    if own is None:
        assert_close(backbone.tower.embed_class_token(given), trunk.norm_pre(given))
        return
    first = backbone.tower.embed_class_token(own.view(1, -1))
    assert_close(first, backbone.embed(image).tokens[0, :1], atol=1e-6, rtol=1e-6)


def test_the_two_tokens_alone_learn_at_the_whole_rate(build):
    network = build()
    assert {name for name in network.trainable_parameter_names() if network.share_of_rate(name) == 1} == {"tokens"}
    assert {network.share_of_rate(name) for name in network.trainable_parameter_names()} == {1.0, 0.1}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("num_anchors=0", "num_anchors must be positive, got 0"),
        ("dropout=1.0", r"dropout must lie in \[0, 1\), got 1.0"),
        ("scoring.image_score=class_token", "scoring.image_score must be map_top or map_max, got class_token"),
    ],
)
def test_settings_out_of_range_are_refused(override, sentence):
    with pytest.raises(Exception, match=sentence):
        composed_module("visual_ad", f"module.network.{override}")
