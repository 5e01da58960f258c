from dataclasses import replace

import numpy as np
import pytest

from drawn_anomalies.auxiliary_objects import AUXILIARY_OBJECTS
from drawn_anomalies.auxiliary_textures import AUXILIARY_TEXTURES
from drawn_anomalies.canvas import Canvas
from drawn_anomalies.catalogue import AUXILIARY_SUBJECTS
from drawn_anomalies.flaw import flawed
from drawn_anomalies.kinds import DEFECTS, HELD_OUT
from drawn_anomalies.light import Light
from drawn_anomalies.pairs.captions import SUBJECTS

AUXILIARY = AUXILIARY_TEXTURES + AUXILIARY_OBJECTS
PAIRS = [(category, kind) for category in AUXILIARY for kind in category.defects]
WITH_PARTS = [
    category
    for category in AUXILIARY
    if category.name in ("ceramic_tiles", "wire_mesh", "bottle_cap", "circuit", "key", "dial")
]

of_each_category = pytest.mark.parametrize("category", AUXILIARY, ids=lambda category: category.name)
of_each_pair = pytest.mark.parametrize(
    ("category", "kind"), PAIRS, ids=[f"{category.name}-{kind}" for category, kind in PAIRS]
)


def drawn(category, seed=0, size=(64, 64)):
    return category.draw(Canvas(size, np.random.default_rng(seed)))


@pytest.mark.parametrize("category", AUXILIARY_OBJECTS, ids=lambda category: category.name)
@pytest.mark.parametrize("seed", range(6))
def test_an_object_lies_within_the_picture(category, seed):
    body = drawn(category, seed).body
    border = np.concatenate([body[0], body[-1], body[:, 0], body[:, -1]])
    assert 0.1 < body.mean() < 0.9
    assert not border.any()


@pytest.mark.parametrize("category", WITH_PARTS, ids=lambda category: category.name)
@pytest.mark.parametrize("size", [(64, 64), (96, 160), (256, 256)], ids=str)
def test_parts_lie_on_the_body_however_fine_the_pixels(category, size):
    for seed in range(3):
        surface = drawn(category, seed, size)
        assert surface.parts
        assert all(part.any() and not (part & ~surface.body).any() for part in surface.parts)


@pytest.mark.parametrize("category", WITH_PARTS, ids=lambda category: category.name)
def test_where_a_part_is_missing_something_else_shows(category):
    surface = drawn(category, size=(128, 128))
    for part in surface.parts:
        assert np.abs(surface.colour[part] - surface.backdrop[part]).max() > 0.15


@of_each_category
def test_another_size_shows_the_same_kind_of_thing(category):
    few, many = (np.mean([drawn(category, s, (n, n)).colour.mean(axis=(0, 1)) for s in range(6)], 0) for n in (64, 192))
    np.testing.assert_allclose(few, many, atol=0.06)  # specimens differ: their colours and pose are drawn


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
    assert mask.any()
    assert not (mask & ~whole.body).any()
    assert difference[mask].mean() > 0.05


def test_the_set_shows_every_kind_that_is_not_held_out_and_no_other():
    assert {kind for _, kind in PAIRS} == set(DEFECTS) - set(HELD_OUT)


def test_categories_differ_in_name_and_none_lists_a_kind_twice():
    assert len({category.name for category in AUXILIARY}) == len(AUXILIARY) == 12
    assert all(len(set(category.defects)) == len(category.defects) in range(4, 7) for category in AUXILIARY)


def test_subjects_begin_with_different_kinds_so_that_few_pictures_show_them_all():
    assert [category.name for category in AUXILIARY_SUBJECTS] == [s.words.replace(" ", "_") for s in SUBJECTS]
    assert {category.defects[0] for category in AUXILIARY_SUBJECTS} == set(DEFECTS) - set(HELD_OUT)
    assert all(len(set(category.defects)) == 9 for category in AUXILIARY_SUBJECTS)


def test_specimens_of_a_subject_have_different_colours():
    (disc,) = (category for category in AUXILIARY_SUBJECTS if category.name == "plate")
    hues = {tuple(np.round(drawn(disc, seed).colour[32, 32], 1)) for seed in range(12)}
    assert len(hues) > 5
