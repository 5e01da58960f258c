"""Defects that lie on a surface: scratches, stains, specks, fibres, misprints, fading."""

import numpy as np

from drawn_anomalies.canvas import Canvas, Surface, disc
from drawn_anomalies.flaw import Flaw, blob, moved, on_body, replaced, showing, spot, wandering


def scratch(canvas: Canvas, surface: Surface) -> Flaw:
    """Draw one to three nearly straight, thin lines, a little sunk."""
    rng = canvas.rng
    centre = spot(canvas, surface.body, 0.12)
    coverage = np.zeros(canvas.size, dtype=np.float32)
    for _ in range(rng.integers(1, 4)):
        start = (centre[0] + rng.normal(0, 0.05), centre[1] + rng.normal(0, 0.05))
        points = wandering(canvas, start, rng.uniform(0.3, 0.9), 0.04)
        coverage = np.maximum(coverage, canvas.stroke(points, rng.uniform(0.025, 0.055)))
    coverage = on_body(coverage, surface)
    colour = showing(canvas, surface, coverage, 0.18, 0.45)
    return surface.painted(coverage, colour).raised(-coverage * np.float32(0.008)), coverage


def stain(canvas: Canvas, surface: Surface) -> Flaw:
    """Draw a patch of liquid that has dried: tinted, with a stronger rim."""
    rng = canvas.rng
    coverage = on_body(blob(canvas, spot(canvas, surface.body, 0.15), rng.uniform(0.13, 0.3)), surface)
    tint = showing(canvas, surface, coverage, 0.15, 0.4)
    strength = np.float32(rng.uniform(0.55, 0.9)) * (1 + np.float32(0.12) * canvas.noise(0.1, 2))
    return surface.painted(np.clip(coverage * strength, 0, 1), tint), coverage


def contamination(canvas: Canvas, surface: Surface) -> Flaw:
    """Scatter grains that do not belong there."""
    rng = canvas.rng
    centre = spot(canvas, surface.body, 0.1)
    coverage = np.zeros(canvas.size, dtype=np.float32)
    for _ in range(rng.integers(3, 9)):
        at = (centre[0] + rng.normal(0, 0.09), centre[1] + rng.normal(0, 0.09))
        coverage = np.maximum(coverage, blob(canvas, at, rng.uniform(0.035, 0.085), 0.2))
    coverage = on_body(coverage, surface)
    colour = showing(canvas, surface, coverage, 0.25, 0.6)
    return surface.painted(coverage, colour).raised(coverage * np.float32(0.03)), coverage


def discolouration(canvas: Canvas, surface: Surface) -> Flaw:
    """Let a patch fade or burn; its pattern stays visible."""
    rng = canvas.rng
    x, y = spot(canvas, surface.body, 0.2)
    radius = rng.uniform(0.18, 0.36)
    distance = disc(canvas.x - np.float32(x), canvas.y - np.float32(y), radius)
    coverage = on_body(canvas.fill(distance + canvas.noise(radius) * np.float32(0.2 * radius), 6.0), surface)
    burnt = rng.random() < 0.5
    gain = np.array(rng.uniform(0.35, 0.6) * np.array([1.1, 0.95, 0.8]) if burnt else rng.uniform(1.35, 1.7, 3))
    other = surface.colour * gain.astype(np.float32) + np.float32(0 if burnt else 0.08)
    return surface.painted(coverage, np.clip(other, 0, 0.98)), coverage


def fibre(canvas: Canvas, surface: Surface) -> Flaw:
    """Lay a thread or hair on the surface."""
    rng = canvas.rng
    points = wandering(canvas, spot(canvas, surface.body, 0.15), rng.uniform(0.6, 1.4), 0.28, 40)
    coverage = on_body(canvas.stroke(points, rng.uniform(0.03, 0.06)), surface)
    colour = showing(canvas, surface, coverage, 0.3, 0.6)
    return surface.painted(coverage, colour).raised(coverage * np.float32(0.02)), coverage


def misprint(canvas: Canvas, surface: Surface) -> Flaw:
    """Shift a band of the print, or print a part of it twice."""
    rng = canvas.rng
    centre = _middle_of_part(canvas, surface) or spot(canvas, surface.body, 0.2)
    x, y = canvas.turned(rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.05), centre)
    band = np.maximum(np.abs(x) - np.float32(rng.uniform(0.2, 0.45)), np.abs(y) - np.float32(rng.uniform(0.06, 0.14)))
    band_coverage = on_body(canvas.fill(band), surface)
    shift = rng.uniform(0.04, 0.1, 2) * rng.choice([-1, 1], 2)
    colour, height = moved(
        surface,
        np.full(canvas.size, shift[0], dtype=np.float32),
        np.full(canvas.size, shift[1], dtype=np.float32),
        canvas,
    )
    if rng.random() < 0.4:  # printed twice: the darker of both wins
        colour = np.minimum(colour, surface.colour)
    changed = np.abs(colour - surface.colour).max(axis=-1) > 0.08
    coverage = band_coverage * changed
    return replaced(surface, coverage, colour, height), coverage


def _middle_of_part(canvas: Canvas, surface: Surface) -> tuple[float, float] | None:
    if not surface.parts:
        return None
    part = surface.parts[canvas.rng.integers(len(surface.parts))]
    return float(canvas.x[part].mean()), float(canvas.y[part].mean())
