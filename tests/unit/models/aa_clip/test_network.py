import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from afr_clip.losses.total import AnomalyLoss
from helpers.kinds_of_tower import towers_of
from helpers.methods import build_method, composed_module
from helpers.tiny import random_batch

NAMES = ("metal nut", "screw")


@pytest.fixture
def build(towers):
    def make(*overrides: str) -> torch.nn.Module:
        torch.manual_seed(0)
        return build_method("aa_clip", towers, *(f"module.network.{override}" for override in overrides)).eval()

    return make


@pytest.fixture
def image() -> torch.Tensor:
    return random_batch(2).image


def adapted(weight: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    changed = torch.tensor([max(x, 0.01 * x) for x in (weight @ token).tolist()], dtype=token.dtype)
    return 0.1 * changed * token.norm() / changed.norm() + 0.9 * token


@torch.no_grad()
def test_an_adapter_mixes_in_a_tenth_of_the_tokens_own_length(build):
    adapter, tokens = build().image_adapters[0].double(), torch.randn(1, 3, 64, dtype=torch.float64)
    expected = torch.stack([adapted(adapter.layer.weight, token) for token in tokens[0]])
    assert_close(adapter(tokens)[0], expected)


@torch.no_grad()
def test_every_tap_is_read_behind_the_adapter_of_its_block(build, towers, image):
    network, backbone = build("adapters.image_blocks=3"), towers.backbone
    tokens, expected = backbone.embed(image).tokens, []
    for number in range(1, 5):
        tokens = backbone.tower.block(number, tokens, None)
        if number <= 3:
            tokens = network.image_adapters[number - 1](tokens)
        expected.append(tokens)
    for tap, own in zip(network._adapted_taps(image), expected, strict=True):
        assert_close(tap, own, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_adapters_of_no_weight_leave_both_towers_as_they_were(build, towers, image):
    network = build("adapters.image_weight=0", "adapters.text_weight=0")
    assert all(map(torch.equal, network._adapted_taps(image), towers.backbone.tap(image)))
    sentences = ["a damaged screw.", "a photo of a screw with flaw."]
    words = network._tower.look_up(sentences)
    own = network._tower.encode(words, project=lambda tokens: tokens)
    adapted = network._tower.encode(words, lambda n, x: network.text_adapters[n - 2](x) if n == 2 else x, lambda x: x)
    assert torch.equal(own, adapted)


@torch.no_grad()
def test_map_and_score_are_made_of_the_mean_cosines(build, towers, image):
    network = build("scoring.smoothing_sigma=0")
    prediction, text = network(image, NAMES), network.text(NAMES, image.device)
    side = towers.backbone.grid_size[0]
    for row in range(2):
        difference, whole = torch.zeros(side * side), torch.zeros(16)
        for tap, project in zip(network._adapted_taps(image), network.patch_projections, strict=True):
            normed = towers.backbone.ln_post(tap[row, 1:])
            tokens = F.normalize(project(normed), dim=-1)
            difference += (tokens @ text[row, 1] - tokens @ text[row, 0]) / len(network.patch_projections)
            whole = F.normalize(network.image_projection(normed), dim=-1).mean(dim=0)
        expected = F.interpolate(100 * difference.view(1, 1, side, side), (64, 64), mode="bilinear", align_corners=True)
        assert_close(prediction.anomaly_map[row], expected[0, 0].sigmoid(), atol=1e-4, rtol=0)
        of_image = (1 + whole @ text[row, 1]) / 2
        assert_close(prediction.image_score[row], (of_image + prediction.anomaly_map[row].max()) / 2)
        assert_close(prediction.class_scores[row, 0], (whole @ (text[row, 1] - text[row, 0])).sigmoid())


@torch.no_grad()
def test_across_a_batch_each_place_looks_at_itself_in_all_images(build, image):
    across, within = build(), build("value_attention=within_image")
    together, alone = across._frozen_view(image)[-1], across._frozen_view(image[:1])[-1]
    assert not torch.allclose(together[:1], alone, atol=1e-3)
    # The same image twice attends to equal values, so it sees itself alone, as a batch of one does.
    assert_close(across._frozen_view(image[:1].repeat(2, 1, 1, 1))[-1][:1], alone, atol=1e-5, rtol=1e-5)
    assert_close(within._frozen_view(image)[-1][:1], within._frozen_view(image[:1])[-1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(within._frozen_view(image[:1])[-1], alone, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["afr-clip-tiny", "Tiny-PE-Core", "Tiny-SigLIP2"])
def test_without_blocks_of_value_attention_the_view_would_be_the_towers_own(kind):
    """Started at the last block, the view differs from CLIP's patches by that block alone."""
    torch.manual_seed(0)
    towers, image = towers_of(kind), random_batch(2).image
    network = build_method("aa_clip", towers, "module.network.readout.local_from_block=4").eval()
    tower, seen = towers.backbone.tower, []
    towers.backbone.tap(image, lambda number, tokens: seen.append(tokens) or tokens)
    last = seen[-1] + tower.by_value(4, seen[-1].transpose(0, 1)).transpose(0, 1)
    expected = towers.backbone.project(tower.patches(tower.feed_forward(4, last)))
    assert_close(network._frozen_view(image)[-1], expected, atol=1e-5, rtol=1e-5)


def test_the_text_is_trained_on_its_maps_and_its_right_angle_and_no_image_score(build):
    network, batch = build("readout.all_taps=true").train(), random_batch()
    prediction = network(batch.image, batch.category)
    assert prediction.trained_maps.shape == (4, 4, 64, 64)
    assert prediction.trained_scores.shape == (4, 0)
    loss = AnomalyLoss(separation_weight=0.1)
    seen = prediction.trained_maps, prediction.trained_scores, batch.mask, batch.is_anomalous
    terms = loss(*seen, None, prediction.prototypes)
    assert terms.image == 0
    assert_close(terms.separation, 0.1 * prediction.prototypes[0].prod(dim=0).sum() ** 2)
    assert_close(terms.total, terms.focal + terms.dice + terms.complement + terms.separation)


def test_the_text_stays_while_the_image_tower_is_trained(build):
    network, batch = build("text_epochs=3").train(), random_batch()
    for epoch, part in ((0, "text"), (2, "text"), (3, "image"), (9, "image")):
        network.begin_epoch(epoch)
        network.zero_grad()
        prediction = network(batch.image, batch.category)
        AnomalyLoss()(
            prediction.trained_maps, prediction.trained_scores, batch.mask, batch.is_anomalous
        ).total.backward()
        trained = {name.split("_")[0] for name, value in network.named_parameters() if value.grad is not None}
        assert trained == ({"text"} if part == "text" else {"image", "patch"})


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("text_epochs=0", "text_epochs must be positive, got 0"),
        ("adapters.text_blocks=0", "adapters.text_blocks must be positive, got 0"),
        ("adapters.image_weight=1.5", r"adapters.image_weight must lie in \[0, 1\], got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(override, sentence):
    with pytest.raises(Exception, match=sentence):
        composed_module("aa_clip", f"module.network.{override}")
