"""The objects of the auxiliary set: washer, tablet, bottle cap, circuit, key, dial. No other set draws them."""

import itertools
from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from drawn_anomalies.auxiliary_devices import centred, circuit, dial, sampled
from drawn_anomalies.canvas import Canvas, Colour, Plane, Surface, box, disc, flat, gradient, mixed
from drawn_anomalies.ground import aside, laid, shadowed, speckled
from drawn_anomalies.kinds import Category

Picture = Float32[ndarray, "height width 3"]

FLUTES = 21
"""Teeth of every crown cap."""


def washer(canvas: Canvas) -> Surface:
    """Draw a flat zinc or brass-yellow washer with chamfered edges on a black rubber mat."""
    rng = canvas.rng
    outer = rng.uniform(0.68, 0.8)
    inner = rng.uniform(0.4, 0.52) * outer
    x, y = canvas.turned(rng.uniform(0, 2 * np.pi), aside(canvas))
    radius = np.hypot(x, y)
    distance = np.maximum(radius - np.float32(outer), np.float32(inner) - radius)
    relief = np.clip(-distance / np.float32(0.05), 0, 1) * np.float32(0.035)
    relief = relief + np.float32(0.0008) * canvas.noise(0.08, 2)
    sheen = (x * x - y * y) / np.maximum(radius * radius, np.float32(0.01))
    tone = np.float32(0.52) + np.float32(0.22) * sheen + _brushed(canvas, y, 0.11)
    tone = tone + np.float32(0.06) * canvas.noise(0.25, 3)
    dark, bright = ((0.28, 0.29, 0.31), (0.72, 0.74, 0.77)) if rng.random() < 0.7 else _YELLOW_ZINC
    metal = gradient(tone, canvas.colour(dark, 0.02), canvas.colour(bright, 0.02))
    edge = np.clip(1 + distance / np.float32(0.05), 0, 1)
    metal = metal * (1 - np.float32(0.25) * edge)[..., None]
    coverage = canvas.fill(distance)
    mat = shadowed(canvas, _rubber(canvas), coverage, 0.8)
    return laid(mat, coverage, metal, relief, 0.4)


_YELLOW_ZINC: tuple[Colour, Colour] = ((0.33, 0.27, 0.16), (0.78, 0.69, 0.46))


def tablet(canvas: Canvas) -> Surface:
    """Draw a round or oblong pill with a pressed score line and code on dark blue plastic."""
    rng = canvas.rng
    oblong = rng.random() < 0.5
    half, thick = (rng.uniform(0.72, 0.8), rng.uniform(0.34, 0.4)) if oblong else (rng.uniform(0.58, 0.7),) * 2
    x, y = canvas.turned(rng.uniform(0, 2 * np.pi), aside(canvas))
    distance = box(x, y, half, thick, thick)
    depth = np.clip(-distance / np.float32(0.8 * thick), 0, 1)
    relief = np.float32(0.13 * thick / 0.4) * (1 - (1 - depth) ** 2)
    relief = relief + np.float32(0.02) * np.clip(-distance / np.float32(0.035), 0, 1)
    score = np.exp(-((x / np.float32(0.032)) ** 2))
    code = _pressed_code(canvas, x, y, half)
    relief = relief - np.float32(0.045) * score - np.float32(0.014) * code
    relief = relief + np.float32(0.0012) * canvas.noise(0.03, 2)
    base = canvas.colour(_PILLS[rng.integers(len(_PILLS))], 0.015)
    tone = 1 + np.float32(0.015) * canvas.noise(0.03, 2) - np.float32(0.16) * (1 - depth) ** 3
    tone = tone - np.float32(0.16) * score - np.float32(0.12) * code
    powder = flat(canvas.size, base) * tone[..., None]
    coverage = canvas.fill(distance)
    tray = shadowed(canvas, speckled(canvas, (0.10, 0.15, 0.25), 0.05), coverage, 0.8)
    return laid(tray, coverage, powder, relief, 0.12)


_PILLS: tuple[Colour, ...] = ((0.86, 0.85, 0.82), (0.88, 0.68, 0.66), (0.88, 0.80, 0.55), (0.62, 0.76, 0.84))


def _pressed_code(canvas: Canvas, x: Plane, y: Plane, half: float) -> Plane:
    """Return the coverage of a letter and a number on either side of the score line."""
    rng = canvas.rng
    sheet = np.zeros((160, 480), np.uint8)
    centred(sheet, chr(65 + int(rng.integers(26))), (110, 80), 3.0, 11)
    centred(sheet, str(rng.integers(10, 100)), (370, 80), 3.0, 11)
    return sampled(canvas, x, y, sheet[..., None], 1.5 * half)[..., 0]


