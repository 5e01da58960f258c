import pytest
import torch
from torch.testing import assert_close

from afr_clip.clip.text import CategoryEmbeddings
from afr_clip.config.nodes import method_names
from afr_clip.models.text_seam import changed_text, has_text, named, with_prototypes_swapped, without_stateless
from helpers.methods import build_on_four_blocks, composed_module
from helpers.tiny import tiny_network

NAMES = ("metal nut", "screw", "metal nut", "bottle")


def same_scores(one, other) -> bool:
    return torch.equal(one.anomaly_map, other.anomaly_map) and torch.equal(one.image_score, other.image_score)


@pytest.fixture(params=[name for name in method_names() if composed_module(name).network.needs_text])
def network(request, towers):
    torch.manual_seed(0)
    return build_on_four_blocks(request.param, towers).eval()


@torch.no_grad()
def test_a_wrong_category_scores_as_that_name_does_and_then_all_is_as_before(network, image):
    assert has_text(network)
    before = network(image, NAMES)
    with changed_text(network, named({"metal nut": "banana", "screw": "pill", "bottle": "bottle"}.__getitem__)):
        changed = network(image, NAMES)
    assert same_scores(changed, network(image, ("banana", "pill", "banana", "bottle")))
    assert same_scores(before, network(image, NAMES))
    reads_names = type(network).__name__ not in ("AnomalyCLIP", "AFCLIP", "AdaptCLIP")
    assert same_scores(before, changed) is not reads_names


@torch.no_grad()
def test_prototypes_that_are_swapped_turn_the_maps_of_every_layer_around(network, image):
    own = network(image, NAMES)
    with changed_text(network, with_prototypes_swapped):
        swapped = network(image, NAMES)
    # WinCLIP's windows enter its other maps through a harmonic mean; the last one is that of the whole image.
    # AdaptCLIP's last map is of the sentences that it learns; those of the other one stay.
    layers = slice(-1, None) if type(network).__name__ in ("WinCLIP", "AdaptCLIP") else slice(None)
    assert_close(swapped.layer_maps[:, layers], 1 - own.layer_maps[:, layers])


def test_the_network_is_as_before_after_an_error(network):
    own = dict(vars(network))

    def failing(category, given):
        msg = "no text"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="no text"), changed_text(network, lambda _: failing):
        network(torch.zeros(1, 3, 64, 64), ("screw",))
    assert vars(network) == own


@torch.no_grad()
def test_a_network_without_its_stateless_embedding_equals_one_whose_text_is_zero(towers, image):
    network, zero = (tiny_network(towers, scoring={"temperature": 0.07}).eval() for _ in range(2))
    for own in (network, zero):
        own.text_adapter.bias.zero_()
    embed = zero.text
    zero.text = lambda *given: CategoryEmbeddings(torch.zeros_like(embed(*given).stateless), embed(*given).stateful)
    with changed_text(network, without_stateless):
        changed = network(image, NAMES)
    assert same_scores(changed, zero(image, NAMES))
    assert not same_scores(changed, network(image, NAMES))


def test_a_network_without_text_has_none(towers):
    assert not has_text(torch.nn.Linear(2, 2))
    assert not has_text(build_on_four_blocks("uni_adet", towers))
