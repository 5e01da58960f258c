"""The background of an object: its place, its shadow, and plain grounds."""

from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from drawn_anomalies.canvas import Canvas, Colour, Plane, Surface, flat, placed

Picture = Float32[ndarray, "height width 3"]


def aside(canvas: Canvas, reach: float = 0.08) -> tuple[float, float]:
    """Return a random position, at most ``reach`` from the middle in either direction."""
    dx, dy = canvas.rng.uniform(-reach, reach, 2).tolist()
    return dx, dy


def laid(background: Picture, coverage: Plane, thing: Picture, relief: Plane, gloss: float) -> Surface:
    """Lay an object on its background; its soft rim is part of the body, so a missing piece leaves nothing behind."""
    surface = placed(background, coverage, thing, relief, gloss)
    return replace(surface, body=coverage > 0)


def shadowed(canvas: Canvas, background: Picture, coverage: Plane, strength: float) -> Picture:
    """Darken the background around an object, but no further below it, where a missing piece would reveal it."""
    near = np.minimum(cv2.GaussianBlur(coverage, (0, 0), 0.045 / canvas.pixel), np.float32(0.5))
    return (background * (1 - np.float32(strength) * near)[..., None]).astype(np.float32)


def speckled(canvas: Canvas, base: Colour, strength: float) -> Picture:
    """Draw a plain background with fine specks."""
    tone = 1 + np.float32(strength) * canvas.noise(0.03, 2) + np.float32(0.025) * canvas.noise(0.6, 2)
    return flat(canvas.size, canvas.colour(base, 0.03)) * tone[..., None]
