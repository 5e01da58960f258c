import pytest
import torch
from torch.testing import assert_close

from helpers.methods import build_method, composed_module
from helpers.naive_methods import naive_context_decoder, naive_probabilities
from helpers.tiny import random_batch

NAMES = ("metal nut", "screw")


@pytest.fixture
def network(towers):
    torch.manual_seed(0)
    return build_method("dense_clip", towers, "module.network.decoder.width=16").eval()


@torch.no_grad()
def test_texts_attend_to_the_image_before_they_are_compared_with_its_pixels(network):
    network.gamma.fill_(0.5)
    image = random_batch(2).image
    prediction, texts = network(image, NAMES), network.text(NAMES, image.device)
    (tokens,) = network.tapped(image)
    for row in range(2):
        seen = naive_context_decoder(network.decoder, texts[row], tokens[row])
        expected = naive_probabilities(tokens[row], texts[row] + network.gamma * seen, 0.07)
        assert_close(prediction.layer_maps[row, 0].flatten(), expected[1:], atol=1e-5, rtol=1e-4)
        assert_close(prediction.image_score[row], expected[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_without_what_the_texts_have_seen_it_is_coop(network, towers):
    network.gamma.zero_()
    overrides = ("module.network.num_context_tokens=8", "module.network.scoring.temperature=0.07")
    coop = build_method("coop", towers, *overrides).eval()
    coop.context.copy_(network.context)
    image = random_batch(2).image
    ours, theirs = network(image, NAMES), coop(image, NAMES)
    assert_close(ours.anomaly_map, theirs.anomaly_map)
    assert_close(ours.image_score, theirs.image_score)


@torch.no_grad()
def test_the_order_of_the_patches_does_not_matter_to_a_text(network):
    image = random_batch(1).image
    (tokens,) = network.tapped(image)
    texts = network.text(NAMES[:1], image.device)
    shuffled = tokens[:, torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(0))]
    assert_close(network.decoder(texts, shuffled), network.decoder(texts, tokens), atol=1e-5, rtol=1e-4)
    assert (network.decoder(texts, tokens * 0) - network.decoder(texts, tokens)).abs().max() > 1e-4


def test_before_training_the_image_hardly_changes_the_texts(network):
    assert torch.equal(network.gamma, torch.full_like(network.gamma, 1e-4))


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("num_heads=3", r"decoder.num_heads must divide decoder.width=256, got 3"),
        ("num_layers=0", "decoder.num_layers must be positive, got 0"),
        ("dropout=1.0", r"decoder.dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_a_decoder_that_cannot_be_is_refused(key, sentence):
    with pytest.raises(ValueError, match=sentence):
        composed_module("dense_clip", f"module.network.decoder.{key}")
