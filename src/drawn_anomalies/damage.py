"""Defects that change the surface itself: holes, cracks, dents, missing pieces, warping, corrosion."""

import cv2
import numpy as np

from drawn_anomalies.canvas import Canvas, Plane, Surface, cells, disc, flat, mixed
from drawn_anomalies.flaw import Flaw, blob, moved, on_body, replaced, showing, spot, wandering

LEAST_LOSS = 0.006
"""Smallest share of the picture to remove, if there are enough parts."""


def hole(canvas: Canvas, surface: Surface) -> Flaw:
    """Punch a hole with a frayed edge through which the backdrop shows."""
    rng = canvas.rng
    radius = rng.uniform(0.1, 0.2)
    centre = spot(canvas, surface.body, 1.6 * radius)
    coverage = on_body(blob(canvas, centre, radius, 0.2), surface)
    behind = surface.backdrop * np.float32(0.75)  # in the shadow of the edge
    return replaced(surface, coverage, behind, surface.height - np.float32(0.06)), coverage


def cut(canvas: Canvas, surface: Surface) -> Flaw:
    """Cut the surface open: a slit, pointed at both ends."""
    rng = canvas.rng
    length, width = rng.uniform(0.2, 0.42), rng.uniform(0.035, 0.07)
    x, y = canvas.turned(rng.uniform(0, np.pi), spot(canvas, surface.body, 0.5 * length))
    slit = np.abs(y + np.float32(0.15 / length) * x**2) - np.float32(width) * (1 - (x / np.float32(length)) ** 2)
    coverage = on_body(canvas.fill(slit), surface)
    lips = np.exp(-((slit / np.float32(0.03)) ** 2)) * (slit > 0) * (np.abs(x) < length)
    opened = replaced(surface, coverage, surface.backdrop * np.float32(0.8), surface.height - np.float32(0.04))
    return opened.raised(on_body(lips.astype(np.float32) * coverage, surface) * np.float32(0.03)), coverage


def dent(canvas: Canvas, surface: Surface) -> Flaw:
    """Press a bowl into the surface, or a bump out of it."""
    rng = canvas.rng
    radius = rng.uniform(0.14, 0.28)
    x, y = canvas.turned(rng.uniform(0, np.pi), spot(canvas, surface.body, 0.8 * radius))
    away = np.hypot(x, y * np.float32(rng.uniform(1.0, 1.5))) / np.float32(radius)
    depth = np.float32(rng.choice([-1, 1]) * rng.uniform(0.7, 1.2) * radius)
    bowl = depth * np.clip(1 - away**2, 0, None) ** 2
    coverage = on_body(canvas.fill((away - np.float32(0.9)) * np.float32(radius)), surface)
    return surface.raised(on_body(bowl.astype(np.float32), surface)), coverage


def missing_part(canvas: Canvas, surface: Surface) -> Flaw:
    """Remove one of the surface's parts, or several small ones; without parts, bite a piece off its edge."""
    coverage = _lost_parts(canvas, surface) if surface.parts else _bite(canvas, surface)
    return replaced(surface, coverage, surface.backdrop, np.zeros_like(surface.height)), coverage


def _lost_parts(canvas: Canvas, surface: Surface) -> Plane:
    lost = np.zeros(canvas.size, dtype=bool)
    for number in canvas.rng.permutation(len(surface.parts)):
        lost |= surface.parts[number] & surface.body
        if lost.mean() >= LEAST_LOSS:
            break
    return lost.astype(np.float32)


def _bite(canvas: Canvas, surface: Surface) -> Plane:
    body = surface.body.astype(np.uint8)
    edge = surface.body & (cv2.erode(body, np.ones((3, 3), np.uint8), borderValue=0) == 0)
    centre = spot(canvas, edge if edge.any() else surface.body)
    return on_body(blob(canvas, centre, canvas.rng.uniform(0.15, 0.3), 0.25), surface)


