from dataclasses import replace

import numpy as np
import pytest

from drawn_anomalies.auxiliary_objects import AUXILIARY_OBJECTS
from drawn_anomalies.auxiliary_textures import AUXILIARY_TEXTURES
from drawn_anomalies.canvas import Canvas
from drawn_anomalies.catalogue import AUXILIARY_SUBJECTS, CATEGORIES
from drawn_anomalies.flaw import flawed
from drawn_anomalies.kinds import DEFECTS, HELD_OUT
from drawn_anomalies.light import Light
from drawn_anomalies.pairs.captions import SUBJECTS
from drawn_anomalies.unseen_objects import UNSEEN_OBJECTS
from drawn_anomalies.unseen_textures import UNSEEN_TEXTURES

ALL = {category.name: category for categories in CATEGORIES.values() for category in categories}
AUXILIARY, UNSEEN = AUXILIARY_TEXTURES + AUXILIARY_OBJECTS, UNSEEN_TEXTURES + UNSEEN_OBJECTS
AUXILIARY_PAIRS, UNSEEN_PAIRS = ([(c, kind) for c in one for kind in c.defects] for one in (AUXILIARY, UNSEEN))
PAIRS = AUXILIARY_PAIRS + UNSEEN_PAIRS
LEAST_PARTS = {"ceramic_tiles": 1, "wire_mesh": 1, "bottle_cap": 1, "circuit": 1, "key": 1, "dial": 1, "brick": 3}
LEAST_PARTS |= {"gear": 6, "label": 5}

of_each_pair = pytest.mark.parametrize(
    ("category", "kind"), PAIRS, ids=[f"{category.name}-{kind}" for category, kind in PAIRS]
)


def of_each(categories):
    return pytest.mark.parametrize("category", categories, ids=lambda category: category.name)


def drawn(category, seed=0, size=(64, 64)):
    return category.draw(Canvas(size, np.random.default_rng(seed)))


@of_each(ALL.values())
def test_a_seed_gives_one_specimen_and_another_seed_another(category):
    first, again, other = drawn(category), drawn(category), drawn(category, seed=1)
    for name in ("colour", "height", "body", "backdrop", "parts"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert np.abs(first.colour - other.colour).mean() > 0.01


@of_each(ALL.values())
@pytest.mark.parametrize("size", [(64, 64), (96, 160), (160, 96)], ids=str)
def test_a_specimen_fills_its_canvas_with_valid_values(category, size):
    surface = drawn(category, size=size)
    for picture in (surface.colour, surface.backdrop):
        assert picture.shape == (*size, 3)
        assert picture.dtype == np.float32
        assert picture.min() >= 0
        assert picture.max() <= 1
    assert surface.height.shape == surface.body.shape == size
    assert surface.height.dtype == np.float32
    assert np.isfinite(surface.height).all()
    assert surface.body.any()
    if category in AUXILIARY + UNSEEN:
        assert all(part.any() and not (part & ~surface.body).any() for part in surface.parts)


@of_each(UNSEEN_TEXTURES)
def test_a_texture_fills_the_picture(category):
    assert drawn(category).body.all()


@of_each(AUXILIARY_OBJECTS + UNSEEN_OBJECTS)
@pytest.mark.parametrize("seed", range(6))
def test_an_object_lies_within_the_picture(category, seed):
    body = drawn(category, seed).body
    border = np.concatenate([body[0], body[-1], body[:, 0], body[:, -1]])
    assert 0.1 < body.mean() < 0.9
    assert not border.any()


@pytest.mark.parametrize(("name", "least"), LEAST_PARTS.items())
@pytest.mark.parametrize("size", [(64, 64), (96, 160), (256, 256)], ids=str)
def test_parts_lie_on_the_body_and_do_not_depend_on_the_pixels(name, least, size):
    for seed in range(3):
        surface = drawn(ALL[name], seed, size)
        assert len(surface.parts) >= least
        assert all(part.any() and not (part & ~surface.body).any() for part in surface.parts)
        if name in ("brick", "gear", "label"):
            assert np.sum(surface.parts, axis=0).max() == 1, "two parts overlap"


@pytest.mark.parametrize("name", [category.name for category in AUXILIARY if category.name in LEAST_PARTS])
def test_where_a_part_is_missing_something_else_shows(name):
    surface = drawn(ALL[name], size=(128, 128))
    for part in surface.parts:
        assert np.abs(surface.colour[part] - surface.backdrop[part]).max() > 0.15


def test_a_label_without_its_print_is_blank_paper():
    surface = drawn(ALL["label"], size=(128, 128))
    logo = surface.parts[0]
    assert surface.colour[logo].min() < 0.3
    assert surface.backdrop[logo].min() > 0.7


@of_each(AUXILIARY + UNSEEN)
def test_another_size_shows_the_same_kind_of_thing(category):
    few, many = (np.mean([drawn(category, s, (n, n)).colour.mean(axis=(0, 1)) for s in range(6)], 0) for n in (64, 192))
    # Specimens differ: their colours, cloudiness and pose are drawn.
    np.testing.assert_allclose(few, many, atol=0.06 if category in AUXILIARY else 0.05)


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
    assert kind == "warp" or not (mask & ~whole.body).any()  # a bent outline also changes what is next to it
    assert difference[mask].mean() > 0.05


def test_the_auxiliary_set_shows_every_kind_that_is_not_held_out_and_no_other():
    assert {kind for _, kind in AUXILIARY_PAIRS} == set(DEFECTS) - set(HELD_OUT)


def test_the_unseen_set_shows_every_held_out_kind_in_about_half_of_its_pairs():
    kinds = [kind for _, kind in UNSEEN_PAIRS]
    assert set(HELD_OUT) < set(kinds) <= set(DEFECTS)
    assert len(set(kinds)) >= 10
    assert 0.4 <= np.mean([kind in HELD_OUT for kind in kinds]) <= 0.6


def test_categories_differ_in_name_and_none_lists_a_kind_twice():
    assert len(ALL) == sum(map(len, CATEGORIES.values()))
    assert (len(AUXILIARY), len(UNSEEN)) == (12, 9)
    assert all(len(set(category.defects)) == len(category.defects) in range(4, 7) for category in AUXILIARY + UNSEEN)
    assert [category.name for category in UNSEEN if "misprint" in category.defects] == ["label"]


def test_subjects_begin_with_different_kinds_so_that_few_pictures_show_them_all():
    assert [category.name for category in AUXILIARY_SUBJECTS] == [s.words.replace(" ", "_") for s in SUBJECTS]
    assert {category.defects[0] for category in AUXILIARY_SUBJECTS} == set(DEFECTS) - set(HELD_OUT)
    assert all(len(set(category.defects)) == 9 for category in AUXILIARY_SUBJECTS)


def test_specimens_of_a_subject_have_different_colours():
    hues = {tuple(np.round(drawn(ALL["plate"], seed).colour[32, 32], 1)) for seed in range(12)}
    assert len(hues) > 5
