"""The captions of the pairs: subjects, words, and the captions that an evaluation compares."""

from collections.abc import Callable, Mapping

import numpy as np

from drawn_anomalies.canvas import Canvas, Colour, Surface
from drawn_anomalies.kinds import DEFECTS, HELD_OUT, Subject
from drawn_anomalies.pairs import assemblies, materials, things
from drawn_anomalies.pairs.nameless import NAMELESS
from drawn_anomalies.pairs.palette import PALETTE


def _subjects(*drawings: Callable[[Canvas, Colour], Surface]) -> tuple[Subject, ...]:
    return tuple(Subject(draw.__name__.replace("_", " "), draw) for draw in drawings)


MATERIALS: tuple[Subject, ...] = _subjects(
    materials.concrete,
    materials.sandpaper,
    materials.cardboard,
    materials.denim,
    materials.plastic,
    materials.rubber_mat,
    materials.striped_fabric,
    materials.checked_fabric,
    materials.dotted_fabric,
    materials.zigzag_pattern,
    materials.honeycomb,
    materials.foam,
    materials.carpet,
    materials.corrugated_sheet,
    materials.plaster,
    materials.cork,
    materials.parquet,
)
"""Subjects that fill a picture."""

THINGS: tuple[Subject, ...] = _subjects(
    things.ring,
    things.star,
    things.cross,
    assemblies.cup,
    things.ball,
    things.cube,
    things.plate,
    assemblies.bottle,
    things.screw_head,
    things.coin,
    things.arrow,
    things.heart,
    things.triangle,
    assemblies.bolt,
    things.tube,
    assemblies.spool,
    things.nut,
    things.domino,
    things.dice,
    assemblies.comb,
    assemblies.wheel,
    assemblies.flower,
)
"""Subjects that lie on a background."""

SUBJECTS: tuple[Subject, ...] = MATERIALS + THINGS
"""All subjects: materials first, then things."""

HELD_OUT_COMBINATIONS: frozenset[tuple[str, str]] = frozenset(
    (colour, subject.words)
    for row, subject in enumerate(SUBJECTS)
    for column, colour in enumerate(PALETTE)
    if (column + 3 * row) % 10 == 0
)
"""A tenth of all combinations of colour and subject, spread evenly; they are kept out of training."""

KINDS: tuple[str, ...] = tuple(kind for kind in DEFECTS if kind not in HELD_OUT)
"""The kinds of defects that pairs show."""

TEMPLATES = (
    "{}",
    "a {}",
    "a photo of a {}",
    "a photo of a {}.",
    "a photo of the {}",
    "a photo of the {}.",
    "a photo of one {}",
    "a photo of my {}.",
    "a picture of a {}",
    "a close-up photo of a {}",
    "a close-up photo of the {}.",
    "a cropped photo of a {}",
    "a cropped photo of the {}.",
    "a bright photo of a {}",
    "a dark photo of the {}",
    "a blurry photo of a {}",
    "a good photo of a {}.",
    "a bad photo of the {}.",
    "a low resolution photo of a {}.",
    "a jpeg corrupted photo of the {}",
    "a photo of a {} for visual inspection",
    "there is a {} in the scene.",
)
"""CLIP-style templates around a phrase."""

WHOLE_PHRASES = (
    "normal {}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "intact {}",
    "{} without defect",
    "{} without flaw",
    "{} without damage",
)
"""Phrases for a subject without a defect."""

FLAWED_PHRASES = (
    "defective {}",
    "damaged {}",
    "broken {}",
    "abnormal {}",
    "{} with defect",
    "{} with flaw",
    "{} with damage",
)
"""Phrases for a subject with any kind of defect."""

