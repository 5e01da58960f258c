import re

import numpy as np
import pytest

from afr_clip.data.procedural.canvas import Canvas
from afr_clip.data.procedural.kinds import DEFECTS, HELD_OUT
from afr_clip.data.procedural.pairs import captions
from afr_clip.data.procedural.pairs.captions import (
    FLAWED_PHRASES,
    HELD_OUT_COMBINATIONS,
    KIND_PHRASES,
    KINDS,
    SUBJECTS,
    TEMPLATES,
    WHOLE_PHRASES,
    condition_captions,
    draw_caption,
    draw_pair,
    draw_picture,
    plain_caption,
)
from afr_clip.data.procedural.pairs.nouns import EVERYDAY_NOUNS, NEUTRAL_NOUNS
from afr_clip.data.procedural.pairs.palette import PALETTE, contrasting, toned

UNSEEN = "brick marble weave woven leather gear capsule label button biscuit"
HELD_OUT_WORDS = (
    "crack cracked fibre fiber hair thread misprint misprinted warp warped twist twisted bent corrosion corroded "
    "rust rusty"
)
FORBIDDEN = re.compile(rf"\b({'|'.join((UNSEEN + ' ' + HELD_OUT_WORDS).split())})s?\b")
SIZE = (32, 32)


@pytest.fixture(scope="module")
def pairs():
    return [draw_pair(np.random.default_rng([5, seed]), SIZE) for seed in range(300)]


def worded(pairs):
    """Every pair of the fixture with further captions of the same picture, which cost nothing to draw."""
    rng = np.random.default_rng(11)
    return [(p, draw_caption(rng, p.subject, p.colour, p.defect)) for p in pairs for _ in range(10)]


def test_a_seed_determines_picture_and_caption():
    first, again, other = (draw_pair(np.random.default_rng(seed), SIZE) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.picture, again.picture)
    assert (first.caption, first.subject, first.colour, first.defect) == (
        again.caption,
        again.subject,
        again.colour,
        again.defect,
    )
    assert not np.array_equal(first.picture, other.picture)


def test_captions_never_speak_of_what_only_the_unseen_set_shows(pairs):
    assert [text for _, text in worded(pairs) if FORBIDDEN.search(text)] == []
    assert [pair.caption for pair in pairs if FORBIDDEN.search(pair.caption)] == []


def test_no_list_holds_a_word_of_the_unseen_set():
    kinds = [phrase for phrases in KIND_PHRASES.values() for phrase in phrases]
    subjects = [subject.words for subject in SUBJECTS]
    lists = (*TEMPLATES, *WHOLE_PHRASES, *FLAWED_PHRASES, *kinds, *subjects, *NEUTRAL_NOUNS, *EVERYDAY_NOUNS, *PALETTE)
    assert [entry for entry in lists if FORBIDDEN.search(entry)] == []
    assert FORBIDDEN.search("two rusty gears")


def test_every_template_and_phrase_has_one_hole():
    kinds = [phrase for phrases in KIND_PHRASES.values() for phrase in phrases]
    assert {text.count("{}") for text in (*TEMPLATES, *WHOLE_PHRASES, *FLAWED_PHRASES, *kinds)} == {1}


def test_everyday_nouns_are_many_and_name_nothing_that_is_shown():
    assert len(EVERYDAY_NOUNS) >= 150
    assert len(set(EVERYDAY_NOUNS)) == len(EVERYDAY_NOUNS)
    assert not set(EVERYDAY_NOUNS) & {word for subject in SUBJECTS for word in subject.words.split()}
    assert not set(EVERYDAY_NOUNS) & ({*PALETTE, *DEFECTS, *NEUTRAL_NOUNS})


def test_training_never_draws_a_combination_that_is_held_out(pairs):
    assert not {(pair.colour, pair.subject) for pair in pairs} & HELD_OUT_COMBINATIONS


def test_held_out_pairs_show_only_held_out_combinations():
    drawn = {(p.colour, p.subject) for p in (draw_pair(np.random.default_rng(s), SIZE, True) for s in range(40))}
    assert drawn <= HELD_OUT_COMBINATIONS
    assert len(drawn) > 20


def test_a_tenth_of_all_combinations_is_held_out_and_every_subject_keeps_most_colours():
    assert 0.08 < len(HELD_OUT_COMBINATIONS) / (len(SUBJECTS) * len(PALETTE)) < 0.12
    assert all(sum(s.words == words for _, words in HELD_OUT_COMBINATIONS) <= 2 for s in SUBJECTS)
    assert all(sum(colour == name for name, _ in HELD_OUT_COMBINATIONS) < len(SUBJECTS) / 4 for colour in PALETTE)


