"""The kinds of defects by name, and what is known about a category."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from drawn_anomalies import damage, marks
from drawn_anomalies.canvas import Canvas, Colour, Region, Surface
from drawn_anomalies.flaw import Defect, Visible, photographed
from drawn_anomalies.settings import DrawnSettings

GOOD = "good"
"""The kind of a picture without a defect."""

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


@runtime_checkable
class Drawable(Protocol):
    """A category of pictures that can be drawn one by one."""

    @property
    def name(self) -> str:
        """Its folder's name, words joined by underscores."""
        ...

    def listed(self, num_images: int) -> Iterator[tuple[str, int]]:
        """Yield kind and index of each test picture."""
        ...

    def picture(
        self, settings: DrawnSettings, split: str, kind: str, index: int
    ) -> tuple[UInt8[ndarray, "height width 3"], Region | None]:
        """Draw one picture; return RGB and the mask of its defect, if it has one."""
        ...


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

    def listed(self, num_images: int) -> Iterator[tuple[str, int]]:
        """Yield kind and index of each test picture: half of them good, the others spread over the defects."""
        anomalous = num_images // 2
        yield from ((GOOD, index) for index in range(num_images - anomalous))
        for i in range(anomalous):
            yield self.defects[i % len(self.defects)], i // len(self.defects)

    def picture(
        self, settings: DrawnSettings, split: str, kind: str, index: int
    ) -> tuple[UInt8[ndarray, "height width 3"], Region | None]:
        """Draw one picture, independently of all others; return RGB and the mask of its defect, if it has one."""
        seed = zlib.crc32(f"{self.name}/{split}/{kind}".encode())
        canvas = Canvas((settings.size, settings.size), np.random.default_rng((settings.seed, seed, index)))
        visible = Visible(settings.defect_scale, settings.least_contrast, settings.least_area)
        return photographed(canvas, self.draw(canvas), None if kind == GOOD else DEFECTS[kind], visible)


@dataclass(frozen=True)
class Subject:
    """Something that can be shown in any colour."""

    words: str
    draw: Callable[[Canvas, Colour], Surface]
