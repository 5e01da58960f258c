import numpy as np
import pytest

from drawn_anomalies.features import BASES, HELD_OUT_NAMES
from drawn_anomalies.kinds import HELD_OUT
from drawn_anomalies.pairs import pair as room
from drawn_anomalies.pairs.captions import HELD_OUT_COMBINATIONS, KINDS, SUBJECTS
from drawn_anomalies.pairs.nameless import NAMELESS
from drawn_anomalies.pairs.pair import MOST_FEATURES, draw_featured, draw_named, draw_pair

SIZE = (40, 48)


@pytest.fixture(scope="module")
def pairs():
    return [draw_pair(np.random.default_rng([5, seed]), SIZE) for seed in range(400)]


def test_a_seed_determines_the_pair():
    first, again, other = (draw_pair(np.random.default_rng(seed), SIZE) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.picture, again.picture)
    assert all(np.array_equal(one, two) for one, two in zip(first.masks, again.masks, strict=True))
    assert first.shown == again.shown
    assert not np.array_equal(first.picture, other.picture)


def test_training_never_draws_a_combination_that_is_held_out(pairs):
    assert not {(p.shown.colour, p.shown.subject) for p in pairs if not p.shown.features} & HELD_OUT_COMBINATIONS
    assert not {(adjective, p.shown.subject) for p in pairs for adjective, _ in p.shown.features} & HELD_OUT_NAMES


def test_held_out_pairs_show_only_held_out_combinations():
    drawn = {
        (p.shown.colour, p.shown.subject) for p in (draw_named(np.random.default_rng(s), SIZE, True) for s in range(40))
    }
    assert drawn <= HELD_OUT_COMBINATIONS
    assert len(drawn) > 20
    featured = [draw_featured(np.random.default_rng(s), SIZE, True).shown for s in range(40)]
    assert all((adjective, one.subject) in HELD_OUT_NAMES for one in featured for adjective, _ in one.features)
    assert sum(len(one.features) == 2 for one in featured) > 25


def test_three_in_ten_pairs_show_a_plain_thing_and_most_others_have_no_name(pairs):
    plain, subjects = {base.words for base in BASES}, {subject.words for subject in SUBJECTS}
    assert 0.23 < np.mean([p.shown.subject in plain for p in pairs]) < 0.37
    assert 0.04 < np.mean([p.shown.subject in subjects for p in pairs]) < 0.16
    assert {p.shown.subject for p in pairs} <= plain | subjects | {None}
    assert max(len(p.shown.features) for p in pairs) == MOST_FEATURES
    assert all(not p.shown.features for p in pairs if p.shown.subject not in plain)


def test_about_half_of_the_pairs_are_flawed_and_every_kind_but_those_held_out_occurs(pairs):
    flawed = [pair.shown.defect for pair in pairs if pair.shown.defect]
    assert 0.4 < len(flawed) / len(pairs) < 0.6
    assert set(flawed) == {*KINDS, *NAMELESS}
    assert not set(flawed) & set(HELD_OUT)


def test_masks_are_those_of_the_defect_and_of_each_feature(pairs):
    for pair in pairs:
        assert len(pair.masks) == 1 + len(pair.shown.features)
        assert all(mask.shape == pair.picture.shape[:2] == SIZE for mask in pair.masks)
        assert (pair.masks[0].max() >= 0.5) == (pair.shown.defect is not None)
        assert all(mask.max() >= 0.5 for mask in pair.masks[1:])
        if len(pair.masks) > 1:
            assert sum(pair.masks[1:]).max() < 1.01  # what lies on top hides what is below


def test_inventions_differ_from_each_other():
    pictures = [room._draw_invented(np.random.default_rng(seed), SIZE).picture.astype(int) for seed in range(12)]
    away = [np.abs(one - other).mean() for n, one in enumerate(pictures) for other in pictures[:n]]
    assert min(away) > 3


@pytest.mark.parametrize("draw", [draw_named, draw_featured, room._draw_invented])
def test_a_defect_changes_the_picture_where_its_mask_is(draw, monkeypatch):
    drawn = {}
    monkeypatch.setattr(room, "snapshot", lambda _, picture, planes, *__, **___: (picture, planes))
    for kind in (None, "stain"):
        monkeypatch.setattr(room, "_defect", lambda _, kind=kind: kind)
        drawn[kind] = draw(np.random.default_rng(2), (96, 64))
    changed = np.abs(drawn["stain"].picture.astype(int) - drawn[None].picture).max(axis=-1)
    mask = drawn["stain"].masks[0]
    assert changed[mask > 0.5].mean() > 10
    assert changed[mask == 0].mean() < 1
