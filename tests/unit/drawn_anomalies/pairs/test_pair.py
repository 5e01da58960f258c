import numpy as np
import pytest

from drawn_anomalies.kinds import HELD_OUT
from drawn_anomalies.pairs.captions import HELD_OUT_COMBINATIONS, KINDS, NEUTRAL_NOUNS, SUBJECTS
from drawn_anomalies.pairs.nameless import NAMELESS
from drawn_anomalies.pairs.pair import draw_invented, draw_named, draw_pair

SIZE = (32, 40)


@pytest.fixture(scope="module")
def pairs():
    return [draw_pair(np.random.default_rng([5, seed]), SIZE) for seed in range(400)]


def test_a_seed_determines_the_pair():
    first, again, other = (draw_pair(np.random.default_rng(seed), SIZE) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.picture, again.picture)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert (first.caption, first.subject, first.colour, first.defect) == (
        again.caption,
        again.subject,
        again.colour,
        again.defect,
    )
    assert not np.array_equal(first.picture, other.picture)


def test_training_never_draws_a_combination_that_is_held_out(pairs):
    assert not {(pair.colour, pair.subject) for pair in pairs} & HELD_OUT_COMBINATIONS


def test_held_out_pairs_show_only_held_out_combinations():
    drawn = {(p.colour, p.subject) for p in (draw_named(np.random.default_rng(s), SIZE, True) for s in range(40))}
    assert drawn <= HELD_OUT_COMBINATIONS
    assert len(drawn) > 20


def test_two_in_five_pairs_show_a_subject_and_the_others_are_called_by_a_neutral_noun(pairs):
    named = [pair for pair in pairs if pair.colour is not None]
    assert 0.33 < len(named) / len(pairs) < 0.47
    assert {pair.subject for pair in named} <= {subject.words for subject in SUBJECTS}
    assert {pair.subject for pair in pairs if pair.colour is None} == set(NEUTRAL_NOUNS)


def test_about_half_of_the_pairs_are_flawed_and_every_kind_but_those_held_out_occurs(pairs):
    flawed = [pair.defect for pair in pairs if pair.defect]
    assert 0.4 < len(flawed) / len(pairs) < 0.6
    assert set(flawed) == {*KINDS, *NAMELESS}
    assert not set(flawed) & set(HELD_OUT)


def test_only_flawed_pairs_have_a_mask(pairs):
    assert all((pair.mask.max() > 0.5) == (pair.defect is not None) for pair in pairs)
    assert all(pair.mask.shape == pair.picture.shape[:2] == SIZE for pair in pairs)
    assert max(pair.mask.mean() for pair in pairs) < 0.3


def test_inventions_differ_from_each_other():
    pictures = [draw_invented(np.random.default_rng(seed), SIZE).picture.astype(int) for seed in range(12)]
    away = [np.abs(one - other).mean() for n, one in enumerate(pictures) for other in pictures[:n]]
    assert min(away) > 3


@pytest.mark.parametrize("draw", [draw_named, draw_invented])
def test_a_defect_changes_the_picture_where_its_mask_is(draw, monkeypatch):
    drawn = {}
    for kind in (None, "stain"):
        monkeypatch.setattr("drawn_anomalies.pairs.pair._defect", lambda _, kind=kind: kind)
        drawn[kind] = draw(np.random.default_rng(2), (96, 64))
    changed = np.abs(drawn["stain"].picture.astype(int) - drawn[None].picture).max(axis=-1)
    mask = drawn["stain"].mask
    assert changed[mask > 0.5].mean() > 10
    assert changed[mask == 0].mean() < 1
