"""Defects without a name: anything that is out of place."""

from collections.abc import Mapping

import cv2
import numpy as np

from drawn_anomalies.canvas import Canvas, Plane, Surface, box, disc, flat, mixed
from drawn_anomalies.flaw import Defect, Flaw, blob, moved, on_body, replaced, showing, spot, wandering
from drawn_anomalies.pairs.invented import pattern, some_colour


def foreign_matter(canvas: Canvas, surface: Surface) -> Flaw:
    """Lay a patch of another material on the surface, or sink it in."""
    rng = canvas.rng
    coverage = on_body(_patch(canvas, surface, rng.uniform(0.07, 0.25)), surface)
    tone, _ = pattern(canvas)
    base = showing(canvas, surface, coverage, 0.1, 0.5) if rng.random() < 0.7 else some_colour(rng)
    colour = flat(canvas.size, base) * (1 + np.float32(rng.uniform(0, 0.3)) * tone)[..., None]
    seen = np.clip(mixed(surface.colour, np.float32(rng.uniform(0.5, 1.0)) * coverage, colour), 0, 1)
    raised = np.float32(rng.choice([-0.04, 0.0, 0.04])) * coverage
    return replaced(surface, coverage, seen.astype(np.float32), surface.height + raised), coverage


def transplant(canvas: Canvas, surface: Surface) -> Flaw:
    """Copy a rotated patch of the surface to another place."""
    rng = canvas.rng
    centre = spot(canvas, surface.body, 0.15)
    source = spot(canvas, surface.body, 0.15)
    coverage = on_body(blob(canvas, centre, rng.uniform(0.1, 0.25), 0.2), surface)
    x, y = canvas.turned(rng.uniform(0.5, 2 * np.pi - 0.5), centre)
    dx, dy = x + np.float32(source[0]) - canvas.x, y + np.float32(source[1]) - canvas.y
    colour, height = moved(surface, dx, dy, canvas)
    return replaced(surface, coverage, colour, height), coverage


def worn_patch(canvas: Canvas, surface: Surface) -> Flaw:
    """Wear a patch down: its pattern and relief are smeared."""
    rng = canvas.rng
    coverage = on_body(blob(canvas, spot(canvas, surface.body, 0.15), rng.uniform(0.12, 0.3)), surface)
    reach = rng.uniform(0.04, 0.15) / canvas.pixel
    colour = cv2.GaussianBlur(surface.colour, (0, 0), reach) * np.float32(rng.uniform(0.75, 1.25))
    height = cv2.GaussianBlur(surface.height, (0, 0), reach)
    return replaced(surface, coverage, np.clip(colour, 0, 1).astype(np.float32), height), coverage


def plain_mark(canvas: Canvas, surface: Surface) -> Flaw:
    """Leave a mark of one colour: dots, bars, short strokes, alone or a few together."""
    rng = canvas.rng
    centre = spot(canvas, surface.body, 0.1)
    coverage = np.zeros(canvas.size, np.float32)
    for _ in range(rng.integers(1, 5)):
        at = (centre[0] + rng.normal(0, 0.08), centre[1] + rng.normal(0, 0.08))
        coverage = np.maximum(coverage, _stroke_or_dot(canvas, at))
    coverage = on_body(coverage, surface)
    colour = showing(canvas, surface, coverage, 0.15, 0.6)
    raised = np.float32(rng.choice([-0.015, 0.0, 0.02]))
    return surface.painted(coverage, colour).raised(coverage * raised), coverage


def thin_line(canvas: Canvas, surface: Surface) -> Flaw:
    """Draw one or two lines as thin as a tool leaves them, nearly straight, sunk or of another tone."""
    rng = canvas.rng
    centre = spot(canvas, surface.body, 0.1)
    coverage = np.zeros(canvas.size, np.float32)
    for _ in range(rng.integers(1, 3)):
        at = (centre[0] + rng.normal(0, 0.08), centre[1] + rng.normal(0, 0.08))
        points = wandering(canvas, at, rng.uniform(0.25, 1.5), rng.choice([0.0, 0.05, 0.15]), 30)
        coverage = np.maximum(coverage, canvas.stroke(points, rng.uniform(0.006, 0.025)))
    coverage = on_body(coverage, surface)
    colour = showing(canvas, surface, coverage, 0.12, 0.5)
    marked = surface.painted(coverage * np.float32(rng.uniform(0.5, 1.0)), colour)
    return marked.raised(-coverage * np.float32(rng.choice([0.0, 0.006]))), coverage


def rough_patch(canvas: Canvas, surface: Surface) -> Flaw:
    """Roughen a patch: grain in its relief and its tone."""
    rng = canvas.rng
    coverage = on_body(_patch(canvas, surface, rng.uniform(0.1, 0.26)), surface)
    grain = canvas.noise(rng.uniform(0.02, 0.08), 2)
    tone = np.clip(surface.colour * (1 + np.float32(rng.uniform(0.1, 0.35)) * grain)[..., None], 0, 1)
    return surface.painted(coverage, tone).raised(coverage * grain * np.float32(rng.uniform(0.008, 0.03))), coverage


def _stroke_or_dot(canvas: Canvas, at: tuple[float, float]) -> Plane:
    rng = canvas.rng
    if rng.random() < 0.6:
        points = wandering(canvas, at, rng.uniform(0.15, 0.7), rng.choice([0.0, 0.1]), 12)
        return canvas.stroke(points, rng.uniform(0.02, 0.07))
    return _form(canvas, at, rng.uniform(0.03, 0.1))


def _patch(canvas: Canvas, surface: Surface, radius: float) -> Plane:
    at = spot(canvas, surface.body, radius)
    return blob(canvas, at, radius) if canvas.rng.random() < 0.6 else _form(canvas, at, radius)


def _form(canvas: Canvas, at: tuple[float, float], radius: float) -> Plane:
    x, y = canvas.turned(canvas.rng.uniform(0, np.pi), at)
    if canvas.rng.random() < 0.4:
        return canvas.fill(disc(x, y * np.float32(canvas.rng.uniform(1, 2)), radius))
    return canvas.fill(box(x, y, radius, radius * canvas.rng.uniform(0.2, 1.0)))


NAMELESS: Mapping[str, Defect] = {
    draw.__name__: draw for draw in (foreign_matter, transplant, worn_patch, plain_mark, thin_line, rough_patch)
}
"""Kinds of defects that captions only call a defect."""
