import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from afr_clip.losses.total import AnomalyLoss, alignment_loss, on_grid
from helpers.methods import build_method, composed_module
from helpers.tiny import assert_probabilities, random_batch

NAMES = ("metal nut", "screw")


@pytest.fixture
def network(towers):
    torch.manual_seed(0)
    return build_method("af_clip", towers).eval()


@pytest.fixture
def image() -> torch.Tensor:
    return random_batch(2).image


def naive_average(tap: torch.Tensor, side: int, window: int) -> torch.Tensor:
    """Weigh the patches of each window by a Gaussian of 4 patches; outside the grid everything is 0."""
    reach = window // 2
    offsets = range(-reach, reach + 1)
    weight = {(r, c): math.exp(-(r * r + c * c) / 32) for r in offsets for c in offsets}
    total, averaged = sum(weight.values()), tap.clone()
    for row in range(side):
        for column in range(side):
            seen = [
                (weight[r, c] / total) * tap[1 + (row + r) * side + column + c]
                for r, c in weight
                if 0 <= row + r < side and 0 <= column + c < side
            ]
            averaged[1 + row * side + column] = sum(seen)
    return averaged


def naive_adapter(adapter: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    normed = F.layer_norm(tokens, tokens.shape[-1:], adapter.norm.weight, adapter.norm.bias)
    query, key, value = (normed @ part.weight.T for part in (adapter.query, adapter.key, adapter.value))
    heads = []
    for head in range(8):
        own = slice(64 * head, 64 * (head + 1))
        share = (query[:, own] @ key[:, own].T / 8).softmax(dim=1)
        heads.append(share @ value[:, own])
    return torch.cat(heads, dim=1) @ adapter.out.weight.T + adapter.out.bias


@torch.no_grad()
def test_the_cosines_of_every_tap_and_window_are_added_up_before_the_softmax(network, towers, image):
    prediction, side = network(image, NAMES), towers.backbone.grid_size[0]
    sentences = F.normalize(network.text(NAMES, image.device)[0], dim=-1)
    for row in range(2):
        logits = torch.zeros(1 + side * side, 2)
        for tap in towers.backbone.tap(image):
            for window in (1, 3, 5):
                tokens = towers.backbone.project(naive_adapter(network.adapter, naive_average(tap[row], side, window)))
                logits += F.normalize(tokens, dim=-1) @ sentences.T / 0.07
        probability = logits.softmax(dim=1)[:, 1]
        assert_close(prediction.image_score[row], probability[0], atol=1e-4, rtol=0)
        assert_close(prediction.layer_maps[row, 0].flatten(), probability[1:], atol=1e-4, rtol=0)


@torch.no_grad()
def test_without_learned_words_the_sentences_are_clips_own(towers):
    network = build_method("af_clip", towers, "module.network.num_context_tokens=0")
    own = towers.backbone.encode_text(["without defect.", "with defect."])
    assert_close(network.text(("screw",), own.device)[0], own, atol=1e-5, rtol=0)


def test_the_learned_words_stand_in_front_of_both_sentences(network, image):
    before = network.text(("screw",), image.device).detach()
    with torch.no_grad():
        network.context[0] += 1
    assert not torch.isclose(network.text(("screw",), image.device).detach(), before).all(dim=-1).any()


def test_more_learned_words_than_the_text_tower_has_room_for_are_refused(towers):
    with pytest.raises(ValueError, match="num_context_tokens must be at most"):
        build_method("af_clip", towers, "module.network.num_context_tokens=200")


@pytest.mark.parametrize("windows", ["[]", "[2]", "[1,-3]"])
def test_windows_have_a_middle(windows):
    with pytest.raises(Exception, match="windows must be odd sides of 1 patch or more"):
        composed_module("af_clip", f"module.network.windows={windows}")


def naive_alignment(tokens: torch.Tensor, mask: torch.Tensor) -> float:
    """As the public code does it: a table of all pairs of every image."""
    sign = torch.where(mask.flatten(1), 1, -1)
    alike = sign[:, :, None] * sign[:, None, :]
    losses = []
    for stream in tokens.unbind(1):
        units = F.normalize(stream.double(), dim=-1)
        cosines = units @ units.transpose(1, 2)
        unlike = cosines[alike == -1]
        losses.append(max(float(unlike.mean() - cosines[alike == 1].mean()), 0.0) if len(unlike) else 0.0)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("seed", range(5))
def test_alignment_is_that_of_all_pairs(seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(3, 4, 25, 6, generator=generator)
    mask = torch.rand(3, 5, 5, generator=generator) < 0.3
    mask[0] = False  # a normal image has pairs of one kind
    # One normal patch in each row looks like nothing else, so that unlike patches resemble each other more.
    own = torch.ones(6) * torch.where(torch.arange(25) % 5 == 0, -1.0, 1.0)[:, None]
    mask[1:, :, 0] = False
    tokens[:, 1] = 0.1 * tokens[:, 1] + own
    expected = naive_alignment(tokens, mask)
    assert expected > 0.01
    assert float(alignment_loss(tokens, mask)) == pytest.approx(expected, abs=1e-6)


def test_alignment_needs_both_kinds_and_falls_as_they_part():
    tokens = torch.randn(2, 1, 16, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert alignment_loss(tokens, torch.zeros(2, 4, 4, dtype=torch.bool)) == 0
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 0] = True
    mixed = torch.where(torch.arange(16)[:, None] % 2 == 0, 1.0, -1.0).expand(2, 1, 16, 4).clone().requires_grad_()
    apart = torch.where(mask.flatten(1)[:, None, :, None], 1.0, -1.0).expand(2, 1, 16, 4)
    assert alignment_loss(apart, mask) == 0
    assert alignment_loss(mixed, mask) <= 1e-6  # half of every kind is alike, whichever its patches are
    alignment_loss(tokens, mask).backward()
    assert tokens.grad.isfinite().all()


def test_a_patch_is_anomalous_where_its_middle_is():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, :4, :3] = True
    assert on_grid(mask, (2, 2)).tolist() == [[[True, False], [False, False]]]
    assert on_grid(mask, (8, 8)) is mask


def test_the_published_loss_sees_the_patch_grid_and_the_tokens(network):
    batch = random_batch()
    prediction = network.train()(batch.image, batch.category)
    assert_probabilities(prediction)
    assert prediction.trained_maps.shape == (4, 1, 4, 4)
    assert prediction.patch_tokens.shape[:3] == (4, 3 * 4, 16)
    weights = {"dice_weight": 0.0, "complement_weight": 0.0, "l1_weight": 1.0, "alignment_weight": 1.0}
    loss = AnomalyLoss(image_gamma=4.0, focal_gamma=4.0, **weights)
    given = prediction.trained_maps, prediction.trained_scores, batch.mask, batch.is_anomalous
    terms = loss(*given, prediction.patch_tokens)
    grid = on_grid(batch.mask, (4, 4)).float()
    assert_close(terms.l1, (prediction.trained_maps[:, 0] - grid).abs().mean())
    assert_close(terms.alignment, alignment_loss(prediction.patch_tokens, grid > 0))
    assert_close(terms.total, terms.image + terms.focal + terms.l1 + terms.alignment)
    assert AnomalyLoss()(*given).l1 is None


def test_what_a_reference_shows_is_no_distance_away(towers, image):
    torch.manual_seed(0)
    network = build_method(
        "af_clip", towers, "module.network.shots=1", "module.network.scoring.smoothing_sigma=0"
    ).eval()
    for name in NAMES:
        network.observe(image[:1], name)
    own, other = network(image, NAMES).anomaly_map
    network.shots = 0
    alone = network(image, NAMES).anomaly_map
    assert_close(own, alone[0] * 0.1 / 1.1, atol=1e-5, rtol=0)
    assert (other > alone[1] * 0.1 / 1.1 + 1e-4).any()
