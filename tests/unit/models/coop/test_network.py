import pytest
import torch
from torch.testing import assert_close

from afr_clip.models.learned_context import STATES
from helpers.methods import build_method, composed_module
from helpers.naive_methods import naive_probabilities, naive_text_behind
from helpers.tiny import random_batch

NAMES = ("metal nut", "screw")


@pytest.fixture
def network(towers):
    torch.manual_seed(0)
    return build_method("coop", towers, "module.network.scoring.smoothing_sigma=0").eval()


@torch.no_grad()
def test_image_and_patches_are_compared_with_the_two_sentences_of_the_category(network, towers):
    image, backbone = random_batch(2).image, towers.backbone
    prediction = network(image, NAMES)
    for row, name in enumerate(NAMES):
        ids = backbone.tokenize([" ".join(["X"] * 16) + " " + state.format(name) for state in STATES])
        text = torch.stack([naive_text_behind(backbone.clip, one, network.context) for one in ids])
        (tokens,) = backbone.clip.visual.forward_intermediates(
            image[row : row + 1], indices=[3], output_fmt="NLC", output_extra_tokens=True, intermediates_only=True
        )["image_intermediates"]
        projected = backbone.clip.visual.ln_post(tokens[0]) @ backbone.clip.visual.proj
        expected = naive_probabilities(projected, text, 0.01)
        assert_close(prediction.layer_maps[row, 0].flatten(), expected, atol=1e-5, rtol=1e-4)
        own = naive_probabilities(backbone.clip.encode_image(image[row : row + 1]), text, 0.01)
        assert_close(prediction.image_score[row : row + 1], own, atol=1e-5, rtol=1e-4)


def test_all_categories_share_the_learned_words(network):
    prediction = network(random_batch(2).image, NAMES)
    gradients = [torch.autograd.grad(score, network.context, retain_graph=True)[0] for score in prediction.image_score]
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_the_category_is_read_and_the_words_must_be_some():
    assert composed_module("coop").network.reads_category
    with pytest.raises(ValueError, match=r"num_context_tokens must be positive, got 0\. CoOp uses 16"):
        composed_module("coop", "module.network.num_context_tokens=0")


def test_a_text_tower_without_room_is_refused(towers):
    with pytest.raises(ValueError, match="num_context_tokens must be at most"):
        build_method("coop", towers, "module.network.num_context_tokens=75")
