import re

import numpy as np
import pytest

from drawn_anomalies.features import BASES, FEATURES, HELD_OUT_NAMES
from drawn_anomalies.pairs.captions import EVERYDAY_NOUNS, HELD_OUT_COMBINATIONS, NEUTRAL_NOUNS
from drawn_anomalies.pairs.naming import draw_naming, false_name, phrase, true_name
from drawn_anomalies.pairs.pair import Shown, draw_featured
from drawn_anomalies.pairs.palette import PALETTE

ADJECTIVES, PLURALS = list(FEATURES), {feature.plural: adjective for adjective, feature in FEATURES.items()}
NOTHING = Shown(None, None, (), "stain")


@pytest.fixture(scope="module")
def judged():
    """What is shown, and many names for it."""
    rng = np.random.default_rng(0)
    shown = [draw_featured(np.random.default_rng(seed), (40, 40)).shown for seed in range(60)]
    return [(one, draw_naming(rng, one)) for one in shown for _ in range(20)]


def stated(words: str) -> dict[str, str | None]:
    """Read adjectives, and the colours of features, out of a name."""
    before, _, behind = words.partition(" with ")
    found = dict.fromkeys(a for a in ADJECTIVES if re.search(rf"\b{a}\b", before))
    for part in filter(None, behind.split(" and ")):
        colour, _, plural = part.rpartition(" ")
        found[PLURALS[plural]] = colour or None
    return found


def test_a_feature_belongs_where_the_name_has_it_in_its_colour_and_no_other(judged):
    other = 0
    for shown, naming in judged:
        if None in naming.belongs or not naming.words.split(" with ")[0].endswith(str(shown.subject)):
            continue
        named = stated(naming.words)
        for (adjective, colour), belongs in zip(shown.features, naming.belongs, strict=True):
            right = adjective in named and named[adjective] in (None, colour)
            assert belongs == right, (naming.words, shown)
            other += adjective in named and not right
    assert other > 10


def test_names_that_fit_anything_leave_every_feature_open(judged):
    left_open = [naming for shown, naming in judged if shown.features and None in naming.belongs]
    assert 0.15 < len(left_open) / len(judged) < 0.35
    assert all(set(naming.belongs) == {None} for naming in left_open)
    words = {naming.words for naming in left_open}
    assert words & set(NEUTRAL_NOUNS)
    assert words & set(EVERYDAY_NOUNS)
    assert words - set(NEUTRAL_NOUNS) - set(EVERYDAY_NOUNS)


def test_what_was_invented_is_called_by_no_name_of_its_own():
    rng = np.random.default_rng(1)
    subjects = {base.words for base in BASES}
    assert all(not {draw_naming(rng, NOTHING).words} & subjects for _ in range(100))
    with pytest.raises(ValueError, match="has no name"):
        true_name(rng, NOTHING)


def test_no_name_speaks_of_a_combination_that_is_held_out(judged):
    rng = np.random.default_rng(2)
    for shown, naming in judged:
        for words in (naming.words, true_name(rng, shown), false_name(rng, shown)):
            held_out = {(a, shown.subject) for a in stated(words)} & HELD_OUT_NAMES
            assert not (held_out and str(shown.subject) in words), words


def test_a_true_name_has_every_feature_and_a_false_one_something_that_is_not_there(judged):
    rng = np.random.default_rng(3)
    for shown, _ in judged:
        true = stated(true_name(rng, shown))
        assert set(true) == {adjective for adjective, _ in shown.features}
        assert all(true[adjective] in (None, colour) for adjective, colour in shown.features)
        false = false_name(rng, shown)
        colour = next((word for word in false.split()[:1] if word in PALETTE), shown.colour)
        features = {adjective for adjective, _ in shown.features}
        assert colour != shown.colour or str(shown.subject) not in false or set(stated(false)) != features


def test_nothing_stated_is_plain_or_left_out():
    rng = np.random.default_rng(4)
    assert {phrase(rng, "sheet", []) for _ in range(30)} == {"sheet", "plain sheet"}
    assert phrase(rng, "sheet", [("dotted", "red")]) == "sheet with red dots"
    assert {phrase(rng, "cup", []) for _ in range(30)} == {"cup"}


def test_a_colour_that_is_held_out_is_not_called_false_either():
    rng = np.random.default_rng(5)
    never = {colour for colour, subject in HELD_OUT_COMBINATIONS if subject == "cup"}
    shown = Shown("cup", next(colour for colour in PALETTE if colour not in never), (), None)
    told = {false_name(rng, shown).split()[0] for _ in range(400)}
    assert len(told & set(PALETTE)) > 8
    assert not told & never
