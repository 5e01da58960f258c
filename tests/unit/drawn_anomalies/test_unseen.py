from dataclasses import replace

import numpy as np
import pytest

from drawn_anomalies.canvas import Canvas
from drawn_anomalies.flaw import flawed
from drawn_anomalies.kinds import DEFECTS, HELD_OUT
from drawn_anomalies.light import Light
from drawn_anomalies.unseen_objects import UNSEEN_OBJECTS
from drawn_anomalies.unseen_textures import UNSEEN_TEXTURES

UNSEEN = UNSEEN_TEXTURES + UNSEEN_OBJECTS
PAIRS = [(category, kind) for category in UNSEEN for kind in category.defects]

of_each_category = pytest.mark.parametrize("category", UNSEEN, ids=lambda category: category.name)
of_each_pair = pytest.mark.parametrize(
    ("category", "kind"), PAIRS, ids=[f"{category.name}-{kind}" for category, kind in PAIRS]
)


def drawn(category, seed=0, size=(64, 64)):
    return category.draw(Canvas(size, np.random.default_rng(seed)))


def category_named(name):
    return next(category for category in UNSEEN if category.name == name)


@pytest.mark.parametrize("category", UNSEEN_TEXTURES, ids=lambda category: category.name)
def test_a_texture_fills_the_picture(category):
    assert drawn(category).body.all()


@pytest.mark.parametrize("category", UNSEEN_OBJECTS, ids=lambda category: category.name)
@pytest.mark.parametrize("seed", range(4))
def test_an_object_lies_within_the_picture(category, seed):
    body = drawn(category, seed).body
    border = np.concatenate([body[0], body[-1], body[:, 0], body[:, -1]])
    assert 0.1 < body.mean() < 0.9
    assert not border.any()


@of_each_category
@pytest.mark.parametrize("size", [(64, 64), (96, 160)], ids=str)
def test_parts_lie_on_the_body(category, size):
    surface = drawn(category, size=size)
    assert all(part.any() and not (part & ~surface.body).any() for part in surface.parts)


@pytest.mark.parametrize(("name", "least"), [("brick", 3), ("gear", 6), ("label", 5)])
def test_what_is_made_of_pieces_has_parts(name, least):
    parts = drawn(category_named(name)).parts
    assert len(parts) >= least
    assert np.sum(parts, axis=0).max() == 1, "two parts overlap"


def test_a_label_without_its_print_is_blank_paper():
    surface = drawn(category_named("label"), size=(128, 128))
    logo = surface.parts[0]
    assert surface.colour[logo].min() < 0.3
    assert surface.backdrop[logo].min() > 0.7


@of_each_category
def test_another_size_shows_the_same_kind_of_thing(category):
    few, many = (np.mean([drawn(category, s, (n, n)).colour.mean(axis=(0, 1)) for s in range(6)], 0) for n in (64, 192))
    np.testing.assert_allclose(few, many, atol=0.05)  # specimens differ: their colours, cloudiness and pose are drawn


@of_each_pair
def test_a_defect_changes_nothing_outside_its_coverage(category, kind):
    canvas = Canvas((64, 64), np.random.default_rng(5))
    whole = category.draw(canvas)
    before = replace(whole, colour=whole.colour.copy(), height=whole.height.copy())
    broken, coverage = DEFECTS[kind](canvas, whole)
    np.testing.assert_array_equal(broken.colour[coverage == 0], before.colour[coverage == 0])
    np.testing.assert_array_equal(whole.colour, before.colour)
    np.testing.assert_array_equal(whole.height, before.height)


@of_each_pair
def test_a_flaw_can_be_seen_and_has_a_mask_on_the_body(category, kind):
    canvas = Canvas((96, 96), np.random.default_rng(6))
    whole = category.draw(canvas)
    light = Light.drawn(canvas)
    broken, mask = flawed(canvas, whole, light, DEFECTS[kind])
    difference = np.abs(light.seen(broken, canvas.pixel) - light.seen(whole, canvas.pixel)).max(axis=-1)
    assert (mask & whole.body).any()
    assert kind == "warp" or not (mask & ~whole.body).any()  # a bent outline also changes what is beside it
    assert difference[mask].mean() > 0.05


def test_the_set_shows_every_held_out_kind_in_about_half_of_its_pairs():
    kinds = [kind for _, kind in PAIRS]
    assert set(HELD_OUT) < set(kinds) <= set(DEFECTS)
    assert len(set(kinds)) >= 10
    assert 0.4 <= np.mean([kind in HELD_OUT for kind in kinds]) <= 0.6


def test_categories_differ_in_name_and_none_lists_a_kind_twice():
    assert len({category.name for category in UNSEEN}) == len(UNSEEN) == 9
    assert all(len(set(category.defects)) == len(category.defects) in range(4, 7) for category in UNSEEN)
    assert [category.name for category in UNSEEN if "misprint" in category.defects] == ["label"]
