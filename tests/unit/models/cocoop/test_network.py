import pytest
import torch
from torch.testing import assert_close

from afr_clip.models.learned_context import STATES
from helpers.methods import build_method, composed_module
from helpers.naive_methods import naive_meta_net, naive_text_behind
from helpers.tiny import random_batch

NAMES = ("metal nut", "screw")


@pytest.fixture
def network(towers):
    torch.manual_seed(0)
    return build_method("cocoop", towers).eval()


@torch.no_grad()
def test_every_learned_word_is_moved_by_what_the_image_shows(network, towers):
    backbone = towers.backbone
    images = backbone.clip.encode_image(random_batch(2).image)
    found = network.text(NAMES, images)
    for row, name in enumerate(NAMES):
        learned = network.context + naive_meta_net(images[row], network.meta_net)
        ids = backbone.tokenize([f"X X X X {state.format(name)}" for state in STATES])
        for state, sentence in enumerate(ids):
            expected = naive_text_behind(backbone.clip, sentence, learned)
            assert_close(found[row, state], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_without_the_small_network_it_is_coop(network, towers):
    for parameter in network.meta_net[2].parameters():
        parameter.zero_()
    coop = build_method("coop", towers, "module.network.num_context_tokens=4").eval()
    coop.context.copy_(network.context)
    image = random_batch(2).image
    ours, theirs = network(image, NAMES), coop(image, NAMES)
    assert_close(ours.anomaly_map, theirs.anomaly_map, atol=1e-5, rtol=1e-4)
    assert_close(ours.image_score, theirs.image_score, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_two_images_of_one_category_have_texts_of_their_own(network, towers):
    images = towers.backbone.clip.encode_image(random_batch(2).image)
    one, other = network.text(["screw", "screw"], images)
    assert (one - other).abs().max() > 1e-4
    assert_close(network.text(["screw"], images), network.text(["screw", "screw"], images))


def test_a_hidden_layer_is_never_empty(towers):
    assert build_method("cocoop", towers, "module.network.reduction=999").meta_net[0].out_features == 1
    with pytest.raises(ValueError, match=r"reduction must be positive, got 0"):
        composed_module("cocoop", "module.network.reduction=0")
