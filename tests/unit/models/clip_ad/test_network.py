import pytest
import torch
from torch.testing import assert_close

from afr_clip.models.clip_ad.network import feature_surgery
from helpers.methods import build_method
from helpers.naive_methods import naive_feature_surgery, naive_probabilities, naive_staged_path
from helpers.tiny import random_batch, tiny_towers

NAMES = ("metal nut", "screw")
TAPS = [2, 4]


@pytest.fixture(scope="module")
def staged():
    """Towers whose stages have two blocks each."""
    return tiny_towers(tap_layers=TAPS)


@pytest.fixture
def network(staged):
    torch.manual_seed(0)
    return build_method("clip_ad", staged, "module.network.scoring.smoothing_sigma=0").eval()


@torch.no_grad()
def test_the_local_path_starts_again_after_each_tap(network, staged):
    image, visual = random_batch(2).image, staged.backbone.clip.visual
    _, _, *stages, own = network.tapped(image)
    assert_close(own[:, 0], staged.backbone.clip.encode_image(image))
    for stage, expected in zip(stages, naive_staged_path(visual, image, TAPS), strict=True):
        assert_close(stage[:, 1:], visual.ln_post(expected[:, 1:]) @ visual.proj, atol=1e-5, rtol=1e-4)
    taps = staged.backbone.tap(image)
    for stage, tap in zip(stages, taps, strict=True):
        assert_close(stage[:, 0], visual.ln_post(tap[:, 0]) @ visual.proj, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_feature_surgery_takes_out_what_both_texts_share():
    generator = torch.Generator().manual_seed(0)
    tokens, text = torch.randn(2, 5, 8, generator=generator), torch.randn(2, 2, 8, generator=generator)
    found = feature_surgery(tokens, text)
    for row in range(2):
        assert_close(found[row], naive_feature_surgery(tokens[row], text[row]))
    assert_close(feature_surgery(tokens, text.flip(1)), -found)
    assert_close(feature_surgery(tokens, text[:, :1].expand(-1, 2, -1)), torch.zeros(2, 4))


@torch.no_grad()
def test_the_map_ranks_pixels_as_the_sum_of_both_maps_does(network):
    image = random_batch(2).image
    prediction = network(image, NAMES)
    *_, first, second, _ = network.tapped(image)
    text = network.text(NAMES, image.device).stateful
    local = torch.stack([feature_surgery(stage, text) for stage in (first, second)], dim=1).sum(dim=1)
    size = prediction.anomaly_map.shape[1:]
    local = torch.nn.functional.interpolate(local.unflatten(1, (4, 4))[:, None], size, mode="bilinear")[:, 0]
    public = prediction.trained_maps.sum(dim=1) + local
    assert_close(prediction.anomaly_map, (public / len(TAPS) + 1) / 3)


@torch.no_grad()
def test_the_image_score_is_that_of_clips_own_embedding(network, staged):
    image = random_batch(2).image
    text = network.text(NAMES, image.device).stateful
    scores = network(image, NAMES).image_score
    for row, embedding in enumerate(staged.backbone.clip.encode_image(image)):
        assert_close(scores[row : row + 1], naive_probabilities(embedding[None], text[row], 0.01), atol=1e-5, rtol=1e-4)
