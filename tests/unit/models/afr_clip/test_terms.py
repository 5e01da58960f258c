import math

import pytest
import torch
from torch.testing import assert_close

from afr_clip.models.afr_clip.terms import Terms, recorded_terms, without_text_term
from helpers.naive import naive_rectification
from helpers.tiny import tiny_network

NAMES = ("metal nut", "screw", "metal nut", "bottle")


@pytest.fixture(autouse=True)
def _no_graph():
    with torch.no_grad():
        yield


def by_hand(network, image) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return per stage the stateless embedding and the image's terms of class token and patches."""
    stateless = network.text_adapter(network.text(NAMES, image.device).stateless)
    stages = []
    for stage, tokens in enumerate(network.tapped(image)):
        adapted = network.visual_adapters[stage](tokens)
        given = adapted[:, :1], network.mpfa(adapted[:, 1:], (4, 4))
        terms = [naive_rectification(network.cmfr[stage], part, stateless) - stateless[:, None] for part in given]
        stages.append((stateless, *terms))
    return stages


def test_the_terms_are_those_of_the_equations(towers, image):
    network = tiny_network(towers).eval()
    with recorded_terms(network) as found:
        network(image, NAMES)
    assert len(found) == 4
    for (of_class, of_patches), (stateless, class_image, patch_image) in zip(
        found, by_hand(network, image), strict=True
    ):
        assert_close(of_class.text, stateless[:, None])
        assert_close(of_patches.text, stateless[:, None].expand(4, 16, -1))
        assert_close(of_class.image, class_image)
        assert_close(of_patches.image, patch_image)


@pytest.mark.parametrize("variant", [{"shared": True}, {"symmetric": True}, {"kernel_size": 3}], ids=str)
def test_the_terms_of_every_reading_add_up_to_what_is_compared(towers, image, variant):
    network = tiny_network(towers, cmfr=variant).eval()
    text = network.adapted_text(NAMES, image.device)
    with recorded_terms(network) as found:
        rectified = [network.rectified(stage, tokens, text) for stage, tokens in enumerate(network.tapped(image))]
    assert len(found) == len(rectified) == 4
    for (of_class, of_patches), whole in zip(found, rectified, strict=True):
        assert_close(of_class.text + of_class.image, whole[:, :1])
        assert_close(of_patches.text + of_patches.image, whole[:, 1:])


def test_in_a_symmetric_network_the_image_writes_half_of_both_its_parts(towers, image):
    network = tiny_network(towers, cmfr={"symmetric": True}).eval()
    text = network.adapted_text(NAMES, image.device)
    tokens = network.tapped(image)[0]
    with recorded_terms(network) as found:
        network.rectified(0, tokens, text)
    class_token = network.visual_adapters[0](tokens)[:, :1]
    image_weight, text_weight = network.cmfr[0].weights(class_token, text.stateless, (1, 1))
    assert_close(found[0][0].image, class_token * (1 + image_weight) / 2)
    assert_close(found[0][0].text, text.stateless[:, None] * (1 + text_weight) / 2)


def test_without_the_texts_term_the_image_alone_is_compared(towers, image):
    network = tiny_network(towers).eval()
    text = network.adapted_text(NAMES, image.device)
    own = [network.rectified(stage, tokens, text) for stage, tokens in enumerate(network.tapped(image))]
    with without_text_term(network):
        found = [network.rectified(stage, tokens, text) for stage, tokens in enumerate(network.tapped(image))]
    for rectified, (stateless, *terms) in zip(found, by_hand(network, image), strict=True):
        assert_close(rectified, torch.cat(terms, dim=1))
        assert not torch.equal(rectified + stateless[:, None], rectified)
    assert all(
        torch.equal(network.rectified(stage, tokens, text), before)
        for stage, (tokens, before) in enumerate(zip(network.tapped(image), own, strict=True))
    )


def test_what_terms_measure_in_closed_form():
    text = torch.tensor([[[3.0, 0.0], [3.0, 0.0], [0.0, 0.0]]])
    image = torch.tensor([[[0.0, 4.0], [1.0, 0.0], [0.0, 2.0]]])
    measured = {name: value.item() for name, value in Terms(text, image).measures().items()}
    assert measured["text_norm"] == 3
    assert measured["image_norm"] == 2
    assert measured["share"] == pytest.approx(3 / 7)  # of 3/7, 3/4 and 0
    assert measured["turn"] == pytest.approx(0, abs=1e-6)  # of 36.9, 0 and 0 degrees
    alone = Terms(text[:, :1], image[:, :1]).measures()["turn"].item()
    assert alone == pytest.approx(math.degrees(math.atan2(3, 4)), abs=1e-4)
    opposite = Terms(torch.tensor([[[-3.0, 0.0]]]), torch.tensor([[[1.0, 0.0]]])).measures()["turn"].item()
    assert opposite == pytest.approx(180, abs=1e-2)


def test_a_tiny_turn_keeps_its_digits():
    angle = 1e-5
    text, image = torch.tensor([[[0.0, angle]]], dtype=torch.float32), torch.tensor([[[1.0, 0.0]]])
    assert Terms(text, image).measures()["turn"].item() == pytest.approx(math.degrees(angle), rel=1e-3)


def test_a_network_without_rectification_has_no_terms(towers, image):
    network = tiny_network(towers, cmfr={"enabled": False}).eval()
    with recorded_terms(network) as found:
        network(image, NAMES)
    assert found == []
