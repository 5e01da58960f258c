"""The categories of the drawn datasets."""

from collections.abc import Callable, Mapping

from drawn_anomalies.auxiliary_objects import AUXILIARY_OBJECTS
from drawn_anomalies.auxiliary_textures import AUXILIARY_TEXTURES
from drawn_anomalies.canvas import Canvas, Surface
from drawn_anomalies.kinds import Category, Subject
from drawn_anomalies.pairs.captions import MATERIALS, THINGS
from drawn_anomalies.pairs.palette import PALETTE
from drawn_anomalies.settings import DrawnSet
from drawn_anomalies.unseen_objects import UNSEEN_OBJECTS
from drawn_anomalies.unseen_textures import UNSEEN_TEXTURES

ON_EVERYTHING = ("scratch", "stain", "contamination", "discolouration", "hole", "cut", "dent", "chip")
"""Kinds of defects that materials and things can have."""


def _in_any_colour(subject: Subject) -> Callable[[Canvas], Surface]:
    colours = tuple(PALETTE.values())

    def draw(canvas: Canvas) -> Surface:
        return subject.draw(canvas, colours[canvas.rng.integers(len(colours))])

    return draw


def _categories(subjects: tuple[Subject, ...], last_kind: str) -> tuple[Category, ...]:
    # Each subject's defects start with another kind, so that a few pictures of many subjects show all kinds.
    kinds = (*ON_EVERYTHING, last_kind)
    turns = [(kinds * 2)[first : first + len(kinds)] for first in range(len(kinds))]
    return tuple(
        Category(subject.words.replace(" ", "_"), _in_any_colour(subject), turns[number % len(turns)])
        for number, subject in enumerate(subjects)
    )


AUXILIARY_SUBJECTS: tuple[Category, ...] = _categories(MATERIALS, "fold") + _categories(THINGS, "missing_part")
"""The subjects of the pre-training's pairs, each specimen in another colour."""

CATEGORIES: Mapping[DrawnSet, tuple[Category, ...]] = {
    DrawnSet.auxiliary: AUXILIARY_TEXTURES + AUXILIARY_OBJECTS + AUXILIARY_SUBJECTS,
    DrawnSet.unseen: UNSEEN_TEXTURES + UNSEEN_OBJECTS,
}
"""Every category of the sets in which the picture alone decides."""