KIND_PHRASES: Mapping[str, tuple[str, ...]] = {
    "scratch": ("scratched {}", "{} with a scratch"),
    "stain": ("stained {}", "{} with a stain"),
    "contamination": ("contaminated {}", "dirty {}"),
    "discolouration": ("discoloured {}", "{} with discolouration"),
    "hole": ("punctured {}", "{} with a hole"),
    "cut": ("torn {}", "{} with a cut"),
    "dent": ("dented {}", "{} with a dent"),
    "missing_part": ("incomplete {}", "{} with a missing part"),
    "chip": ("chipped {}", "{} with chips"),
    "fold": ("creased {}", "{} with a fold"),
}
"""Phrases for one kind of defect."""

NEUTRAL_NOUNS = ("object", "thing", "item", "surface", "product", "sample", "part", "piece", "material", "texture")
"""Nouns that fit any subject."""

_EVERYDAY = """
apple pear banana lemon cherry grape melon tomato potato carrot onion pepper mushroom egg bread cake cheese
sandwich pizza pasta chocolate candy almond peanut walnut hazelnut cashew coconut pumpkin cucumber
table chair bench sofa shelf drawer cabinet door window curtain mirror lamp candle clock vase basket bucket
broom mop sponge towel pillow blanket mattress hammer pliers wrench drill saw shovel rake axe knife fork spoon
pan pot kettle toaster fridge oven jar tin box bag suitcase backpack wallet purse umbrella hat cap scarf glove
sock shoe boot shirt jacket belt zipper watch necklace bracelet earring glasses
phone keyboard mouse screen printer camera speaker radio cable plug socket battery switch transistor
resistor circuit antenna charger engine pump valve piston spring bearing pulley chain hook rope ladder fence
gate bridge tower house roof tile pipe hose car truck bus train boat plane bicycle scooter tyre
pencil pen eraser ruler notebook book envelope stamp card poster newspaper scissors stapler brush toothbrush
razor soap shampoo pill tablet syringe bandage
guitar piano drum violin trumpet flute kite doll puzzle racket
leaf tree branch root stone pebble shell feather
lung brain liver kidney skin colon eye bone
"""

EVERYDAY_NOUNS = tuple(_EVERYDAY.split())
"""Names of things that are hardly ever shown; with one of these, only the condition in a caption is true."""

PLAIN_SHARE = 0.3
"""Share of the captions that say nothing about the condition."""

KIND_SHARE = 0.4
"""Share of the phrases about a defect that name its kind."""


def draw_frame(rng: np.random.Generator, defect: str | None) -> tuple[str, str | None]:
    """Choose one of the many captions of a picture, with a placeholder for the name of what it shows.

    Args:
        defect: The kind of defect, named or not; ``None`` for a whole subject.

    Returns:
        The caption, and one that differs only in saying the opposite of the condition; ``None`` if it says nothing.
    """
    template = _one_of(rng, TEMPLATES)
    if rng.random() < PLAIN_SHARE:
        return template, None
    opposite = _one_of(rng, FLAWED_PHRASES if defect is None else WHOLE_PHRASES)
    return template.format(_condition(rng, defect)), template.format(opposite)


def condition_caption(rng: np.random.Generator, words: str, *, flawed: bool) -> str:
    """Describe something as flawed or as whole, in one of many ways."""
    return _one_of(rng, TEMPLATES).format(_one_of(rng, FLAWED_PHRASES if flawed else WHOLE_PHRASES).format(words))


def plain_caption(subject: str, colour: str) -> str:
    """Return a caption of colour and subject, for evaluation.

    >>> plain_caption("cup", "red")
    'a photo of a red cup'
    """
    return f"a photo of a {colour} {subject}"


def condition_captions(subject: str) -> tuple[str, str]:
    """Return captions of a whole and of a flawed subject, for evaluation.

    >>> condition_captions("cup")
    ('a photo of a normal cup', 'a photo of a defective cup')
    """
    return f"a photo of a normal {subject}", f"a photo of a defective {subject}"


def _condition(rng: np.random.Generator, defect: str | None) -> str:
    if defect is None:
        return _one_of(rng, WHOLE_PHRASES)
    names_kind = rng.random() < KIND_SHARE and defect not in NAMELESS
    return _one_of(rng, KIND_PHRASES[defect] if names_kind else FLAWED_PHRASES)


def _one_of(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]
