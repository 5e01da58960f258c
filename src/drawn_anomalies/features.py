"""Features that belong to a surface under one name and are a flaw under another.

Dots are the pattern of a dotted sheet and a fault on a striped one. Each feature covers the whole body in a regular
pattern, or is a single element or a few in one place.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np

from drawn_anomalies.canvas import Canvas, Colour, Plane, Region, Surface, box, cells, disc, flat
from drawn_anomalies.flaw import Flaw, on_body, replaced, showing, spot
from drawn_anomalies.kinds import Subject
from drawn_anomalies.pairs import plain
from drawn_anomalies.pairs.materials import folded

TAU = 2 * np.pi

WHOLE_SHARE = 0.5
"""Share of the features that cover the whole body; the others are in one place."""

LEAST_AREA, LEAST_CONTRAST, TRIES = 0.006, 0.15, 8
"""Share of the picture, and mean difference to the surface below, that a feature is drawn again for, this often."""


@dataclass(frozen=True)
class Feature:
    """Something that a surface can carry.

    Attributes:
        adjective: What it makes of the noun: "dotted" of "a dotted sheet".
        plural: "dots" of "a sheet with red dots".
        draw: Draws it on a surface, in a given colour or in one that is visible there, and returns its coverage.
            The backdrop shows through openings, so they are no longer part of the body.
        tinted: Whether it takes the given colour; openings do not.
    """

    adjective: str
    plural: str
    draw: Callable[[Canvas, Surface, Colour | None], Flaw]
    tinted: bool = True


Painter = Callable[[Canvas, Surface, Colour | None], Flaw]

Mark = Callable[[Plane, Plane], Plane]
"""Signed distance to an element around the origin."""


def dots(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Print round dots."""
    radius = canvas.rng.uniform(0.05, 0.13)
    return _inked(canvas, surface, _marks(canvas, surface, radius, lambda x, y: disc(x, y, radius)), colour)


