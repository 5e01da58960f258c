"""Names for what a picture shows, and what belongs to a thing of that name."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from drawn_anomalies.features import BASES, FEATURES, HELD_OUT_NAMES
from drawn_anomalies.pairs.captions import EVERYDAY_NOUNS, HELD_OUT_COMBINATIONS, NEUTRAL_NOUNS
from drawn_anomalies.pairs.pair import Shown
from drawn_anomalies.pairs.palette import PALETTE

NEUTRAL_SHARE, STRANGE_SHARE, NONSENSE_SHARE = 0.1, 0.1, 0.05
"""Shares of names that fit anything, of names of something else, and of made-up words."""

NAMED_SHARE, ABSENT_SHARE, OTHER_COLOUR_SHARE = 0.5, 0.2, 0.2
"""Shares of a picture's features that its name mentions, of names that mention an absent feature, and of mentioned
features given a wrong colour."""

_BASES = {base.words for base in BASES}

SYLLABLES = ["ba", "do", "fe", "gu", "ki", "lo", "mi", "nu", "pra", "qui", "ro", "sta", "te", "vo", "wex", "xi", "zu"]


@dataclass(frozen=True)
class Naming:
    """A name, and what it makes of a picture.

    Attributes:
        belongs: Of each feature of the picture whether it belongs to a thing of this name; ``None`` where the name
            leaves it open.
    """

    words: str
    belongs: tuple[bool | None, ...]


def draw_naming(rng: np.random.Generator, shown: Shown) -> Naming:
    """Choose one of the many names under which a picture can be judged."""
    choice = rng.random()
    if shown.subject is None:
        choice *= NEUTRAL_SHARE + STRANGE_SHARE + NONSENSE_SHARE
    left_open = (None,) * len(shown.features)
    if choice < NEUTRAL_SHARE:
        return Naming(str(rng.choice(NEUTRAL_NOUNS)), left_open)
    if choice < NEUTRAL_SHARE + STRANGE_SHARE:
        return Naming(str(rng.choice(EVERYDAY_NOUNS)), left_open)
    if choice < NEUTRAL_SHARE + STRANGE_SHARE + NONSENSE_SHARE:
        return Naming("".join(rng.choice(SYLLABLES, int(rng.integers(2, 4)))), left_open)
    assert shown.subject is not None
    stated, belongs = [], []
    for adjective, colour in shown.features:
        belongs.append(bool(rng.random() < NAMED_SHARE))
        if belongs[-1]:
            other = colour is not None and rng.random() < OTHER_COLOUR_SHARE
            told = _other_colour(rng, colour) if other else colour
            belongs[-1] = not other
            # A wrong colour must be told to make a difference.
            stated.append((adjective, told if other or rng.random() < 0.5 else None))
    if rng.random() < ABSENT_SHARE:
        stated += _absent(rng, shown)
    return Naming(_coloured(rng, shown, phrase(rng, shown.subject, stated)), tuple(belongs))


def true_name(rng: np.random.Generator, shown: Shown) -> str:
    """Name a thing with all its features.

    Raises:
        ValueError: If it was invented.
    """
    if shown.subject is None:
        msg = "What was invented for one picture has no name."
        raise ValueError(msg)
    stated = [(adjective, colour if rng.random() < 0.5 else None) for adjective, colour in shown.features]
    return _coloured(rng, shown, phrase(rng, shown.subject, stated))


def false_name(rng: np.random.Generator, shown: Shown) -> str:
    """Name a thing with one feature, its colour or its noun changed for one that is not there."""
    assert shown.subject is not None
    assert shown.colour is not None
    choice = rng.random()
    if choice < 0.4:
        stated = [(adjective, None) for adjective, _ in shown.features]
        # What is held out is never true in training, so it must not always be false there either.
        held_out = {colour for colour, subject in HELD_OUT_COMBINATIONS if subject == shown.subject}
        return f"{_other_colour(rng, shown.colour, held_out)} {phrase(rng, shown.subject, stated)}"
    if choice < 0.7 and shown.features:
        kept = list(shown.features)
        del kept[rng.integers(len(kept))]
        return _coloured(rng, shown, phrase(rng, shown.subject, [*((a, None) for a, _ in kept), *_absent(rng, shown)]))
    return _coloured(rng, shown, str(rng.choice(EVERYDAY_NOUNS)))


def phrase(rng: np.random.Generator, subject: str, stated: Sequence[tuple[str, str | None]]) -> str:
    """Put features into words, in any order: "dotted ribbed sheet", "ribbed sheet with red dots"; or "plain sheet"."""
    if not stated:
        return f"plain {subject}" if subject in _BASES and rng.random() < 0.4 else subject
    before, behind = [], []
    for number in rng.permutation(len(stated)):
        adjective, colour = stated[number]
        if colour is None and (len(stated) == 1 or rng.random() < 0.75):
            before.append(adjective)
        else:
            behind.append(f"{colour} {FEATURES[adjective].plural}" if colour else FEATURES[adjective].plural)
    words = " ".join([*before, subject])
    return f"{words} with {' and '.join(behind)}" if behind else words


def _coloured(rng: np.random.Generator, shown: Shown, words: str) -> str:
    return f"{shown.colour} {words}" if rng.random() < 0.5 else words


def _absent(rng: np.random.Generator, shown: Shown) -> list[tuple[str, str | None]]:
    if shown.subject not in _BASES:
        return []
    present = {adjective for adjective, _ in shown.features}
    others = [a for a in FEATURES if a not in present and (a, shown.subject) not in HELD_OUT_NAMES]
    return [(str(rng.choice(others)), None)]


def _other_colour(rng: np.random.Generator, colour: str | None, never: Collection[str] = ()) -> str:
    return str(rng.choice([other for other in PALETTE if other != colour and other not in never]))