def bottle_cap(canvas: Canvas) -> Surface:
    """Draw a printed crown cap from above on pale wood; its crimped teeth are parts."""
    rng = canvas.rng
    rim = rng.uniform(0.68, 0.78)
    lost = rng.permutation(FLUTES)[:6]
    x, y = canvas.turned(rng.uniform(0, 2 * np.pi), aside(canvas))
    radius = np.hypot(x, y)
    turn = np.arctan2(y, x) * np.float32(FLUTES / (2 * np.pi))
    flute = np.cos(turn * np.float32(2 * np.pi))
    away = radius / np.float32(rim)
    distance = radius - np.float32(rim) * (1 + np.float32(0.04) * flute)
    skirt = np.clip((away - np.float32(0.74)) / np.float32(0.24), 0, 1)
    relief = np.float32(0.17) * (1 - skirt**1.5) + np.float32(0.022) * flute * np.minimum(2 * skirt, 1)
    relief = relief - np.float32(0.008) * np.exp(-(((away - np.float32(0.7)) / np.float32(0.02)) ** 2))
    paint, ink = _CAPS[rng.integers(len(_CAPS))]
    lacquer = flat(canvas.size, canvas.colour(paint, 0.025))
    lacquer = mixed(lacquer, _emblem(canvas, x, y, away, rim), canvas.colour(ink, 0.02))
    tone = 1 + np.float32(0.015) * canvas.noise(0.3, 2) + np.float32(0.14) * flute * skirt
    lacquer = lacquer * (tone - np.float32(0.25) * skirt)[..., None]
    worn = canvas.fill(-distance - np.float32(0.02), 3.0) * np.float32(0.5)
    lacquer = mixed(lacquer, worn, (0.66, 0.66, 0.66))
    coverage = canvas.fill(distance)
    wood = shadowed(canvas, _wood(canvas), coverage, 0.75)
    surface = laid(wood, coverage, lacquer, relief, 0.4)
    crimp = surface.body & (away > np.float32(0.87))
    number = np.round(turn).astype(np.int32) % FLUTES
    return replace(surface, parts=tuple(crimp & (number == tooth) for tooth in lost))


_CAPS: tuple[tuple[Colour, Colour], ...] = (
    ((0.66, 0.09, 0.09), (0.90, 0.88, 0.82)),
    ((0.10, 0.33, 0.20), (0.88, 0.76, 0.40)),
    ((0.10, 0.20, 0.46), (0.88, 0.88, 0.88)),
    ((0.78, 0.62, 0.22), (0.24, 0.10, 0.07)),
)


def _emblem(canvas: Canvas, x: Plane, y: Plane, away: Plane, rim: float) -> Plane:
    """Return the coverage of a printed star or letter inside a ring."""
    rng = canvas.rng
    sheet = np.zeros((400, 400), np.uint8)
    if rng.random() < 0.5:
        tips = int(rng.choice([5, 6, 8]))
        angles = np.arange(2 * tips) * np.pi / tips
        reach = np.where(np.arange(2 * tips) % 2 == 0, 170, 80)[:, None]
        star = 200 + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(sheet, [np.round(star).astype(np.int32)], 255, cv2.LINE_AA)
    else:
        centred(sheet, chr(65 + int(rng.integers(26))), (200, 200), 10.0, 42)
    ring = canvas.fill((np.abs(away - np.float32(0.61)) - np.float32(0.02)) * np.float32(rim))
    return np.maximum(sampled(canvas, x, y, sheet[..., None], 1.0 * rim)[..., 0], ring)