def crack(canvas: Canvas, surface: Surface) -> Flaw:
    """Break the surface along a jagged line with branches."""
    rng = canvas.rng
    points = wandering(canvas, spot(canvas, surface.body, 0.2), rng.uniform(0.5, 1.2), 0.5, 18)
    width = rng.uniform(0.035, 0.065)
    coverage = canvas.stroke(points, width)
    for _ in range(rng.integers(1, 4)):
        branch = wandering(canvas, (0.0, 0.0), rng.uniform(0.15, 0.45), 0.45, 10)
        joint = points[rng.integers(2, len(points) - 2)]
        coverage = np.maximum(coverage, canvas.stroke((branch - branch[0] + joint).astype(np.float32), 0.7 * width))
    coverage = on_body(coverage, surface)
    dark = surface.colour * np.float32(rng.uniform(0.1, 0.35))
    return replaced(surface, coverage, dark, surface.height - np.float32(0.02)), coverage


def warp(canvas: Canvas, surface: Surface) -> Flaw:
    """Twist the surface around a point, so that lines and outlines bend."""
    rng = canvas.rng
    radius = rng.uniform(0.18, 0.36)
    centre = spot(canvas, surface.body, 0.5 * radius)
    x, y = canvas.turned(0.0, centre)
    fade = np.clip(1 - np.hypot(x, y) / np.float32(radius), 0, 1) ** 1.5
    turn = (rng.choice([-1, 1]) * rng.uniform(1.2, 2.4) * fade).astype(np.float32)
    dx, dy = np.cos(turn) * x - np.sin(turn) * y - x, np.sin(turn) * x + np.cos(turn) * y - y
    colour, height = moved(surface, dx.astype(np.float32), dy.astype(np.float32), canvas)
    changed = (np.abs(colour - surface.colour).max(axis=-1) > 0.05) | (np.abs(height - surface.height) > 0.006)
    reach = max(3, round(0.06 / canvas.pixel))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    closed = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, kernel) * (fade > 0)
    coverage = closed.astype(np.float32)
    return replaced(surface, coverage, colour, height), coverage


def corrosion(canvas: Canvas, surface: Surface) -> Flaw:
    """Corrode a rough, spotted patch of the surface."""
    rng = canvas.rng
    centre = spot(canvas, surface.body, 0.12)
    patch = blob(canvas, centre, rng.uniform(0.16, 0.28), 0.6)
    pits = canvas.noise(0.06, 3)
    coverage = on_body(patch * np.clip(pits * np.float32(2) + np.float32(2.2), 0, 1), surface)
    rust = np.stack([0.46 + 0.1 * pits, 0.27 + 0.07 * pits, 0.14 + 0.04 * pits], axis=-1).astype(np.float32)
    tone = rust if rng.random() < 0.7 else mixed(rust, np.ones(canvas.size, dtype=np.float32), (0.30, 0.42, 0.34))
    return surface.painted(coverage, np.clip(tone, 0, 1)).raised(coverage * pits * np.float32(0.02)), coverage


def chip(canvas: Canvas, surface: Surface) -> Flaw:
    """Break off small flat flakes, so that the raw material is visible."""
    rng = canvas.rng
    centre = spot(canvas, surface.body, 0.1)
    _, _, value = cells(canvas, rng.uniform(0.12, 0.2))
    near = blob(canvas, centre, rng.uniform(0.15, 0.25), 0.3)
    coverage = on_body(near * (value > 0.35), surface)
    raw = flat(canvas.size, showing(canvas, surface, coverage, 0.2, 0.45))
    raw = raw * (1 + np.float32(0.06) * canvas.noise(0.05, 2))[..., None]
    return replaced(surface, coverage, np.clip(raw, 0, 1), surface.height - np.float32(0.025)), coverage


def fold(canvas: Canvas, surface: Surface) -> Flaw:
    """Crease the surface along a line: a ridge with a lit and a dark side."""
    rng = canvas.rng
    x, y = canvas.turned(rng.uniform(0, np.pi), spot(canvas, surface.body, 0.2))
    half, width = rng.uniform(0.3, 0.7), rng.uniform(0.035, 0.07)
    bend = y + np.float32(rng.uniform(-0.25, 0.25)) * x**2
    fade = np.clip((np.float32(half) - np.abs(x)) / np.float32(0.25 * half), 0, 1)
    ridge = np.exp(-((bend / np.float32(width)) ** 2)) * fade * np.float32(rng.choice([-1, 1]) * 1.4 * width)
    inside = disc(bend, np.zeros_like(bend), 1.5 * width)
    coverage = on_body(canvas.fill(inside) * (fade > 0.2), surface)
    return surface.raised(on_body(ridge.astype(np.float32), surface)), coverage
