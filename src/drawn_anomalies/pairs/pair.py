"""Pictures with what is known of them, and masks of defect and features: the data that pocket is pre-trained on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from drawn_anomalies.canvas import Canvas, Plane, Surface
from drawn_anomalies.features import BASES, FEATURES, HELD_OUT_NAMES
from drawn_anomalies.flaw import Defect, Visible, photographed
from drawn_anomalies.kinds import DEFECTS, Subject
from drawn_anomalies.pairs.captions import HELD_OUT_COMBINATIONS, KINDS, SUBJECTS
from drawn_anomalies.pairs.invented import invented_material, invented_thing
from drawn_anomalies.pairs.nameless import NAMELESS
from drawn_anomalies.pairs.palette import PALETTE
from drawn_anomalies.pairs.snapshot import snapshot

FEATURED_SHARE, SUBJECT_SHARE = 0.3, 0.1
"""Shares of the pictures of a plain thing with features, and of a subject with a name of its own; the others show
something invented for that picture."""

MOST_FEATURES = 3
"""Largest number of features of a picture."""

FLAWED_SHARE = 0.5
"""Share of the pictures that have a defect."""

MATERIAL_SHARE = 0.5
"""Share of materials among the invented subjects."""

DESIGNED_SHARE = 0.15
"""Share of the invented subjects with one of the features of plain things, as part of their design."""

NAMELESS_SHARE = 0.55
"""Share of the defects without a name."""

FINER = (1.05, 1.6)
"""Range of the factor by which a picture is drawn larger and then scaled down, so that some are sharp and some soft."""

LARGEST_SCALE, CLEAREST = 1.7, 0.3
"""Largest scale and least contrast of a defect."""

SMALLEST_SCALE, FAINTEST = 128, 12.8
"""Smallest ones, times the side of the picture in pixels: 0.8 and 0.08 at 160 px, half of that at 320 px. Anything
smaller cannot be seen. Small and faint defects are as likely as large and clear ones."""

DRAWN: Mapping[str, Defect] = {**DEFECTS, **NAMELESS}
"""Every kind of defect, named or not."""


@dataclass(frozen=True)
class Shown:
    """What is known of a picture.

    Attributes:
        subject: What it shows, in words; ``None`` if it was invented.
        colour: In which colour of the palette, likewise.
        features: Adjective and, where it has one of the palette, colour of each feature on it.
        defect: Which kind of defect it has; ``None`` where it is whole.
    """

    subject: str | None
    colour: str | None
    features: tuple[tuple[str, str | None], ...]
    defect: str | None


@dataclass(frozen=True)
class Pair:
    """A picture and what is known of it.

    Attributes:
        masks: Share of each pixel that the defect covers, then that each feature covers and no later one.
    """

    picture: UInt8[ndarray, "height width 3"]
    masks: tuple[Plane, ...]
    shown: Shown


def draw_pair(rng: np.random.Generator, size: tuple[int, int]) -> Pair:
    """Draw a picture of a plain thing with features, of a named subject, or of something invented."""
    choice = rng.random()
    if choice < FEATURED_SHARE:
        return draw_featured(rng, size)
    return draw_named(rng, size) if choice < FEATURED_SHARE + SUBJECT_SHARE else _draw_invented(rng, size)


def draw_featured(rng: np.random.Generator, size: tuple[int, int], held_out: bool = False) -> Pair:
    """Draw a plain thing with up to three features.

    Args:
        held_out: Draw two features, where there is room, whose names in front of the thing's are kept from training.
    """
    base, adjectives = _name(rng, held_out)
    colour = _colour(rng)
    canvas = _canvas(rng, size)
    surface = base.draw(canvas, PALETTE[colour])
    masks: list[Plane] = []
    features = []
    for adjective in adjectives:
        feature = FEATURES[adjective]
        tint = _colour(rng) if feature.tinted and rng.random() < 0.6 else None
        if tint is not None and np.abs(np.subtract(PALETTE[tint], PALETTE[colour])).max() < 0.3:
            tint = None
        surface, coverage = feature.draw(canvas, surface, None if tint is None else PALETTE[tint])
        if coverage.max() < 0.5:
            continue  # there was no room left
        masks = [mask * (1 - coverage) for mask in masks] + [coverage]
        features.append((adjective, tint))
    return _photographed(canvas, surface, _defect(rng), size, masks, (base.words, colour, tuple(features)))


def draw_named(rng: np.random.Generator, size: tuple[int, int], held_out: bool = False) -> Pair:
    """Draw a picture of a named subject.

    Args:
        held_out: Draw only the combinations of colour and subject that are kept from training.
    """
    subject, colour = _combination(rng, held_out)
    canvas = _canvas(rng, size)
    surface = subject.draw(canvas, PALETTE[colour])
    return _photographed(canvas, surface, _defect(rng), size, [], (subject.words, colour, ()))


def _draw_invented(rng: np.random.Generator, size: tuple[int, int]) -> Pair:
    canvas = _canvas(rng, size)
    surface = invented_material(canvas) if rng.random() < MATERIAL_SHARE else invented_thing(canvas)
    if rng.random() < DESIGNED_SHARE:
        surface, _ = FEATURES[rng.choice(list(FEATURES))].draw(canvas, surface, None)
    return _photographed(canvas, surface, _defect(rng), size, [], (None, None, ()))


def _canvas(rng: np.random.Generator, size: tuple[int, int]) -> Canvas:
    finer = rng.uniform(*FINER)
    return Canvas((round(size[0] * finer), round(size[1] * finer)), rng)


def _photographed(
    canvas: Canvas,
    surface: Surface,
    defect: str | None,
    size: tuple[int, int],
    features: list[Plane],
    known: tuple[str | None, str | None, tuple[tuple[str, str | None], ...]],
) -> Pair:
    rng = canvas.rng
    side = min(size)
    ranges = ((min(SMALLEST_SCALE / side, LARGEST_SCALE), LARGEST_SCALE), (min(FAINTEST / side, CLEAREST), CLEAREST))
    scale, contrast = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in ranges)
    least = Visible(scale, contrast, 0.003 * scale**2)
    picture, mask = photographed(canvas, surface, None if defect is None else DRAWN[defect], least)
    covered = np.zeros(canvas.size, np.float32) if mask is None else mask.astype(np.float32)
    named = known[0] is not None
    picture, (covered, *features) = snapshot(rng, picture, (covered, *features), size, keeps_colours=named)
    # A crop may have lost the defect or a feature, and a later feature may hide an earlier one.
    if covered.max() < 0.5:
        covered, defect = np.zeros_like(covered), None
    subject, colour, carried = known
    visible = [number for number, mask in enumerate(features) if mask.max() >= 0.5]
    masks = (covered, *(features[number] for number in visible))
    return Pair(picture, masks, Shown(subject, colour, tuple(carried[number] for number in visible), defect))


def _colour(rng: np.random.Generator) -> str:
    return list(PALETTE)[rng.integers(len(PALETTE))]


def _name(rng: np.random.Generator, held_out: bool) -> tuple[Subject, list[str]]:
    base = BASES[rng.integers(len(BASES))]
    allowed = [adjective for adjective in FEATURES if ((adjective, base.words) in HELD_OUT_NAMES) == held_out]
    count = 2 if held_out else int(rng.choice(MOST_FEATURES + 1, p=(0.15, 0.3, 0.35, 0.2)))
    return base, [str(adjective) for adjective in rng.permutation(allowed)[:count]]


def _combination(rng: np.random.Generator, held_out: bool) -> tuple[Subject, str]:
    """Draw until the combination is held out, or is not, as requested; a held-out one takes about ten draws."""
    while True:
        subject, colour = SUBJECTS[rng.integers(len(SUBJECTS))], _colour(rng)
        if ((colour, subject.words) in HELD_OUT_COMBINATIONS) == held_out:
            return subject, colour


def _defect(rng: np.random.Generator) -> str | None:
    if rng.random() >= FLAWED_SHARE:
        return None
    kinds = tuple(NAMELESS) if rng.random() < NAMELESS_SHARE else KINDS
    return kinds[rng.integers(len(kinds))]
