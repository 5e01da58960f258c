import re

import numpy as np
import pytest

from drawn_anomalies.canvas import Canvas
from drawn_anomalies.kinds import DEFECTS, HELD_OUT
from drawn_anomalies.pairs.captions import (
    EVERYDAY_NOUNS,
    FLAWED_PHRASES,
    HELD_OUT_COMBINATIONS,
    KIND_PHRASES,
    KINDS,
    NEUTRAL_NOUNS,
    SUBJECTS,
    TEMPLATES,
    WHOLE_PHRASES,
    condition_caption,
    condition_captions,
    draw_frame,
    plain_caption,
)
from drawn_anomalies.pairs.nameless import NAMELESS
from drawn_anomalies.pairs.palette import PALETTE, contrasting, toned

UNSEEN = "brick marble weave woven leather gear capsule label button biscuit"
HELD_OUT_WORDS = (
    "crack cracked fibre fiber hair thread misprint misprinted warp warped twist twisted bent corrosion corroded "
    "rust rusty"
)
FORBIDDEN = re.compile(rf"\b({'|'.join((UNSEEN + ' ' + HELD_OUT_WORDS).split())})s?\b")
SIZE = (32, 32)


@pytest.fixture(scope="module")
def told():
    """Captions of every subject, colour and condition."""
    rng = np.random.default_rng(11)
    kinds = (None, *KINDS, *NAMELESS)
    names = [f"{rng.choice(list(PALETTE))} {SUBJECTS[rng.integers(len(SUBJECTS))].words}" for _ in range(3000)]
    conditions = [None if rng.random() < 0.5 else kinds[1 + rng.integers(len(kinds) - 1)] for _ in names]
    return [(kind, draw_frame(rng, kind)[0].format(name)) for name, kind in zip(names, conditions, strict=True)]


def test_the_opposite_caption_differs_in_the_condition_only():
    rng = np.random.default_rng(4)
    for kind in (None, "scratch", "rough_patch") * 60:
        frame, opposite = draw_frame(rng, kind)
        assert frame.count("{}") == 1
        if opposite is None:
            assert frame in TEMPLATES
            continue
        phrases = [*WHOLE_PHRASES, *FLAWED_PHRASES, *(p for phrases in KIND_PHRASES.values() for p in phrases)]
        template = [t for t in TEMPLATES if frame in {t.format(p) for p in phrases}]
        wrong = FLAWED_PHRASES if kind is None else WHOLE_PHRASES
        assert any(opposite in {t.format(p) for p in wrong} for t in template)
        assert not any(frame in {t.format(p) for p in wrong} for t in template)


def test_captions_never_speak_of_what_only_the_unseen_set_shows(told):
    assert [text for _, text in told if FORBIDDEN.search(text)] == []


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


def test_a_tenth_of_all_combinations_is_held_out_and_every_subject_keeps_most_colours():
    assert 0.08 < len(HELD_OUT_COMBINATIONS) / (len(SUBJECTS) * len(PALETTE)) < 0.12
    assert all(sum(s.words == words for _, words in HELD_OUT_COMBINATIONS) <= 2 for s in SUBJECTS)
    assert all(sum(colour == name for name, _ in HELD_OUT_COMBINATIONS) < len(SUBJECTS) / 4 for colour in PALETTE)


def test_what_a_caption_says_of_the_condition_is_true(told):
    of_whole = re.compile(r"\bnormal|flawless|perfect|unblemished|intact|without")
    of_flawed = re.compile(r"abnormal|defective|damaged|broken|\bwith\b|" + "|".join(_adjectives()))
    rng = np.random.default_rng(3)
    conditions = [None, "scratch"] * 40
    neutral = [(kind, condition_caption(rng, "object", flawed=kind is not None)) for kind in conditions]
    for kind, text in [*told, *neutral]:
        assert not (of_flawed if kind is None else of_whole).search(text), (text, kind)
    assert all((of_whole if kind is None else of_flawed).search(text) for kind, text in neutral)


def _adjectives():
    return [phrase.removesuffix(" {}") for phrases in KIND_PHRASES.values() for phrase in phrases if phrase[0] != "{"]


def test_a_caption_that_names_a_kind_names_the_right_one(told):
    for kind, text in told:
        named = {name for name, phrases in KIND_PHRASES.items() if any(p.strip("{} ") in text for p in phrases)}
        assert named <= {kind}, (text, kind)


def test_about_three_in_ten_captions_say_nothing_of_the_condition(told):
    states = re.compile(
        "|".join(p.strip("{} ") for p in (*WHOLE_PHRASES, *FLAWED_PHRASES, *sum(KIND_PHRASES.values(), ())))
    )
    texts = [text for _, text in told]
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


def test_subjects_have_different_names():
    assert len({subject.words for subject in SUBJECTS}) == len(SUBJECTS)


def test_a_second_colour_stands_out_and_a_tone_keeps_within_range():
    for colour in PALETTE.values():
        assert np.abs(np.subtract(contrasting(colour), colour)).max() > 0.35
        assert max(toned(colour, 2.0, 0.5)) <= 1


def test_an_evaluation_asks_in_plain_words():
    assert plain_caption("screw head", "navy") == "a photo of a navy screw head"
    assert condition_captions("cup") == ("a photo of a normal cup", "a photo of a defective cup")


def test_no_kind_that_is_held_out_has_words():
    assert set(KIND_PHRASES) == set(KINDS) == set(DEFECTS) - set(HELD_OUT)
