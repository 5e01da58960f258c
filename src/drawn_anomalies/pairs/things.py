"""Simple things in one piece, each in any colour.

Lengths are those of a thing at its largest; every drawing is turned, moved and shrunk a little.
"""

import cv2
import numpy as np

from drawn_anomalies.canvas import Canvas, Colour, Plane, Surface, box, disc
from drawn_anomalies.pairs.frame import Frame, bevel, framed, laid
from drawn_anomalies.pairs.palette import contrasting


def ring(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a round ring."""
    at, half = framed(canvas), canvas.rng.uniform(0.12, 0.2)
    away = disc(at.x, at.y, 0.65)
    round_top = np.sqrt(np.clip(half**2 - away**2, 0, None)).astype(np.float32)
    return laid(canvas, colour, at, np.abs(away) - np.float32(half), round_top, 0.4)


def star(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a star with five tips."""
    at = framed(canvas)
    return laid(canvas, colour, at, _star(at.x, at.y, 0.9, 0.42))


def cross(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a cross with equal arms."""
    at, half = framed(canvas), canvas.rng.uniform(0.17, 0.26)
    return laid(canvas, colour, at, np.minimum(box(at.x, at.y, 0.8, half), box(at.x, at.y, half, 0.8)))


def ball(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a ball, bright where it faces the lamp."""
    at = framed(canvas)
    away = np.hypot(at.x, at.y) / np.float32(0.72)
    dome = np.sqrt(np.clip(1 - away**2, 0.03, None)).astype(np.float32)
    tone = np.float32(0.5) * (dome - np.float32(0.75))
    return laid(canvas, colour, at, disc(at.x, at.y, 0.72), dome * np.float32(0.4), 0.4, tone)


def cube(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a cube from a corner: three sides of different brightness."""
    at = framed(canvas, turn=0.25)
    lean = np.float32(3**-0.5) * np.abs(at.x)
    side = np.where(at.y + lean < 0, np.float32(0.22), np.where(at.x < 0, np.float32(-0.12), np.float32(-0.45)))
    silhouette = np.maximum(
        np.abs(at.x) - np.float32(0.67), np.float32(0.866) * (np.abs(at.y) + lean) - np.float32(0.67)
    )
    return laid(canvas, colour, at, silhouette, np.zeros(canvas.size, np.float32), 0.05, side)


def plate(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a plate with a rim from above."""
    at = framed(canvas)
    away, well = disc(at.x, at.y, 0.85), canvas.rng.uniform(0.5, 0.6)
    slope = np.clip((np.hypot(at.x, at.y) - np.float32(well)) / np.float32(0.1), 0, 1) * np.float32(0.07)
    line = np.exp(-(((away + np.float32(0.07)) / np.float32(0.02)) ** 2)) * np.float32(-0.35)
    return laid(canvas, colour, at, away, slope, 0.35, line)


def screw_head(canvas: Canvas, colour: Colour) -> Surface:
    """Draw the domed head of a screw with a slot or a crossed recess."""
    at = framed(canvas)
    dome = np.clip(1 - (np.hypot(at.x, at.y) / np.float32(0.72)) ** 2, 0, None) * np.float32(0.2)
    slot = box(at.x, at.y, 0.48, 0.09)
    if canvas.rng.random() < 0.6:
        slot = np.minimum(slot, box(at.x, at.y, 0.09, 0.48))
    sunk = canvas.fill(slot * np.float32(at.scale), 2.0)
    return laid(
        canvas, colour, at, disc(at.x, at.y, 0.7), dome - sunk * np.float32(0.06), 0.5, sunk * np.float32(-0.75)
    )


def arrow(canvas: Canvas, colour: Colour) -> Surface:
    """Draw an arrow."""
    at, half = framed(canvas), canvas.rng.uniform(0.13, 0.2)
    head = np.maximum(np.float32(0.7) * (np.abs(at.y) + at.x - np.float32(0.85)), np.float32(0.3) - at.x)
    return laid(canvas, colour, at, np.minimum(head, box(at.x + np.float32(0.25), at.y, 0.6, half)))


def heart(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a heart."""
    at, side = framed(canvas, turn=0.8), 0.48
    x, y = np.abs(at.x), at.y
    diagonal = np.float32(0.5**0.5)
    square = box((x + y) * diagonal, (y - x) * diagonal, side, side)
    lobe = disc(x - np.float32(side) * diagonal, y + np.float32(side) * diagonal, side)
    distance = np.minimum(square, lobe)
    return laid(canvas, colour, at, distance, bevel(distance, 0.3, 0.14), 0.3)


def triangle(canvas: Canvas, colour: Colour) -> Surface:
    """Draw an equilateral triangle."""
    at = framed(canvas)
    slanted = np.float32(0.866) * np.abs(at.x) - np.float32(0.5) * at.y
    return laid(canvas, colour, at, np.maximum(slanted, at.y) - np.float32(0.42))


def tube(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a pipe from the side with its dark opening."""
    at, half = framed(canvas), canvas.rng.uniform(0.24, 0.34)
    mouth = disc((at.x - np.float32(0.7)) * np.float32(2), at.y, half)
    back = disc((at.x + np.float32(0.7)) * np.float32(2), at.y, half)
    distance = np.minimum(box(at.x, at.y, 0.7, half), np.minimum(mouth, back))
    around = np.sqrt(np.clip(1 - (at.y / np.float32(half)) ** 2, 0.02, None)).astype(np.float32)
    opening = canvas.fill((mouth + np.float32(0.06)) * np.float32(at.scale))
    rim = canvas.fill(mouth * np.float32(at.scale)) - opening
    tone = (np.float32(0.6) * around - np.float32(0.5)) * (1 - rim) + np.float32(0.2) * rim - np.float32(0.9) * opening
    return laid(canvas, colour, at, distance, around * np.float32(0.1) * (mouth > 0), 0.25, tone)


def nut(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a hexagonal nut from above."""
    at, bore = framed(canvas), canvas.rng.uniform(0.3, 0.4)
    x, y = np.abs(at.x), np.abs(at.y)
    hexagon = np.maximum(x, np.float32(0.5) * x + np.float32(0.866) * y) - np.float32(0.72)
    inner = -disc(at.x, at.y, bore)
    line = canvas.fill(np.abs(inner + np.float32(0.07)) - np.float32(0.012), 2.0) * np.float32(-0.5)
    return laid(canvas, colour, at, np.maximum(hexagon, inner), gloss=0.5, tone=line)


def coin(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a coin with a milled rim and an embossed figure."""
    at = framed(canvas)
    away = disc(at.x, at.y, 0.75)
    milled = np.sin(np.arctan2(at.y, at.x) * np.float32(48)) * (away > -0.07)
    rim = canvas.fill(np.abs(away + np.float32(0.08)) - np.float32(0.03), 2.0)
    value = ("1", "2", "5")[canvas.rng.integers(3)]
    figure = np.maximum(_written(canvas, at, value), rim)
    height = figure * np.float32(0.04)
    tone = np.float32(0.28) * figure + np.float32(0.1) * milled - np.float32(0.1)
    return laid(canvas, colour, at, away, height, 0.5, tone)


def domino(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a domino piece with pips."""
    at = framed(canvas)
    distance = box(at.x, at.y, 0.46, 0.9, 0.09)
    middle = canvas.fill((np.abs(at.y) - np.float32(0.02)) * np.float32(at.scale)) * (np.abs(at.x) < 0.38)
    pips = [
        disc(at.x - np.float32(x), at.y - np.float32(half + y), 0.085)
        for half in (-0.45, 0.45)
        for x, y in _pips(int(canvas.rng.integers(1, 7)))
    ]
    surface = laid(canvas, colour, at, distance, gloss=0.3)
    return _dotted(canvas, surface.painted(middle, contrasting(colour)), at, pips, contrasting(colour))


def dice(canvas: Canvas, colour: Colour) -> Surface:
    """Draw the top face of a die."""
    at = framed(canvas)
    pips = [
        disc(at.x - np.float32(1.45 * x), at.y - np.float32(1.45 * y), 0.12)
        for x, y in _pips(int(canvas.rng.integers(1, 7)))
    ]
    surface = laid(canvas, colour, at, box(at.x, at.y, 0.66, 0.66, 0.16), gloss=0.3)
    return _dotted(canvas, surface, at, pips, contrasting(colour))


def _star(x: Plane, y: Plane, tip: float, notch: float) -> Plane:
    step = 2 * np.pi / 5
    angle = np.arctan2(y, x)
    turn = np.abs(angle - np.round(angle / np.float32(step)) * np.float32(step))
    radius = np.hypot(x, y)
    corner = np.array([notch * np.cos(step / 2), notch * np.sin(step / 2)])
    normal = np.array([corner[1], tip - corner[0]]) / np.hypot(corner[1], tip - corner[0])
    along, across = radius * np.cos(turn) - np.float32(tip), radius * np.sin(turn)
    return (along * np.float32(normal[0]) + across * np.float32(normal[1])).astype(np.float32)


def _pips(number: int) -> list[tuple[float, float]]:
    """Return the positions of the pips of a number."""
    middle, slope, counter = [(0.0, 0.0)], [(-0.22, -0.22), (0.22, 0.22)], [(-0.22, 0.22), (0.22, -0.22)]
    sides = [(-0.22, 0.0), (0.22, 0.0)]
    odd = middle if number % 2 else []
    return odd + (slope if number > 1 else []) + (counter if number > 3 else []) + (sides if number == 6 else [])


def _dotted(canvas: Canvas, surface: Surface, at: Frame, pips: list[Plane], colour: Colour) -> Surface:
    """Paint engraved pips."""
    coverage = canvas.fill(np.minimum.reduce(pips) * np.float32(at.scale))
    return surface.painted(coverage, colour).raised(coverage * np.float32(-0.015))


def _written(canvas: Canvas, at: Frame, text: str) -> Plane:
    """Write a digit on a thing, two thirds of its width wide."""
    page = np.zeros((96, 96), dtype=np.uint8)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 2.6, 7)
    cv2.putText(page, text, ((96 - width) // 2, (96 + height) // 2), cv2.FONT_HERSHEY_DUPLEX, 2.6, 255, 7, cv2.LINE_AA)
    columns, rows = (axis * np.float32(48 / 0.65) + np.float32(48) for axis in (at.x, at.y))
    seen = cv2.remap(page, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return seen.astype(np.float32) / 255
