"""Categories that only differ in what their name calls for.

They come in pairs of one noun with two features: a dotted sheet and a striped one. Most pictures are shown under both
names, and what one name calls for is a flaw under the other.
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from drawn_anomalies.canvas import Canvas, Colour, Plane, Region, Surface
from drawn_anomalies.features import BASES, FEATURES, HELD_OUT_NAMES, Feature
from drawn_anomalies.flaw import Visible, photographed
from drawn_anomalies.kinds import DEFECTS, GOOD, Subject
from drawn_anomalies.pairs.palette import PALETTE
from drawn_anomalies.settings import DrawnSet, DrawnSettings

INSTEAD = "instead"
"""The kind of flaw of a picture that shows the partner's feature instead of its own."""

TOO = "too"
"""The kind of flaw of a picture that shows both features."""

REAL_DEFECTS = ("scratch", "stain", "contamination", "discolouration", "hole", "cut", "dent", "chip")
"""The kinds of real defects, on pictures with the right feature."""

ALIKE: Mapping[str, tuple[str, ...]] = {
    "perforated": ("hole", "cut"),
    "slotted": ("hole", "cut"),
    "notched": ("hole", "chip"),
    "speckled": ("contamination", "chip"),
    "dotted": ("stain", "contamination"),
    "grooved": ("scratch", "cut"),
    "crosshatched": ("scratch", "cut"),
}
"""Real defects that could be taken for a feature of the pair."""

EDGES = ("notched", "bordered")
"""Features that follow the edge of the body, so they are drawn first."""

INKS = ("red", "blue", "green", "yellow", "black", "white")
"""Colours that tell the features of a pair apart."""

LEAST_SHOWN, TRIES = 0.003, 8
"""Smallest share of the picture that each of two features shows, and how often they are drawn for it."""


@dataclass(frozen=True)
class Look:
    """What a name calls for.

    Attributes:
        words: The name: "dotted sheet", "sheet with red dots", "plain sheet".
        feature: What the base carries; ``None`` for a plain one.
        ink: The feature's colour in the palette; ``None`` for any.
    """

    words: str
    feature: Feature | None
    ink: str | None = None

    @property
    def colour(self) -> Colour | None:
        """The feature's colour."""
        return None if self.ink is None else PALETTE[self.ink]