def key(canvas: Canvas) -> Surface:
    """Draw a brass or nickel key with a milled groove on grey felt; the teeth of its blade are parts."""
    rng = canvas.rng
    size = rng.uniform(0.95, 1.05)
    x, y = (plane / np.float32(size) for plane in canvas.turned(rng.uniform(0, 2 * np.pi), aside(canvas)))
    y = y * np.float32(rng.choice([-1, 1]))
    notches = np.linspace(0.06, 0.6, 6)
    depths = rng.uniform(0.0, 0.085, 6)
    knots = np.concatenate([[-0.2], (notches[:, None] + [-0.045, -0.016, 0.016, 0.045]).ravel(), [0.68, 0.8]])
    edge = np.concatenate([[0.14], np.stack([0.14 + 0 * depths, depths, depths, 0.14 + 0 * depths], 1).ravel()])
    lower = np.interp(x, knots, [*edge, 0.12, -0.02]).astype(np.float32)
    upper = np.interp(x, [0.7, 0.8], [0.14, 0.04]).astype(np.float32)
    blade = np.maximum(np.maximum((y - lower) * np.float32(0.7), -y - upper), np.maximum(x - 0.8, -0.3 - x))
    stop = box(x + np.float32(0.17), y, 0.05, 0.2, 0.02)
    bow = box(x + np.float32(0.5), y, 0.3, 0.32, float(rng.uniform(0.14, 0.3)))
    eye = disc(x + np.float32(0.67), y, 0.075)
    distance = np.maximum(np.minimum(np.minimum(blade, bow), stop), -eye).astype(np.float32)
    relief = np.clip(-distance / np.float32(0.025), 0, 1) * np.float32(0.03)
    groove = canvas.fill(box(x - np.float32(0.28), y + np.float32(0.055), 0.42, 0.022, 0.02), 3.0)
    frame = np.exp(-(((bow + np.float32(0.06)) / np.float32(0.012)) ** 2)) * (x < np.float32(-0.22))
    relief = relief - np.float32(0.022) * groove - np.float32(0.012) * frame
    tone = np.float32(0.55) + _brushed(canvas, x + np.float32(0.25) * y, 0.1) + np.float32(0.13) * canvas.noise(0.5, 3)
    tone = tone - np.float32(0.4) * groove - np.float32(0.2) * frame
    dark, bright = ((0.38, 0.26, 0.09), (0.86, 0.70, 0.36)) if rng.random() < 0.65 else ((0.32,) * 3, (0.8, 0.79, 0.75))
    metal = gradient(tone, canvas.colour(dark, 0.02), canvas.colour(bright, 0.02))
    coverage = canvas.fill(distance * np.float32(size))
    felt = shadowed(canvas, speckled(canvas, (0.42, 0.43, 0.46), 0.1), coverage, 0.7)
    surface = laid(felt, coverage, metal, relief * np.float32(size), 0.4)
    low = y > np.float32(0.03)
    parts = (surface.body & low & (x > a) & (x < b) for a, b in itertools.pairwise(notches))
    return replace(surface, parts=tuple(part for part in parts if part.any()))


def _brushed(canvas: Canvas, across: Plane, strength: float) -> Plane:
    """Return the tone of fine grinding lines in metal."""
    lines = canvas.rng.normal(0, strength, 220).astype(np.float32)
    return np.interp(across, np.linspace(-1.6, 1.6, 220), lines).astype(np.float32)


def _rubber(canvas: Canvas) -> Picture:
    """Draw black rubber with ribs."""
    x, _ = canvas.turned(canvas.rng.uniform(0, np.pi))
    ribs = np.sin(x * np.float32(2 * np.pi / 0.09))
    tone = 1 + np.float32(0.16) * ribs + np.float32(0.08) * canvas.noise(0.03, 2)
    return flat(canvas.size, canvas.colour((0.11, 0.11, 0.12), 0.015)) * tone[..., None]


def _wood(canvas: Canvas) -> Picture:
    """Draw pale wood with bent grain."""
    x, y = canvas.turned(canvas.rng.uniform(0, np.pi))
    bent = y * np.float32(9) + x * np.float32(0.6) + np.float32(0.9) * canvas.noise(0.9, 2)
    rings = bent - np.floor(bent)
    tone = np.float32(0.72) - np.float32(0.45) * rings**3 + _brushed(canvas, y, 0.1)
    return gradient(tone, canvas.colour((0.60, 0.45, 0.28), 0.02), canvas.colour((0.84, 0.71, 0.51), 0.02))


AUXILIARY_OBJECTS: tuple[Category, ...] = (
    Category("washer", washer, ("scratch", "dent", "stain", "missing_part", "discolouration")),
    Category("tablet", tablet, ("chip", "hole", "contamination", "discolouration", "missing_part", "cut")),
    Category("bottle_cap", bottle_cap, ("dent", "scratch", "missing_part", "hole", "chip")),
    Category("circuit", circuit, ("missing_part", "cut", "contamination", "stain", "scratch")),
    Category("key", key, ("missing_part", "scratch", "stain", "dent", "discolouration")),
    Category("dial", dial, ("missing_part", "stain", "scratch", "dent", "contamination")),
)
"""The objects of the auxiliary set only."""
