"""The canvas of a drawing: coordinates, noise, and anti-aliased shapes given by signed distances.

Lengths are in units of half the shorter side, so a drawing looks the same at every resolution.
"""

import copy
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray

Plane = Float32[ndarray, "height width"]
Region = Bool[ndarray, "height width"]
Colour = tuple[float, float, float]


class Canvas:
    """Coordinates and randomness of one picture.

    ``x`` runs to the right and ``y`` downwards; the shorter side spans [-1, 1].

    Args:
        rng: Source of all randomness of the picture.

    Attributes:
        x: Horizontal coordinate of every pixel centre.
        pixel: Side of a pixel.
    """

    def __init__(self, size: tuple[int, int], rng: np.random.Generator) -> None:
        self.size = size
        self.rng = rng
        self.pixel = 2.0 / min(size)
        rows, columns = (((np.arange(n) + 0.5) - n / 2) * self.pixel for n in size)
        self.x: Plane = np.broadcast_to(columns.astype(np.float32), size)
        self.y: Plane = np.broadcast_to(rows.astype(np.float32)[:, None], size)

    def zoomed(self, factor: float) -> "Canvas":
        """Return the same canvas in units ``factor`` times as large, so that drawings on it are that much larger."""
        other = copy.copy(self)
        other.pixel = self.pixel / factor
        other.x, other.y = self.x / np.float32(factor), self.y / np.float32(factor)
        return other

    def turned(self, angle: float, centre: tuple[float, float] = (0.0, 0.0)) -> tuple[Plane, Plane]:
        """Return coordinates of a frame turned by ``angle`` (radians) around ``centre``."""
        x, y = self.x - np.float32(centre[0]), self.y - np.float32(centre[1])
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return cos * x + sin * y, cos * y - sin * x

    def noise(self, scale: float, octaves: int = 1, stretch: float = 1.0) -> Plane:
        """Draw smooth noise of about zero mean and unit deviation.

        Args:
            octaves: Layers of halved size and strength that are added.
            stretch: How much longer features are along ``x`` than along ``y``.
        """
        total = np.zeros(self.size, dtype=np.float32)
        power = 0.0
        for octave in range(octaves):
            strength = 0.5**octave
            total += np.float32(strength) * self._one_octave(scale * strength, stretch)
            power += strength**2
        return total / np.float32(power**0.5)

    def _one_octave(self, scale: float, stretch: float) -> Plane:
        steps = (scale, scale * stretch)
        cells = [
            max(2, round(length * self.pixel / max(step, self.pixel)) + 2)
            for length, step in zip(self.size, steps, strict=True)
        ]
        coarse = self.rng.normal(size=cells).astype(np.float32)
        if min(cells) <= 3:
            coarse -= coarse.mean()
        smooth = cv2.resize(coarse, (self.size[1], self.size[0]), interpolation=cv2.INTER_CUBIC)
        return smooth * np.float32(1.3)  # interpolation takes away about a quarter of the deviation

    def grain(self, strength: float = 1.0) -> Plane:
        """Draw noise that differs from pixel to pixel."""
        return (self.rng.normal(size=self.size) * strength).astype(np.float32)

    def fill(self, distance: Plane, softness: float = 1.0) -> Plane:
        """Turn a signed distance (negative inside) into coverage in [0, 1].

        Args:
            softness: Width of the edge in pixels.
        """
        return np.clip(0.5 - distance / np.float32(self.pixel * softness), 0, 1)

    def stroke(self, points: Float32[ndarray, "points 2"], width: float) -> Plane:
        """Return the coverage of a line through points.

        Args:
            points: ``x, y`` of its corners.
            width: Its width; at least one and a half pixels are drawn.
        """
        shift = 4  # fractional bits of OpenCV's coordinates
        centre = np.array([self.size[1], self.size[0]]) / 2
        pixels = np.round((points / self.pixel + centre - 0.5) * 2**shift).astype(np.int32)
        line = np.full(self.size, 255, dtype=np.uint8)
        cv2.polylines(line, [pixels[:, None]], isClosed=False, color=0, thickness=1, lineType=cv2.LINE_8, shift=shift)
        away = cv2.distanceTransform(line, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        half = max(width / self.pixel, 1.5) / 2
        return np.clip(half + 0.5 - away, 0, 1).astype(np.float32)

    def colour(self, base: Colour, spread: float = 0.04) -> Colour:
        """Vary a colour a little, brightness more than hue."""
        shift = self.rng.normal(0, spread) + self.rng.normal(0, spread / 3, 3)
        red, green, blue = np.clip(np.asarray(base) + shift, 0.02, 0.98).tolist()
        return red, green, blue


@dataclass(frozen=True)
class Surface:
    """What a picture shows, before light falls on it.

    Attributes:
        colour: Reflected share of red, green and blue light, in [0, 1].
        height: Relief, in the canvas' units; light falls on its slopes.
        gloss: Strength of reflections, in [0, 1].
        body: Where the thing is: everywhere for a texture, its silhouette for an object.
        backdrop: Colour of what lies behind the body; seen through holes and where parts are missing.
        parts: Pieces that can be missing or printed wrongly: teeth, letters, keys. Each lies on the body.
    """

    colour: Float32[ndarray, "height width 3"]
    height: Plane
    gloss: float
    body: Region
    backdrop: Float32[ndarray, "height width 3"]
    parts: tuple[Region, ...] = ()

    def painted(self, coverage: Plane, colour: Colour | Float32[ndarray, "height width 3"]) -> "Surface":
        """Return the surface with another colour laid over it where ``coverage`` says so."""
        return replace(self, colour=mixed(self.colour, coverage, colour))

    def raised(self, relief: Plane) -> "Surface":
        """Return the surface with ``relief`` added to its height."""
        return replace(self, height=self.height + relief)


def mixed(
    below: Float32[ndarray, "height width 3"], coverage: Plane, above: Colour | Float32[ndarray, "height width 3"]
) -> Float32[ndarray, "height width 3"]:
    """Lay one colour over another.

    Args:
        coverage: Share of each pixel that is covered, in [0, 1].
    """
    return below + coverage[..., None] * (np.asarray(above, dtype=np.float32) - below)


def texture(colour: Float32[ndarray, "height width 3"], height: Plane, gloss: float = 0.0) -> Surface:
    """Make a surface that fills the picture; its backdrop is dark."""
    colour = np.clip(colour, 0, 1).astype(np.float32)
    everywhere = np.ones(height.shape, dtype=bool)
    return Surface(colour, height, gloss, everywhere, np.full_like(colour, 0.03))


def placed(
    background: Float32[ndarray, "height width 3"],
    coverage: Plane,
    thing: Float32[ndarray, "height width 3"],
    height: Plane,
    gloss: float = 0.2,
) -> Surface:
    """Lay an object on a background.

    Args:
        background: Colour around and behind the object.
        coverage: The object's silhouette, in [0, 1].
        height: Relief of the object; taken where it covers.
    """
    background = np.clip(background, 0, 1).astype(np.float32)
    colour = np.clip(mixed(background, coverage, thing), 0, 1).astype(np.float32)
    # The body takes its soft edge with it: a missing part leaves no outline behind.
    return Surface(colour, (height * coverage).astype(np.float32), gloss, coverage > 0.05, background)


def flat(size: tuple[int, int], colour: Colour) -> Float32[ndarray, "height width 3"]:
    """Return one colour everywhere."""
    return np.broadcast_to(np.asarray(colour, dtype=np.float32), (*size, 3)).copy()


def gradient(position: Plane, dark: Colour, bright: Colour) -> Float32[ndarray, "height width 3"]:
    """Colour a plane of values: ``dark`` at 0 or below, ``bright`` at 1 or above."""
    share = np.clip(position, 0, 1)[..., None].astype(np.float32)
    low, high = np.asarray(dark, dtype=np.float32), np.asarray(bright, dtype=np.float32)
    return low + share * (high - low)


def disc(x: Plane, y: Plane, radius: float) -> Plane:
    """Return the signed distance to a disc around the origin."""
    return np.hypot(x, y) - np.float32(radius)


def box(x: Plane, y: Plane, half_width: float, half_height: float, rounding: float = 0.0) -> Plane:
    """Return the signed distance to a box around the origin."""
    dx = np.abs(x) - np.float32(half_width - rounding)
    dy = np.abs(y) - np.float32(half_height - rounding)
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - np.float32(rounding)


def cells(canvas: Canvas, spacing: float, jitter: float = 0.8) -> tuple[Plane, Plane, Float32[ndarray, "height width"]]:
    """Divide the canvas into cells around jittered grid points (Voronoi).

    Args:
        jitter: How far points leave the grid, as a share of the spacing.

    Returns:
        Distance to the nearest point, distance to the second nearest, and a random value in [0, 1] per cell.
    """
    half = np.array([canvas.size[1], canvas.size[0]]) * canvas.pixel / 2
    counts = np.ceil(2 * half / spacing).astype(int) + 3
    grid = np.stack(np.meshgrid(np.arange(counts[0]), np.arange(counts[1])), axis=-1).reshape(-1, 2)
    points = (grid - (counts - 1) / 2 + canvas.rng.uniform(-jitter / 2, jitter / 2, grid.shape)) * spacing
    first = np.full(canvas.size, np.inf, dtype=np.float32)
    second = first.copy()
    value = np.zeros(canvas.size, dtype=np.float32)
    reach = 2.2 * spacing
    for (px, py), cell_value in zip(points, canvas.rng.uniform(size=len(points)), strict=True):
        rows = _span(py, reach, canvas, axis=0)
        columns = _span(px, reach, canvas, axis=1)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        window = (rows, columns)
        away = np.hypot(canvas.x[window] - np.float32(px), canvas.y[window] - np.float32(py))
        nearer = away < first[window]
        second[window] = np.where(nearer, first[window], np.minimum(second[window], away))
        value[window] = np.where(nearer, np.float32(cell_value), value[window])
        first[window] = np.where(nearer, away, first[window])
    return first, np.minimum(second, np.float32(reach)), value


def _span(centre: float, reach: float, canvas: Canvas, axis: int) -> slice:
    length = canvas.size[axis]
    middle = centre / canvas.pixel + length / 2
    low, high = middle - reach / canvas.pixel, middle + reach / canvas.pixel + 1
    return slice(max(0, int(low)), min(length, max(0, int(high))))
