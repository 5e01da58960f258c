"""The tools of all defects: a place on the body, a line across it, a visible colour, and the exact mask."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from drawn_anomalies.canvas import Canvas, Colour, Plane, Region, Surface, disc
from drawn_anomalies.light import Light

Flaw = tuple[Surface, Plane]
"""A flawed surface, and the share of each pixel that the defect covers."""

Defect = Callable[[Canvas, Surface], Flaw]
"""Draws one kind of defect on a surface, with the canvas' randomness."""

TRIES = 12
"""Number of draws after which the most visible flaw is taken."""


@dataclass(frozen=True)
class Visible:
    """How large and clear a defect must be.

    Attributes:
        contrast: Lowest mean difference to the whole surface in its mask, as a share of full brightness.
        area: Smallest share of the picture that its mask covers.
    """

    scale: float = 1.0
    contrast: float = 0.07
    area: float = 0.003


LARGEST_AREA = 0.2
"""Largest share of the picture that a mask covers."""


def flawed(
    canvas: Canvas, surface: Surface, light: Light, defect: Defect, least: Visible = Visible()
) -> tuple[Surface, Region]:
    """Put a defect on a surface where it is visible.

    Args:
        least: How large and clear it must be, as far as its kind and the surface allow.

    Returns:
        The flawed surface, and the mask of the pixels that are at least half covered by the defect.
    """
    whole = light.seen(surface, canvas.pixel)
    best, most = None, -1.0
    for _ in range(TRIES):
        candidate, coverage = _enlarged(defect, least.scale)(canvas, surface)
        mask = coverage > 0.5
        share = float(mask.mean())
        if share == 0:
            continue
        difference = np.abs(light.seen(candidate, canvas.pixel) - whole).max(axis=-1)
        contrast = float(difference[mask].mean())
        fits = least.area <= share <= LARGEST_AREA
        if fits and contrast >= least.contrast:
            return candidate, mask
        merit = contrast if fits else contrast / 10
        if merit > most:
            best, most = (candidate, mask), merit
    assert best is not None, "a defect covers at least one pixel of the body"
    return best


def photographed(
    canvas: Canvas, surface: Surface, defect: Defect | None, least: Visible
) -> tuple[UInt8[ndarray, "height width 3"], Region | None]:
    """Photograph a surface, whole or with a defect, in random light.

    Returns:
        RGB, and the mask of the defect, if there is one.
    """
    light, mask = Light.drawn(canvas), None
    if defect is not None:
        surface, mask = flawed(canvas, surface, light, defect, least)
    return light.photographed(light.seen(surface, canvas.pixel)), mask


def _enlarged(defect: Defect, scale: float) -> Defect:
    def drawn(canvas: Canvas, surface: Surface) -> Flaw:
        unit = np.float32(scale)
        flaw, coverage = defect(canvas.zoomed(scale), replace(surface, height=surface.height / unit))
        return replace(flaw, height=flaw.height * unit), coverage

    return drawn if scale != 1 else defect


def spot(canvas: Canvas, body: Region, margin: float = 0.0) -> tuple[float, float]:
    """Choose a random point of the body.

    Args:
        margin: Wanted distance to the edge of the body and of the picture; less where the body is too slim.

    Returns:
        ``x, y``.
    """
    inside = np.pad(body, 1).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1] * canvas.pixel
    candidates = np.flatnonzero(depth >= min(margin, 0.8 * float(depth.max())))
    row, column = np.unravel_index(canvas.rng.choice(candidates), body.shape)
    return float(canvas.x[row, column]), float(canvas.y[row, column])


def blob(canvas: Canvas, centre: tuple[float, float], radius: float, roughness: float = 0.35) -> Plane:
    """Return the coverage of a patch with an irregular edge.

    Args:
        roughness: How far its edge wanders, as a share of the radius.
    """
    angle = canvas.rng.uniform(0, np.pi)
    x, y = canvas.turned(angle, centre)
    longer = canvas.rng.uniform(1.0, 1.7)
    distance = disc(x / np.float32(longer), y * np.float32(longer**0.5), radius)
    return canvas.fill(distance + canvas.noise(radius, 3) * np.float32(roughness * radius), 1.5)


def wandering(
    canvas: Canvas, start: tuple[float, float], length: float, bend: float, num_points: int = 24
) -> Float32[ndarray, "points 2"]:
    """Return the points of a wandering line.

    Args:
        bend: Standard deviation of each change of direction in radians.
    """
    rng = canvas.rng
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, num_points - 1))
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (length / (num_points - 1))
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    return (points - points[num_points // 2] + np.asarray(start)).astype(np.float32)


def on_body(coverage: Plane, surface: Surface) -> Plane:
    """Clip a coverage at the edge of the body."""
    return coverage * surface.body


def showing(canvas: Canvas, surface: Surface, coverage: Plane, least: float = 0.2, most: float = 0.5) -> Colour:
    """Choose a colour that is visible on what it covers.

    Returns:
        Brighter or darker than the surface there, with a hue of its own.
    """
    rng = canvas.rng
    below = surface.colour[coverage > 0.5]
    base = below.mean(axis=0) if len(below) else surface.colour.mean(axis=(0, 1))
    step = rng.uniform(least, most)
    level = float(base.mean())
    up = level + step <= 0.97 and (level - step < 0.03 or rng.random() < 0.5)
    hue = rng.normal(0, 0.07, 3)
    red, green, blue = np.clip(base + (step if up else -step) + hue - hue.mean(), 0.01, 0.99).tolist()
    return red, green, blue


def moved(surface: Surface, dx: Plane, dy: Plane, canvas: Canvas) -> tuple[Float32[ndarray, "height width 3"], Plane]:
    """Return the colour and height at ``x + dx, y + dy`` for every pixel."""
    height, width = canvas.size
    columns = (np.arange(width, dtype=np.float32)[None] + dx / np.float32(canvas.pixel)).astype(np.float32)
    rows = (np.arange(height, dtype=np.float32)[:, None] + dy / np.float32(canvas.pixel)).astype(np.float32)
    both = np.dstack([surface.colour, surface.height])
    seen = cv2.remap(both, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return seen[..., :3], seen[..., 3]


def replaced(surface: Surface, coverage: Plane, colour: Float32[ndarray, "height width 3"], height: Plane) -> Surface:
    """Return the surface with other colour and height where ``coverage`` says so."""
    return replace(surface.painted(coverage, colour), height=surface.height + coverage * (height - surface.height))