def circles(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Print the outlines of circles."""
    radius, half = canvas.rng.uniform(0.1, 0.18), canvas.rng.uniform(0.02, 0.035)
    coverage = _marks(canvas, surface, radius, lambda x, y: np.abs(disc(x, y, radius - half)) - np.float32(half))
    return _inked(canvas, surface, coverage, colour)


def stars(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Print stars."""
    radius, tips = canvas.rng.uniform(0.09, 0.17), int(canvas.rng.integers(4, 7))
    return _inked(canvas, surface, _marks(canvas, surface, radius, lambda x, y: _star(x, y, radius, tips)), colour)


def specks(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Sprinkle small specks of different sizes."""
    rng = canvas.rng
    away, _, value = cells(canvas, rng.uniform(0.08, 0.14))
    rough = away + np.float32(0.012) * canvas.noise(0.04)
    coverage = canvas.fill(rough - np.float32(rng.uniform(0.03, 0.045)) * (value * np.float32(0.8) + np.float32(0.3)))
    if rng.random() >= WHOLE_SHARE:
        x, y = canvas.turned(rng.uniform(0, np.pi), spot(canvas, surface.body, 0.3))
        coverage = coverage * (disc(x, y * np.float32(rng.uniform(1, 2)), rng.uniform(0.25, 0.4)) < 0)
    return _inked(canvas, surface, coverage, colour, 0.3)


def stripes(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Print straight stripes."""
    half = canvas.rng.uniform(0.03, 0.07)
    return _inked(canvas, surface, _lines(canvas, surface, half), colour)


def waves(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Print wavy lines."""
    length, height = canvas.rng.uniform(0.3, 0.5), canvas.rng.uniform(0.06, 0.1)
    coverage = _lines(
        canvas, surface, canvas.rng.uniform(0.025, 0.045), lambda x: height * np.sin(x * np.float32(TAU / length))
    )
    return _inked(canvas, surface, coverage, colour)


def zigzags(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Print zigzag lines."""
    length = canvas.rng.uniform(0.2, 0.36)
    coverage = _lines(canvas, surface, canvas.rng.uniform(0.03, 0.05), lambda x: np.abs(folded(x, length)))
    return _inked(canvas, surface, coverage, colour)


def hatches(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Print two families of thin, crossing lines."""
    rng = canvas.rng
    spacing, half = rng.uniform(0.13, 0.22), rng.uniform(0.013, 0.02)
    x, y = canvas.turned(rng.uniform(0, TAU), spot(canvas, surface.body, 0.25))
    lines = np.minimum(np.abs(folded(x, spacing)), np.abs(folded(y + np.float32(0.3) * x, spacing))) - np.float32(half)
    if rng.random() >= WHOLE_SHARE:
        lines = np.maximum(lines, box(x, y, rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.35)))
    return _inked(canvas, surface, canvas.fill(lines), colour, 0.3)


def checks(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Print every second square of a chessboard."""
    rng = canvas.rng
    side = rng.uniform(0.13, 0.24)
    x, y = canvas.turned(rng.uniform(0, TAU), spot(canvas, surface.body, side))
    # Both distances are negative where the two coordinates lie in stripes of different parity.
    stripe = [np.abs(folded(axis, 2 * side)) - np.float32(0.5 * side) for axis in (x, y)]
    squares = np.maximum(np.minimum(*stripe), -np.maximum(*stripe))
    if rng.random() >= WHOLE_SHARE:
        half = side * (rng.integers(1, 3, 2) + 0.5)
        squares = np.maximum(squares, box(x, y, float(half[0]), float(half[1])))
    return _inked(canvas, surface, canvas.fill(squares), colour)


def borders(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Print a line, or two, along the edge."""
    rng = canvas.rng
    inset, half = rng.uniform(0.07, 0.13), rng.uniform(0.018, 0.04)
    depth = _depth(canvas, surface.body)
    line = np.abs(depth - np.float32(inset))
    if rng.random() < 0.4:
        line = np.minimum(line, np.abs(depth - np.float32(inset + 3.5 * half)))
    return _inked(canvas, surface, canvas.fill(line - np.float32(half)), colour)


def letters(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Print a word or a code."""
    rng = canvas.rng
    word = "".join(rng.choice(list("ABCDEHKLMNPRSTUX2345789"), int(rng.integers(2, 6))))
    font = (cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SIMPLEX)[rng.integers(3)]
    (wide, high), _ = cv2.getTextSize(word, font, 2.0, 6)
    page = np.zeros((high + 24, wide + 24), np.uint8)
    cv2.putText(page, word, (12, high + 12), font, 2.0, 255, 6, cv2.LINE_AA)
    half = rng.uniform(0.09, 0.15)  # of the page's height
    return _inked(canvas, surface, _pages(canvas, surface, page, half), colour, 0.3)


def barcodes(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Print a field of parallel bars of different widths."""
    rng = canvas.rng
    edges = np.cumsum(rng.integers(3, 9, 2 * int(rng.integers(5, 10))))
    page = np.zeros((80, edges[-1] + 4), np.uint8)
    for start, stop in edges.reshape(-1, 2):
        page[4:-4, start:stop] = 255
    return _inked(canvas, surface, _pages(canvas, surface, page, rng.uniform(0.14, 0.22)), colour, 0.35)


def stickers(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Stick on small sheets with lines of print."""
    rng = canvas.rng
    half, longer, corner = rng.uniform(0.1, 0.16), rng.uniform(1.2, 2.0), rng.uniform(0, 0.03)
    places = _places(canvas, surface, half * longer)
    x, y = places.x, places.y
    coverage = on_body(canvas.fill(box(x, y, half * longer, half, corner)) * places.chosen, surface)
    paint = colour or showing(canvas, surface, coverage, 0.3, 0.6)
    print_on = np.maximum(box(x, y, 0.75 * longer * half, 0.6 * half), np.abs(folded(y, 0.5 * half)) - 0.12 * half)
    ink = _standing_out(paint)
    stuck = surface.painted(coverage, paint).painted(coverage * canvas.fill(print_on), ink)
    return stuck.raised(coverage * np.float32(0.012)), coverage


def patches(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Sew on pieces of another material."""
    rng = canvas.rng
    half, longer = rng.uniform(0.13, 0.2), rng.uniform(0.7, 1.0)
    places = _places(canvas, surface, half)
    edge = box(places.x, places.y, half, half * longer, 0.02)
    coverage = on_body(canvas.fill(edge) * places.chosen, surface)
    paint = colour or showing(canvas, surface, coverage, 0.25, 0.5)
    grain = np.sin(places.x * np.float32(120)) * np.sin(places.y * np.float32(120)) * np.float32(0.08)
    dashes = np.sin((places.x + places.y) * np.float32(90)) > 0
    seam = canvas.fill(np.abs(edge + np.float32(0.035)) - np.float32(0.01)) * dashes
    sewn = np.clip(flat(canvas.size, paint) * (1 + grain)[..., None], 0, 1).astype(np.float32)
    patched = surface.painted(coverage, sewn).painted(coverage * seam, _standing_out(paint))
    return patched.raised(coverage * np.float32(0.015)), coverage


def stitches(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Sew seams: dashes on both sides of a sunken line."""
    rng = canvas.rng
    apart, length, half = rng.uniform(0.035, 0.055), rng.uniform(0.09, 0.14), rng.uniform(0.015, 0.022)
    x, y = canvas.turned(rng.uniform(0, TAU), spot(canvas, surface.body, 0.2))
    across = folded(y, rng.uniform(0.4, 0.7)) if rng.random() < WHOLE_SHARE else y
    dashes = box(folded(x, length), np.abs(across) - np.float32(apart), 0.33 * length, half, 0.8 * half)
    line = on_body(canvas.fill(np.abs(across) - np.float32(0.01)), surface)
    coverage = on_body(canvas.fill(dashes), surface)
    sewn = surface.painted(line * np.float32(0.6), (0.03, 0.03, 0.04)).raised(line * np.float32(-0.012))
    flaw, _ = _inked(canvas, sewn, coverage, colour, 0.35, 0.012)
    # The seam is one thing, gaps between its stitches included.
    return flaw, on_body(canvas.fill(np.abs(across) - np.float32(apart + half)), surface)


def ribs(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Raise parallel, rounded ribs."""
    half = canvas.rng.uniform(0.035, 0.06)
    coverage = _lines(canvas, surface, half, softness=0.02)
    return _inked(canvas, surface, coverage, colour, 0.18, 0.045, most=0.28)


def grooves(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Sink narrow, parallel grooves with dark floors."""
    coverage = on_body(_lines(canvas, surface, canvas.rng.uniform(0.018, 0.03), gap=3.0), surface)
    below = surface.colour[coverage > 0.5].mean() if (coverage > 0.5).any() else 0.5
    floor = colour or ((0.03, 0.03, 0.04) if below > 0.25 else (0.5, 0.5, 0.5))
    return _inked(canvas, surface, coverage, floor, relief=-0.05)


def studs(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Raise round studs."""
    radius = canvas.rng.uniform(0.06, 0.11)
    coverage = _marks(canvas, surface, radius, lambda x, y: disc(x, y, radius), softness=0.03)
    return _inked(canvas, surface, coverage, colour, 0.18, 0.07, most=0.3)


def rivets(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Set metal rivets, each in a dark ring."""
    rng = canvas.rng
    radius = rng.uniform(0.055, 0.09)
    places = _places(canvas, surface, 1.3 * radius, gap=rng.uniform(1.6, 2.6))
    away = disc(places.x, places.y, radius)
    coverage = on_body(canvas.fill(away - np.float32(0.3 * radius)) * places.chosen, surface)
    head = coverage * canvas.fill(away)
    metal = colour or showing(canvas, surface, coverage, 0.3, 0.5)
    dome = np.sqrt(np.clip(radius**2 - (away + np.float32(radius)) ** 2, 0, None)).astype(np.float32) * head
    ringed = surface.painted(coverage, _standing_out(metal)).painted(head, metal)
    return ringed.raised(dome * np.float32(0.8)), coverage


def emblems(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Emboss figures: a raised outline with another outline in it."""
    rng = canvas.rng
    radius, tips, line = rng.uniform(0.16, 0.26), int(rng.integers(3, 6)), rng.uniform(0.025, 0.04)

    def figure(x: Plane, y: Plane) -> Plane:
        frame = np.abs(disc(x, y, radius - line)) - np.float32(line)
        return np.minimum(frame, _star(x, y, 0.68 * radius, tips))

    coverage = _marks(canvas, surface, radius, figure, softness=0.015)
    return _inked(canvas, surface, coverage, colour, 0.2, 0.05, most=0.32)


def holes(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Punch clean round holes."""
    radius = canvas.rng.uniform(0.05, 0.11)
    return _opened(surface, _marks(canvas, surface, radius, lambda x, y: disc(x, y, radius)))


def slots(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Punch long openings with round ends."""
    half, longer = canvas.rng.uniform(0.03, 0.045), canvas.rng.uniform(3.0, 5.0)
    coverage = _marks(canvas, surface, half * longer, lambda x, y: box(x, y, half * longer, half, half))
    return _opened(surface, coverage)


def notches(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
    """Cut equal bites into the edge of a thing, or of the picture."""
    rng = canvas.rng
    depth = _depth(canvas, surface.body)
    # Only the outer edge, at even steps around it: the contour of the largest piece.
    outline = max(cv2.findContours(surface.body.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
    edge = outline[:, 0]
    # Few of them: a disc with many teeth would be a gear, which only the unseen set shows.
    number = int(rng.integers(4, 7)) if rng.random() < WHOLE_SHARE else int(rng.integers(1, 3))
    step = len(edge) // number if number > 2 else round(0.35 / canvas.pixel)
    first = rng.integers(len(edge))
    soft = cv2.GaussianBlur(depth, (0, 0), 0.04 / canvas.pixel)
    form, half, deep = int(rng.integers(3)), rng.uniform(0.07, 0.11), rng.uniform(0.13, 0.21)
    coverage = np.zeros(canvas.size, np.float32)
    for column, row in (edge[(first + n * step) % len(edge)] for n in range(number)):
        near = soft[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        slope = [float(np.diff(near, axis=axis).mean()) for axis in (1, 0)]
        x, y = canvas.turned(
            float(np.arctan2(slope[1], slope[0])), (float(canvas.x[row, column]), float(canvas.y[row, column]))
        )
        bite = (
            disc(x / np.float32(1.3), y, half),
            box(x, y, deep, half),
            np.float32(0.8) * (np.abs(y) - np.float32(half) * (1 - x / np.float32(1.3 * deep))),
        )[form]
        coverage = np.maximum(coverage, canvas.fill(np.maximum(bite, -x - np.float32(0.1))))
    return _opened(surface, coverage)


def _clear(paint: Painter) -> Painter:
    """Draw a feature again while it covers too little, or hardly differs from what it covers."""

    def drawn(canvas: Canvas, surface: Surface, colour: Colour | None) -> Flaw:
        best, most = None, -1.0
        for _ in range(TRIES):
            flaw, coverage = paint(canvas, surface, colour)
            mask = coverage > 0.5
            if not mask.any():
                continue
            contrast = float(np.abs(flaw.colour[mask] - surface.colour[mask]).max(axis=-1).mean())
            merit = min(contrast / LEAST_CONTRAST, 1) * min(float(mask.mean()) / LEAST_AREA, 1)
            if merit > most:
                best, most = (flaw, coverage), merit
            if merit >= 1:
                break
        # Where other features have left no room, there is nothing to draw.
        return best or (surface, np.zeros(canvas.size, np.float32))

    return drawn


FEATURES: Mapping[str, Feature] = {
    feature.adjective: replace(feature, draw=_clear(feature.draw))
    for feature in (
        Feature("dotted", "dots", dots),
        Feature("circled", "circles", circles),
        Feature("starred", "stars", stars),
        Feature("speckled", "specks", specks),
        Feature("striped", "stripes", stripes),
        Feature("wavy", "waves", waves),
        Feature("zigzagged", "zigzags", zigzags),
        Feature("crosshatched", "hatches", hatches),
        Feature("checked", "checks", checks),
        Feature("bordered", "borders", borders),
        Feature("printed", "letters", letters),
        Feature("barcoded", "barcodes", barcodes),
        Feature("stickered", "stickers", stickers),
        Feature("patched", "patches", patches),
        Feature("stitched", "stitches", stitches),
        Feature("ribbed", "ribs", ribs),
        Feature("grooved", "grooves", grooves),
        Feature("studded", "studs", studs),
        Feature("riveted", "rivets", rivets),
        Feature("embossed", "emblems", emblems),
        Feature("perforated", "holes", holes, tinted=False),
        Feature("slotted", "slots", slots, tinted=False),
        Feature("notched", "notches", notches, tinted=False),
    )
}
"""Every feature, by its adjective."""

BASES: tuple[Subject, ...] = plain.BASES
"""Plain nouns that carry features."""

HELD_OUT_NAMES: frozenset[tuple[str, str]] = frozenset(
    (adjective, base.words)
    for row, base in enumerate(BASES)
    for column, adjective in enumerate(FEATURES)
    if (column + 2 * row + 2) % 5 == 0  # none of the pre-training's fabrics: dotted, striped, checked
)
"""A fifth of all combinations of adjective and noun, spread evenly; they are kept out of training."""


def _standing_out(colour: Colour) -> Colour:
    """Return a shade of a colour that is visible on it."""
    towards = 0.03 if sum(colour) / 3 > 0.35 else 0.9
    red, green, blue = (channel + 0.7 * (towards - channel) for channel in colour)
    return red, green, blue


@dataclass(frozen=True)
class _Places:
    """Coordinates around the nearest of many places in rows, and whether that place is taken."""

    x: Plane
    y: Plane
    chosen: Region


def _places(canvas: Canvas, surface: Surface, radius: float, gap: float | None = None) -> _Places:
    """Choose places in rows on the whole body, or a few in one spot.

    Args:
        radius: Space that an element takes.
        gap: Distance between neighbours, as a multiple of an element's width.
    """
    rng = canvas.rng
    spacing = 2 * radius * (gap or rng.uniform(1.25, 2.0))
    x, y = canvas.turned(rng.uniform(0, TAU), spot(canvas, surface.body, 1.2 * radius))
    row = np.round(y / np.float32(spacing))
    if rng.random() < 0.5:
        x = x + np.float32(0.5 * spacing) * (row % 2)
    column = np.round(x / np.float32(spacing))
    chosen = np.ones(canvas.size, dtype=bool)
    if rng.random() >= WHOLE_SHARE:
        rows, columns = rng.integers(1, 3), rng.integers(1, 5 if radius < 0.1 else 3)
        chosen = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return _Places(x - column * np.float32(spacing), y - row * np.float32(spacing), chosen)


def _marks(canvas: Canvas, surface: Surface, radius: float, mark: Mark, softness: float = 0.0) -> Plane:
    """Return the coverage of equal elements.

    Args:
        softness: Width of their edge, for a relief that rises slowly.
    """
    places = _places(canvas, surface, radius)
    pixels = max(1.0, softness / canvas.pixel)
    return canvas.fill(mark(places.x, places.y), pixels) * places.chosen


def _lines(
    canvas: Canvas,
    surface: Surface,
    half: float,
    bend: Callable[[Plane], Plane] | None = None,
    gap: float | None = None,
    softness: float = 0.0,
) -> Plane:
    """Return the coverage of parallel lines: all over the body, or a few, sometimes of limited length.

    Args:
        bend: How far a line leaves its axis, by the position along it.
        gap: Distance between neighbours, as a multiple of their width.
    """
    rng = canvas.rng
    spacing = 2 * half * (rng.uniform(1.6, 3.0) if gap is None else gap * rng.uniform(1.0, 1.8))
    x, y = canvas.turned(rng.uniform(0, TAU), spot(canvas, surface.body, 0.2))
    if bend is not None:
        y, spacing = y + bend(x).astype(np.float32), max(spacing, 0.2)
    row = np.round(y / np.float32(spacing))
    distance = np.abs(y - row * np.float32(spacing)) - np.float32(half)
    coverage = canvas.fill(distance, max(1.0, softness / canvas.pixel))
    if rng.random() < WHOLE_SHARE:
        return coverage
    coverage = coverage * ((row >= 0) & (row < rng.integers(1, 4)))
    return coverage * canvas.fill(np.abs(x) - np.float32(rng.uniform(0.25, 0.6))) if rng.random() < 0.6 else coverage


def _pages(canvas: Canvas, surface: Surface, page: np.ndarray, half: float) -> Plane:
    """Print an 8-bit page at every chosen place, ``2 * half`` high."""
    high, wide = page.shape
    places = _places(canvas, surface, half * wide / high)
    scale = high / (2 * half)
    columns = places.x * np.float32(scale) + np.float32((wide - 1) / 2)
    rows = places.y * np.float32(scale) + np.float32((high - 1) / 2)
    seen = cv2.remap(page, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return seen.astype(np.float32) / 255 * places.chosen


def _inked(
    canvas: Canvas,
    surface: Surface,
    coverage: Plane,
    colour: Colour | None,
    least: float = 0.25,
    relief: float = 0.0,
    most: float = 0.6,
) -> Flaw:
    """Paint what is covered, and raise or sink it."""
    coverage = on_body(coverage, surface).astype(np.float32)
    paint = colour or showing(canvas, surface, coverage, least, most)
    return surface.painted(coverage, paint).raised(coverage * np.float32(relief)), coverage


def _opened(surface: Surface, coverage: Plane) -> Flaw:
    """Let the backdrop show, a little shaded; what is gone is no longer part of the body."""
    coverage = on_body(coverage, surface).astype(np.float32)
    opened = replaced(surface, coverage, surface.backdrop * np.float32(0.9), np.zeros_like(surface.height))
    return replace(opened, body=surface.body & (coverage < 0.05)), coverage


def _star(x: Plane, y: Plane, radius: float, tips: int) -> Plane:
    """Return roughly the signed distance to a star."""
    angle = np.arctan2(y, x) * np.float32(tips)
    return np.hypot(x, y) - np.float32(radius) * (np.float32(0.68) + np.float32(0.32) * np.cos(angle))


def _depth(canvas: Canvas, body: Region) -> Plane:
    """Return the distance to the edge of the body or of the picture, inside the body."""
    inside = np.pad(body, 1).astype(np.uint8)
    return cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1] * np.float32(canvas.pixel)