def test_what_a_caption_says_of_the_condition_is_true(pairs):
    of_whole = re.compile(r"\bnormal|flawless|perfect|unblemished|intact|without")
    of_flawed = re.compile(r"abnormal|defective|damaged|broken|\bwith\b|" + "|".join(_adjectives()))
    for pair, text in [*worded(pairs), *((pair, pair.caption) for pair in pairs)]:
        assert not (of_flawed if pair.defect is None else of_whole).search(text), (text, pair.defect)


def _adjectives():
    return [phrase.removesuffix(" {}") for phrases in KIND_PHRASES.values() for phrase in phrases if phrase[0] != "{"]


def test_a_caption_that_names_a_kind_names_the_right_one(pairs):
    for pair, text in worded(pairs):
        named = {kind for kind, phrases in KIND_PHRASES.items() if any(p.strip("{} ") in text for p in phrases)}
        assert named <= {pair.defect}, (text, pair.defect)


def test_about_half_of_the_pairs_are_flawed_and_every_kind_occurs(pairs):
    flawed = [pair.defect for pair in pairs if pair.defect]
    assert 0.4 < len(flawed) / len(pairs) < 0.6
    assert set(flawed) == set(KINDS)


def test_no_kind_that_is_held_out_is_drawn_or_named(pairs):
    assert not {pair.defect for pair in pairs} & set(HELD_OUT)
    assert set(KIND_PHRASES) == set(KINDS) == set(DEFECTS) - set(HELD_OUT)


def test_about_three_in_ten_captions_say_nothing_of_the_condition(pairs):
    states = re.compile(
        "|".join(p.strip("{} ") for p in (*WHOLE_PHRASES, *FLAWED_PHRASES, *sum(KIND_PHRASES.values(), ())))
    )
    texts = [text for _, text in worded(pairs)]
    plain = [text for text in texts if not states.search(text)]
    assert 0.26 < len(plain) / len(texts) < 0.34
    shown = re.compile("|".join(subject.words for subject in SUBJECTS))
    assert all(shown.search(text) for text in plain)


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.words)
def test_every_subject_draws_at_any_size(subject, size):
    for seed, colour in enumerate(("black", "white", "red")):
        surface = subject.draw(Canvas(size, np.random.default_rng(seed)), PALETTE[colour])
        assert surface.colour.shape == (*size, 3)
        assert surface.colour.dtype == surface.height.dtype == surface.backdrop.dtype == np.float32
        assert surface.colour.min() >= 0
        assert surface.colour.max() <= 1
        assert np.isfinite(surface.height).all()
        assert surface.body.mean() > 0.05
        assert all((part & surface.body).any() for part in surface.parts)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.words)
def test_a_subject_is_mostly_of_its_colour(subject):
    for seed, colour in enumerate(("blue", "yellow", "red")):
        surface = subject.draw(Canvas((64, 64), np.random.default_rng(seed)), PALETTE[colour])
        shown = surface.colour[surface.body].mean(axis=0)
        others = {name: np.abs(shown - PALETTE[name]).sum() for name in ("blue", "yellow", "red", "green")}
        assert min(others, key=lambda name: others[name]) == colour


def test_a_defect_changes_the_picture():
    cup = next(subject for subject in SUBJECTS if subject.words == "cup")
    whole, flawed = (draw_picture(np.random.default_rng(2), (64, 64), cup, "red", kind) for kind in (None, "hole"))
    changed = (np.abs(whole.astype(int) - flawed.astype(int)).max(axis=-1) > 20).mean()
    assert 0.0005 < changed < 0.2


def test_subjects_have_different_names():
    assert len({subject.words for subject in SUBJECTS}) == len(SUBJECTS)


def test_a_second_colour_stands_out_and_a_tone_keeps_within_range():
    for colour in PALETTE.values():
        assert np.abs(np.subtract(contrasting(colour), colour)).max() > 0.35
        assert max(toned(colour, 2.0, 0.5)) <= 1


def test_an_evaluation_asks_in_plain_words():
    assert plain_caption("screw head", "navy") == "a photo of a navy screw head"
    assert condition_captions("cup") == ("a photo of a normal cup", "a photo of a defective cup")
    assert captions.FLAWED_SHARE == 0.5
