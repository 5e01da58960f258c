"""The plain categories of the auxiliary set: what the pre-training's pairs show, each specimen in another colour."""

from collections.abc import Callable

from drawn_anomalies.canvas import Canvas, Surface
from drawn_anomalies.catalogue_entry import Category
from drawn_anomalies.pairs.captions import MATERIALS, THINGS, Subject
from drawn_anomalies.pairs.palette import PALETTE

ON_EVERYTHING = ("scratch", "stain", "contamination", "discolouration", "hole", "cut", "dent", "chip")
"""Kinds of defects that a material and a thing can have."""


def in_any_colour(subject: Subject) -> Callable[[Canvas], Surface]:
    """Return what draws a subject in a colour of the palette.

    Args:
        subject: Of the pairs.

    Returns:
        A drawing of one specimen; its canvas chooses the colour.
    """
    colours = tuple(PALETTE.values())

    def draw(canvas: Canvas) -> Surface:
        return subject.draw(canvas, colours[canvas.rng.integers(len(colours))])

    return draw


def _categories(subjects: tuple[Subject, ...], last_kind: str) -> tuple[Category, ...]:
    """Begin each subject's defects with another kind, so that few pictures of many subjects show all kinds."""
    kinds = (*ON_EVERYTHING, last_kind)
    turns = [(kinds * 2)[first : first + len(kinds)] for first in range(len(kinds))]
    return tuple(
        Category(subject.words.replace(" ", "_"), in_any_colour(subject), turns[number % len(turns)])
        for number, subject in enumerate(subjects)
    )


AUXILIARY_SUBJECTS: tuple[Category, ...] = _categories(MATERIALS, "fold") + _categories(THINGS, "missing_part")
"""The materials and things of the pairs."""
