"""Things with parts that can be missing, each in any colour.

Lengths are those of a thing at its largest; every drawing is turned, moved and shrunk a little.
"""

from dataclasses import replace

import numpy as np

from drawn_anomalies.canvas import Canvas, Colour, Surface, box, disc
from drawn_anomalies.pairs.frame import bevel, framed, laid, part
from drawn_anomalies.pairs.palette import contrasting


def cup(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a cup with a handle from above, filled with coffee or tea."""
    at = framed(canvas, -0.1)
    handle = np.maximum(
        np.abs(box(at.x - np.float32(0.66), at.y, 0.2, 0.2, 0.1)) - np.float32(0.06), -disc(at.x, at.y, 0.6)
    )
    wall = disc(at.x, at.y, 0.62)
    rim = np.exp(-(((wall + np.float32(0.06)) / np.float32(0.05)) ** 2)) * np.float32(0.06)
    surface = laid(canvas, colour, at, np.minimum(wall, handle), rim, 0.35)
    inside = canvas.fill(disc(at.x, at.y, 0.51) * np.float32(at.scale))
    drinks: tuple[Colour, ...] = ((0.20, 0.11, 0.06), (0.55, 0.28, 0.08), (0.85, 0.80, 0.72))
    full = surface.painted(inside, canvas.colour(drinks[canvas.rng.integers(3)]))
    return replace(full, parts=(part(canvas, at, handle),))


def bottle(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a lying bottle with neck and cap."""
    at = framed(canvas)
    body = box(at.x, at.y - np.float32(0.25), 0.32, 0.62, 0.14)
    neck = box(at.x, at.y + np.float32(0.45), 0.12, 0.3)
    cap = box(at.x, at.y + np.float32(0.78), 0.15, 0.1, 0.02)
    slanted = np.float32(0.75) * (np.abs(at.x) - np.float32(0.82) - at.y)
    shoulder = np.maximum(
        np.maximum(slanted, np.abs(at.x) - np.float32(0.32)), np.abs(at.y + np.float32(0.4)) - np.float32(0.3)
    )
    silhouette = np.minimum(np.minimum(body, shoulder), np.minimum(neck, cap))
    shine = np.exp(-(((at.x + np.float32(0.14)) / np.float32(0.05)) ** 2)) * np.float32(0.45) * (body < -0.08)
    surface = laid(canvas, colour, at, silhouette, bevel(silhouette, 0.2, 0.12), 0.4, shine)
    lid = canvas.fill(cap * np.float32(at.scale))
    return replace(surface.painted(lid, canvas.colour(contrasting(colour))), parts=(part(canvas, at, cap),))


def bolt(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a lying bolt: a head with edges and a ridged shaft."""
    at = framed(canvas)
    head = box(at.x + np.float32(0.68), at.y, 0.17, 0.38, 0.04)
    shaft = box(at.x - np.float32(0.15), at.y, 0.7, 0.17, 0.03)
    ridges = np.sin((at.x + np.float32(0.15) * at.y) * np.float32(52)) * (at.x > -0.2) * (head > 0)
    edges = canvas.fill(np.abs(np.abs(at.y) - np.float32(0.19)) - np.float32(0.015), 2.0) * (head < 0)
    distance = np.minimum(head, shaft)
    height = bevel(distance, 0.15, 0.1) + ridges * np.float32(0.012)
    tone = np.float32(0.35) * ridges - np.float32(0.6) * edges
    return replace(laid(canvas, colour, at, distance, height, 0.4, tone), parts=(part(canvas, at, head),))


def spool(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a spool from the side: coloured windings between two pale flanges."""
    at = framed(canvas)
    flange = box(np.abs(at.x) - np.float32(0.62), at.y, 0.09, 0.6, 0.04)
    distance = np.minimum(flange, box(at.x, at.y, 0.6, 0.48))
    windings = np.sin((at.x + np.float32(0.06) * at.y) * np.float32(75)) * (flange > 0)
    around = np.float32(0.35) * (np.sqrt(np.clip(1 - at.y**2 * 3.5, 0, None)) - 0.6).astype(np.float32)
    tone = np.float32(0.22) * windings + around
    surface = laid(canvas, colour, at, distance, windings * np.float32(0.006), 0.15, tone)
    ends = canvas.fill(flange * np.float32(at.scale))
    surface = surface.painted(ends, canvas.colour((0.80, 0.68, 0.50)))
    return replace(surface, parts=(part(canvas, at, flange) & (at.x < 0), part(canvas, at, flange) & (at.x > 0)))


def comb(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a comb; each of its teeth is a part."""
    at, spacing = framed(canvas), 0.19
    number = np.clip(np.round(at.x / np.float32(spacing)), -4, 4)
    teeth = box(at.x - number * np.float32(spacing), at.y - np.float32(0.12), 0.05, 0.42, 0.04)
    back = box(at.x, at.y + np.float32(0.36), 0.86, 0.16, 0.1)
    surface = laid(canvas, colour, at, np.minimum(teeth, back), gloss=0.25)
    return replace(surface, parts=tuple(part(canvas, at, teeth) & (back > 0) & (number == n) for n in range(-4, 5)))


def wheel(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a wheel; each of its spokes is a part."""
    at, count = framed(canvas), int(canvas.rng.integers(4, 8))
    radius, step = np.hypot(at.x, at.y), 2 * np.pi / count
    number = np.round(np.arctan2(at.y, at.x) / np.float32(step)) % count
    across = radius * np.sin(np.arctan2(at.y, at.x) - number * np.float32(step))
    spokes = np.maximum(np.abs(across) - np.float32(0.05), radius - np.float32(0.75))
    solid = np.minimum(np.abs(radius - np.float32(0.74)) - np.float32(0.1), radius - np.float32(0.17))
    surface = laid(canvas, colour, at, np.minimum(spokes, solid), gloss=0.3)
    return replace(surface, parts=tuple(part(canvas, at, spokes) & (solid > 0) & (number == n) for n in range(count)))


def flower(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a flower from above; each of its petals is a part."""
    at, count = framed(canvas), int(canvas.rng.integers(5, 8))
    step = 2 * np.pi / count
    angle = np.arctan2(at.y, at.x)
    number = np.round(angle / np.float32(step)) % count
    radius, turn = np.hypot(at.x, at.y), angle - number * np.float32(step)
    along, across = radius * np.cos(turn) - np.float32(0.5), radius * np.sin(turn)
    petals = disc(along, across * np.float32(0.25 * count), 0.38)
    heart_of_it = radius - np.float32(0.22)
    vein = np.exp(-((across / np.float32(0.02)) ** 2)) * np.float32(-0.2)
    surface = laid(canvas, colour, at, np.minimum(petals, heart_of_it), gloss=0.05, tone=vein)
    middle = contrasting(colour) if colour[0] - colour[2] > 0.4 else (0.90, 0.72, 0.15)
    surface = surface.painted(canvas.fill(heart_of_it * np.float32(at.scale)), canvas.colour(middle))
    return replace(
        surface, parts=tuple(part(canvas, at, petals) & (heart_of_it > 0) & (number == n) for n in range(count))
    )
