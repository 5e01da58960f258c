"""Pairs of a picture and a caption, with the mask of the defect: the data that pocket is pre-trained on."""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from drawn_anomalies.canvas import Canvas, Plane, Surface
from drawn_anomalies.flaw import Defect, Visible, photographed
from drawn_anomalies.kinds import DEFECTS, Subject
from drawn_anomalies.pairs.captions import (
    HELD_OUT_COMBINATIONS,
    KINDS,
    NEUTRAL_NOUNS,
    SUBJECTS,
    condition_caption,
    draw_caption,
)
from drawn_anomalies.pairs.invented import invented_material, invented_thing
from drawn_anomalies.pairs.nameless import NAMELESS
from drawn_anomalies.pairs.palette import PALETTE

FLAWED_SHARE = 0.5
"""Share of the pairs that have a defect."""

NAMED_SHARE = 0.4
"""Share of the pairs with a named subject; the others show something invented for that picture."""

MATERIAL_SHARE = 0.5
"""Share of materials among the invented subjects."""

NAMELESS_SHARE = 0.5
"""Share of the defects without a name."""

FINER = (1.2, 1.8)
"""Range of the factor by which a picture is drawn larger and then scaled down, so that some are sharp and some soft."""

SCALES, LEAST_CONTRASTS, LEAST_AREAS = (0.9, 1.7), (0.05, 0.3), (0.003, 0.012)
"""Ranges of the requirements on a defect, so that some are faint and some clear, some small and some large."""


DRAWN: Mapping[str, Defect] = {**DEFECTS, **NAMELESS}
"""Every kind of defect, named or not."""


@dataclass(frozen=True)
class Pair:
    """A picture and its caption.

    Attributes:
        mask: Share of each pixel that the defect covers.
        caption: One of many ways to describe it.
        subject: What it shows, in words; a noun that fits everything if it was invented.
        colour: In which colour of the palette; none if it was invented.
        defect: Which kind of defect it has; none where it is whole.
    """

    picture: UInt8[ndarray, "height width 3"]
    mask: Plane
    caption: str
    subject: str
    colour: str | None
    defect: str | None


def draw_pair(rng: np.random.Generator, size: tuple[int, int]) -> Pair:
    """Draw a picture of a named subject, or of something invented, with its caption."""
    return draw_named(rng, size) if rng.random() < NAMED_SHARE else draw_invented(rng, size)


def draw_named(rng: np.random.Generator, size: tuple[int, int], held_out: bool = False) -> Pair:
    """Draw a picture of a named subject with its caption.

    Args:
        held_out: Draw only the combinations of colour and subject that are kept from training.
    """
    subject, colour = _combination(rng, held_out)
    defect = _defect(rng)
    canvas = _canvas(rng, size)
    picture, mask = _photographed(canvas, subject.draw(canvas, PALETTE[colour]), defect, size)
    return Pair(picture, mask, draw_caption(rng, subject.words, colour, defect), subject.words, colour, defect)


def draw_invented(rng: np.random.Generator, size: tuple[int, int]) -> Pair:
    """Draw a picture of something without a name; its caption only describes the condition."""
    noun = str(rng.choice(NEUTRAL_NOUNS))
    defect = _defect(rng)
    canvas = _canvas(rng, size)
    surface = invented_material(canvas) if rng.random() < MATERIAL_SHARE else invented_thing(canvas)
    picture, mask = _photographed(canvas, surface, defect, size)
    return Pair(picture, mask, condition_caption(rng, noun, flawed=defect is not None), noun, None, defect)


def _canvas(rng: np.random.Generator, size: tuple[int, int]) -> Canvas:
    finer = rng.uniform(*FINER)
    return Canvas((round(size[0] * finer), round(size[1] * finer)), rng)


def _photographed(
    canvas: Canvas, surface: Surface, defect: str | None, size: tuple[int, int]
) -> tuple[UInt8[ndarray, "height width 3"], Plane]:
    rng = canvas.rng
    least = Visible(rng.uniform(*SCALES), rng.uniform(*LEAST_CONTRASTS), rng.uniform(*LEAST_AREAS))
    picture, mask = photographed(canvas, surface, None if defect is None else DRAWN[defect], least)
    covered = np.zeros(canvas.size, np.float32) if mask is None else mask.astype(np.float32)
    return _scaled(picture, size), _scaled(covered, size)


def _scaled(plane: ndarray, size: tuple[int, int]) -> ndarray:
    return cv2.resize(plane, (size[1], size[0]), interpolation=cv2.INTER_AREA)


def _combination(rng: np.random.Generator, held_out: bool) -> tuple[Subject, str]:
    """Draw until the combination is held out, or is not, as requested; a held-out one takes about ten draws."""
    colours = tuple(PALETTE)
    while True:
        subject, colour = SUBJECTS[rng.integers(len(SUBJECTS))], colours[rng.integers(len(colours))]
        if ((colour, subject.words) in HELD_OUT_COMBINATIONS) == held_out:
            return subject, colour


def _defect(rng: np.random.Generator) -> str | None:
    if rng.random() >= FLAWED_SHARE:
        return None
    kinds = tuple(NAMELESS) if rng.random() < NAMELESS_SHARE else KINDS
    return kinds[rng.integers(len(kinds))]
