"""The kinds of defects by name, and what is known about a category."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from drawn_anomalies import damage, marks
from drawn_anomalies.canvas import Canvas, Colour, Surface
from drawn_anomalies.flaw import Defect

DEFECTS: Mapping[str, Defect] = {
    "scratch": marks.scratch,
    "stain": marks.stain,
    "contamination": marks.contamination,
    "discolouration": marks.discolouration,
    "fibre": marks.fibre,
    "misprint": marks.misprint,
    "hole": damage.hole,
    "cut": damage.cut,
    "dent": damage.dent,
    "missing_part": damage.missing_part,
    "crack": damage.crack,
    "warp": damage.warp,
    "corrosion": damage.corrosion,
    "chip": damage.chip,
    "fold": damage.fold,
}
"""Every kind of defect that can be drawn."""

HELD_OUT = ("crack", "fibre", "misprint", "warp", "corrosion")
"""Kinds of the unseen set only: neither the auxiliary set nor the pre-training draws them."""


@dataclass(frozen=True)
class Category:
    """A kind of object or texture that can be drawn.

    Attributes:
        name: Its folder's name, words joined by underscores.
        draw: Draws one specimen without a defect.
        defects: The kinds of defects it can have, by their names in ``DEFECTS``.
    """

    name: str
    draw: Callable[[Canvas], Surface]
    defects: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """Something that can be shown in any colour."""

    words: str
    draw: Callable[[Canvas, Colour], Surface]