@dataclass(frozen=True)
class NamePair:
    """A noun with two looks."""

    base: Subject
    looks: tuple[Look, Look]

    @property
    def defects(self) -> tuple[str, ...]:
        """The kinds of real defects that cannot be taken for one of the features."""
        alike = {kind for look in self.looks if look.feature for kind in ALIKE.get(look.feature.adjective, ())}
        return tuple(kind for kind in REAL_DEFECTS if kind not in alike)

    @cached_property
    def _colours(self) -> tuple[Colour, ...]:
        inks = [look.colour for look in self.looks if look.colour is not None]
        return tuple(
            colour
            for colour in PALETTE.values()
            if all(abs(np.mean(colour) - np.mean(ink)) > 0.12 and _apart(colour, ink) for ink in inks)
        )

    def drawn(self, canvas: Canvas, shown: tuple[int, ...]) -> tuple[Surface, dict[int, Region]]:
        """Draw the base with the features of one or both looks.

        Returns:
            The surface, and where each look's feature is visible: nowhere for a plain one.
        """
        colour = self._colours[canvas.rng.integers(len(self._colours))]
        whole = self.base.draw(canvas, colour)
        featured = [look for look in shown if self.looks[look].feature is not None]
        visible = {look: np.zeros(canvas.size, dtype=bool) for look in shown}
        if len(featured) < 2:
            surface = whole
            for look in featured:
                surface, coverage = self._carrying(canvas, whole, look)
                visible[look] = coverage > 0.5
            return surface, visible
        order = canvas.rng.permutation(featured).tolist()
        order.sort(key=self._place_in_order)
        best, most = None, -1.0
        for _ in range(TRIES):
            surface, regions = self._with_both(canvas, whole, order[0], order[1])
            least = min(float(region.mean()) for region in regions.values())
            if least > most:
                best, most = (surface, regions), least
            if least >= LEAST_SHOWN:
                break
        assert best is not None
        return best

    def _place_in_order(self, look: int) -> int:
        feature = self.looks[look].feature
        return EDGES.index(feature.adjective) if feature is not None and feature.adjective in EDGES else len(EDGES)

    def _carrying(self, canvas: Canvas, surface: Surface, look: int) -> tuple[Surface, Plane]:
        feature = self.looks[look].feature
        assert feature is not None
        return feature.draw(canvas, surface, self.looks[look].colour)

    def _with_both(self, canvas: Canvas, whole: Surface, below: int, above: int) -> tuple[Surface, dict[int, Region]]:
        first, covered = self._carrying(canvas, whole, below)
        # The second feature keeps clear of the first where enough of the body is left.
        reach = 2 * round(0.05 / canvas.pixel) + 1
        near = cv2.dilate((covered > 0.05).astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
        free = first.body & ~near
        if free.sum() < 0.5 * whole.body.sum():
            free = first.body
        second, covering = self._carrying(canvas, replace(first, body=free), above)
        body = first.body & ~(free & ~second.body)  # without what the second feature opened
        regions = {below: covered * (1 - covering) > 0.5, above: covering > 0.5}
        return replace(second, body=body), regions


@dataclass(frozen=True)
class NamedCategory:
    """One name of a pair, with pictures that it shares with the other.

    Attributes:
        side: Which of the pair's looks it calls for: 0 or 1.
    """

    pair: NamePair
    side: int

    @property
    def words(self) -> str:
        """Its name in words."""
        return self.pair.looks[self.side].words

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.words.replace(" ", "_")

    @property
    def partner(self) -> "NamedCategory":
        """The other name of the pair."""
        return NamedCategory(self.pair, 1 - self.side)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its test pictures."""
        both = () if self._is_of_a_plain_pair else (TOO,)
        return (GOOD, INSTEAD, *both, *self.pair.defects)

    @property
    def _is_of_a_plain_pair(self) -> bool:
        return any(look.feature is None for look in self.pair.looks)

    def listed(self, num_images: int) -> Iterator[tuple[str, int]]:
        """Yield kind and index of each test picture.

        A third is good under this name, and as many are good under the partner's. The rest shows both features or a
        real defect, about half and half; a pair with a plain look has only defects.
        """
        shared = -(-num_images // 3)
        rest = num_images - 2 * shared
        both = 0 if self._is_of_a_plain_pair else rest // 2
        for kind, number in ((GOOD, shared), (INSTEAD, shared), (TOO, both)):
            yield from ((kind, index) for index in range(number))
        # Each pair starts with another kind of defect, so that a few pictures of many pairs show all kinds.
        kinds, first = self.pair.defects, zlib.crc32(self.pair.looks[0].words.encode())
        for number in range(rest - both):
            yield kinds[(first + number) % len(kinds)], number // len(kinds)

    def picture(
        self, settings: DrawnSettings, split: str, kind: str, index: int
    ) -> tuple[UInt8[ndarray, "height width 3"], Region | None]:
        """Draw one picture; the partner draws the same one under another kind.

        Where a feature is missing, the whole body is the flaw.
        """
        own, other = self.side, 1 - self.side
        shown: tuple[int, ...] = {INSTEAD: (other,), TOO: (0, 1)}.get(kind, (own,))
        defect = DEFECTS[kind] if kind in self.pair.defects else None
        role = "+".join(self.pair.looks[look].words for look in shown) + ("" if defect is None else f"/{kind}")
        seed = zlib.crc32(f"{'|'.join(look.words for look in self.pair.looks)}/{split}/{role}".encode())
        canvas = Canvas((settings.size, settings.size), np.random.default_rng((settings.seed, seed, index)))
        surface, regions = self.pair.drawn(canvas, shown)
        visible = Visible(settings.defect_scale, settings.least_contrast, settings.least_area)
        image, mask = photographed(canvas, surface, defect, visible)
        if kind in (INSTEAD, TOO):
            mask = regions[other] if self.pair.looks[other].feature is not None else surface.body
        return image, mask


def _apart(colour: Colour, other: Colour) -> bool:
    return float(np.abs(np.subtract(colour, other)).max()) > 0.35


def _pairs(*, held_out: bool) -> tuple[NamePair, ...]:
    """Pair the names of each noun: two features, a feature and none, two colours of a feature.

    Only the names that are kept out of training, or only the others. No name is in two pairs.
    """
    pairs = []
    for row, base in enumerate(BASES):
        names = [name for name in FEATURES if ((name, base.words) in HELD_OUT_NAMES) == held_out]
        names = [names[n] for n in np.random.default_rng(row).permutation(len(names))]
        looks = [Look(f"{name} {base.words}", FEATURES[name]) for name in names]
        number = 2 if held_out else 6
        pairs += [NamePair(base, (looks[2 * n], looks[2 * n + 1])) for n in range(number)]
        if len(looks) > 2 * number:
            plain = Look(base.words if (row % 2 == 1) == held_out else f"plain {base.words}", None)
            pairs.append(NamePair(base, (plain, looks[2 * number])))
        if not held_out or row % 3 == 0:
            feature = next(FEATURES[name] for name in names if FEATURES[name].tinted)
            inks = [INKS[row % len(INKS)], INKS[(row + 1 + row // len(INKS)) % len(INKS)]]
            first, second = (Look(f"{base.words} with {ink} {feature.plural}", feature, ink) for ink in inks)
            pairs.append(NamePair(base, (first, second)))
    return tuple(pairs)


NAMED_CATEGORIES: Mapping[DrawnSet, tuple[NamedCategory, ...]] = {
    drawn_set: tuple(NamedCategory(pair, side) for pair in _pairs(held_out=held_out) for side in (0, 1))
    for drawn_set, held_out in ((DrawnSet.names, False), (DrawnSet.names_unseen, True))
}
"""The categories of the sets in which the name decides; partners follow each other."""
