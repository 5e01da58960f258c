"""Position of a thing, and its background."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from drawn_anomalies.canvas import Canvas, Colour, Plane, Region, Surface, flat, placed

BACKDROPS: tuple[Colour, ...] = (
    (0.12, 0.12, 0.13),
    (0.30, 0.31, 0.33),
    (0.55, 0.55, 0.54),
    (0.76, 0.76, 0.75),
    (0.84, 0.83, 0.81),
    (0.62, 0.48, 0.33),
    (0.38, 0.46, 0.52),
    (0.50, 0.54, 0.44),
)
"""Background colours: muted, so that the colour in a caption is that of the thing."""


GRAINS = ((0.8, 1, 1.0, 0.012), (0.2, 3, 1.0, 0.03), (0.05, 2, 14.0, 0.03))
"""Size, octaves, stretch and strength of the noise on smooth, mottled and brushed backgrounds."""


@dataclass(frozen=True)
class Frame:
    """The thing's own coordinates.

    Attributes:
        scale: Its size in units of the canvas.
    """

    x: Plane
    y: Plane
    scale: float


def framed(canvas: Canvas, shift: float = 0.0, turn: float = 2 * np.pi) -> Frame:
    """Place a thing anywhere near the middle.

    Args:
        shift: Position of the thing's middle along its own ``x``, for things that are longer on one side.
        turn: Range of its angle in radians, around upright.
    """
    rng = canvas.rng
    scale, angle = rng.uniform(0.72, 1.0), rng.uniform(-turn / 2, turn / 2)
    across, down = rng.normal(0, 0.06, 2)
    x, y = canvas.turned(angle, (float(across), float(down)))
    return Frame(x / np.float32(scale) - np.float32(shift), y / np.float32(scale), scale)


def laid(
    canvas: Canvas,
    colour: Colour,
    at: Frame,
    distance: Plane,
    relief: Plane | None = None,
    gloss: float = 0.2,
    tone: Plane | None = None,
) -> Surface:
    """Draw a thing and its shadow on a background.

    Args:
        distance: Signed distance to its outline, in these coordinates.
        relief: Its height in these coordinates; without one its edges are bevelled.
    """
    scale = np.float32(at.scale)
    distance = (distance * scale).astype(np.float32)
    relief = bevel(distance, 0.07, 0.05) if relief is None else relief * scale
    coverage = canvas.fill(distance)
    ground = _backdrop(canvas, colour)
    shadow = np.clip(1 - distance / np.float32(0.12), 0, 1) * np.float32(0.35)
    ground = ground * (1 - shadow)[..., None]
    base = flat(canvas.size, canvas.colour(colour, 0.025))
    shade = np.float32(0.015) * canvas.noise(0.15, 2) + (0 if tone is None else tone)
    thing = np.clip(base + (np.float32(0.75) * base + np.float32(0.14)) * shade[..., None], 0, 1)
    return placed(ground, coverage, thing.astype(np.float32), relief.astype(np.float32), gloss)


def part(canvas: Canvas, at: Frame, distance: Plane) -> Region:
    """Return a piece of a thing with its soft edge.

    Args:
        distance: Signed distance to the piece in these coordinates.
    """
    return distance * np.float32(at.scale) < np.float32(0.5 * canvas.pixel)


def bevel(distance: Plane, width: float, height: float) -> Plane:
    """Return a relief that rises from the outline over ``width`` to ``height``, steep at first."""
    rise = np.clip(-distance / np.float32(width), 0, 1)
    return (np.float32(height) * rise * (2 - rise)).astype(np.float32)


def _backdrop(canvas: Canvas, colour: Colour) -> Float32[ndarray, "height width 3"]:
    """Draw a background from which a thing of this colour stands out."""
    apart = [tone for tone in BACKDROPS if np.abs(np.subtract(tone, colour)).max() > 0.3]
    base = canvas.colour(apart[canvas.rng.integers(len(apart))])
    scale, octaves, stretch, strength = GRAINS[canvas.rng.integers(len(GRAINS))]
    rough = np.float32(strength) * canvas.noise(scale, octaves, stretch)
    return np.clip(flat(canvas.size, base) + rough[..., None], 0, 1).astype(np.float32)
