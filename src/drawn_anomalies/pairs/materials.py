"""Materials that fill the picture, each in any colour."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from drawn_anomalies.canvas import Canvas, Colour, Plane, Surface, disc, flat, mixed, texture
from drawn_anomalies.pairs.palette import contrasting, toned

TAU = 2 * np.pi

DARK = 0.2
"""Brightness below which neither the dark behind a material nor a darker shade of it is visible."""


def concrete(canvas: Canvas, colour: Colour) -> Surface:
    """Draw cast concrete: clouds and small pores."""
    pores = np.clip(canvas.noise(0.05) - np.float32(1.7), 0, 0.6)
    tone = np.float32(0.10) * canvas.noise(0.8, 4) + np.float32(0.05) * canvas.grain() - np.float32(0.5) * pores
    return filling(shaded(canvas, colour, tone), -pores * np.float32(0.03))


def sandpaper(canvas: Canvas, colour: Colour) -> Surface:
    """Draw sharp grains of one size."""
    grain = canvas.noise(0.028)
    return filling(shaded(canvas, colour, grain * np.float32(0.22)), grain * np.float32(0.007), 0.1)


def cardboard(canvas: Canvas, colour: Colour) -> Surface:
    """Draw board with long faint streaks and visible flutes."""
    across = turned(canvas)[1]
    flutes = np.sin(across * np.float32(TAU / canvas.rng.uniform(0.09, 0.13)))
    tone = np.float32(0.05) * flutes + np.float32(0.06) * canvas.noise(0.06, 2, 8.0)
    return filling(shaded(canvas, colour, tone), flutes * np.float32(0.0015))


def denim(canvas: Canvas, colour: Colour) -> Surface:
    """Draw twill: fine diagonal ribs, mottled along them."""
    x, y = turned(canvas, 0.2)
    ribs = np.sin((x + y) * np.float32(TAU / canvas.rng.uniform(0.07, 0.09)))
    tone = np.float32(0.22) * ribs + np.float32(0.16) * canvas.noise(0.04, 2) + np.float32(0.06) * canvas.noise(0.6)
    return filling(shaded(canvas, colour, tone), ribs * np.float32(0.004))


def plastic(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a smooth glossy sheet."""
    height = canvas.noise(1.2) * np.float32(0.012)
    return filling(shaded(canvas, colour, canvas.noise(0.9) * np.float32(0.02)), height, 0.35)


def rubber_mat(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a mat with round studs in rows."""
    x, y, spacing = *turned(canvas), canvas.rng.uniform(0.22, 0.32)
    studs = canvas.fill(disc(folded(x, spacing), folded(y, spacing), 0.3 * spacing), 2.5)
    tone = np.float32(0.16) * studs + np.float32(0.05) * canvas.grain()
    return filling(shaded(canvas, colour, tone), studs * np.float32(0.03), 0.12)


def striped_fabric(canvas: Canvas, colour: Colour) -> Surface:
    """Draw cloth with stripes of a second colour."""
    x, spacing = turned(canvas, np.pi)[0], canvas.rng.uniform(0.22, 0.4)
    stripes = canvas.fill(np.abs(folded(x, spacing)) - np.float32(spacing * canvas.rng.uniform(0.12, 0.2)))
    return _cloth(canvas, colour, stripes)


def checked_fabric(canvas: Canvas, colour: Colour) -> Surface:
    """Draw cloth with crossing bands of a darker or brighter shade."""
    x, y, spacing = *turned(canvas, 0.8), canvas.rng.uniform(0.35, 0.55)
    bands = [canvas.fill(np.abs(folded(axis, spacing)) - np.float32(0.25 * spacing)) for axis in (x, y)]
    return _cloth(canvas, colour, (bands[0] + bands[1]) * np.float32(0.34))


def dotted_fabric(canvas: Canvas, colour: Colour) -> Surface:
    """Draw cloth with polka dots."""
    x, y, spacing = *turned(canvas, 0.8), canvas.rng.uniform(0.28, 0.42)
    row = np.round(y / np.float32(spacing))
    dots = disc(folded(x + row * np.float32(0.5 * spacing), spacing), folded(y, spacing), 0.26 * spacing)
    return _cloth(canvas, colour, canvas.fill(dots))


def zigzag_pattern(canvas: Canvas, colour: Colour) -> Surface:
    """Draw printed zigzag lines."""
    x, y, spacing = *turned(canvas, 0.5), canvas.rng.uniform(0.34, 0.48)
    zigzag = y + np.abs(folded(x, 1.2 * spacing)) * np.float32(1.1)
    lines = canvas.fill(np.abs(folded(zigzag, spacing)) - np.float32(0.17 * spacing))
    return filling(mixed(shaded(canvas, colour), lines, canvas.colour(contrasting(colour))), _level(canvas))


def honeycomb(canvas: Canvas, colour: Colour) -> Surface:
    """Draw hexagonal cells with raised walls."""
    x, y, spacing = *turned(canvas, np.pi), canvas.rng.uniform(0.2, 0.32)
    depth = [_hexagon(x, y, spacing), _hexagon(x + 0.5 * spacing, y + 0.75**0.5 * spacing, spacing)]
    wall = canvas.fill(np.float32(0.41 * spacing) - np.minimum(*depth), 2.0)
    inner = np.float32(0.42) * (wall - np.float32(0.75))
    tone = np.maximum(inner, np.float32(-0.3)) + np.float32(0.05) * canvas.noise(0.1, 2)
    return filling(shaded(canvas, colour, tone), wall * np.float32(0.05), 0.1)


def foam(canvas: Canvas, colour: Colour) -> Surface:
    """Draw open pores of different sizes."""
    rough = canvas.noise(0.11, 2)
    pores = np.clip(rough - np.float32(0.5), 0, 1.2)
    return filling(shaded(canvas, colour, np.float32(0.05) - np.float32(0.45) * pores), pores * np.float32(-0.05))


def carpet(canvas: Canvas, colour: Colour) -> Surface:
    """Draw tufts that lie in all directions."""
    tufts = canvas.noise(0.05, 2) * np.cos(canvas.noise(0.1) * np.float32(2))
    tone = np.float32(0.3) * tufts + np.float32(0.08) * canvas.grain()
    return filling(shaded(canvas, colour, tone), tufts * np.float32(0.014))


def corrugated_sheet(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a sheet in broad waves."""
    x, length = turned(canvas, np.pi)[0], canvas.rng.uniform(0.2, 0.32)
    waves = np.sin(x * np.float32(TAU / length))
    tone = np.float32(0.16) * waves + np.float32(0.03) * canvas.noise(0.3, 3)
    return filling(shaded(canvas, colour, tone), waves * np.float32(0.12 * length), 0.25)


def plaster(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a wall with soft strokes of the trowel."""
    strokes = canvas.noise(0.25, 3, 1.8)
    return filling(shaded(canvas, colour, strokes * np.float32(0.05)), strokes * np.float32(0.022))


def cork(canvas: Canvas, colour: Colour) -> Surface:
    """Draw pressed granules with dark gaps."""
    granules, gaps = canvas.noise(0.12), np.clip(canvas.noise(0.07, 2) - np.float32(0.9), 0, 1)
    tone = np.float32(0.2) * np.round(granules * np.float32(1.2)) * np.float32(0.6) - np.float32(0.5) * gaps
    return filling(shaded(canvas, colour, tone), -gaps * np.float32(0.02))


def parquet(canvas: Canvas, colour: Colour) -> Surface:
    """Draw wooden strips in courses, each with its own tone and grain."""
    x, y = turned(canvas, np.pi)
    wide, long = canvas.rng.uniform(0.25, 0.36), canvas.rng.uniform(0.9, 1.3)
    course = np.round(y / np.float32(wide))
    along = x + np.float32(0.4 * long) * course
    strip = (course * 5 + np.round(along / np.float32(long)) * 3).astype(np.int64) % 8
    tones = canvas.rng.normal(0, 0.16, 8).astype(np.float32)
    wood = np.sin(y * np.float32(70) + tones[strip] * 40 + canvas.noise(0.5, 2, 3.0)) * np.float32(0.07)
    edge = np.minimum(wide / 2 - np.abs(folded(y, wide)), long / 2 - np.abs(folded(along, long)))
    joint = canvas.fill(edge - np.float32(0.012))
    return filling(
        shaded(canvas, colour, tones[strip] + wood - joint * np.float32(0.6)), joint * np.float32(-0.01), 0.1
    )


def turned(canvas: Canvas, spread: float = 0.3) -> tuple[Plane, Plane]:
    """Rotate by a random angle around a random point, so that patterns can start anywhere."""
    centre = canvas.rng.uniform(-0.5, 0.5, 2)
    return canvas.turned(canvas.rng.uniform(-spread / 2, spread / 2), (float(centre[0]), float(centre[1])))


def folded(position: Plane, period: float) -> Plane:
    """Repeat a coordinate with a period, centred on zero."""
    return position - np.float32(period) * np.round(position / np.float32(period))


def _hexagon(x: Plane, y: Plane, spacing: float) -> Plane:
    x, y = np.abs(folded(x, spacing)), np.abs(folded(y, 3**0.5 * spacing))
    return np.maximum(x, np.float32(0.5) * x + np.float32(0.75**0.5) * y)


def shaded(canvas: Canvas, colour: Colour, tone: Plane | None = None) -> Float32[ndarray, "height width 3"]:
    """Colour the picture; a tone of 0.1 is a tenth brighter, and is visible on black and white too."""
    base = flat(canvas.size, canvas.colour(colour, 0.025))
    if tone is None:
        return base
    gain = np.float32(0.75) * base + np.float32(0.14)
    return np.clip(base + gain * tone[..., None], 0, 1).astype(np.float32)


def filling(colour: Float32[ndarray, "height width 3"], height: Plane, gloss: float = 0.0) -> Surface:
    """Fill the picture; the backdrop of a dark material is bright, so that holes are visible."""
    surface = texture(colour, height, gloss)
    dark = float(surface.colour.mean()) < DARK
    return replace(surface, backdrop=np.full_like(surface.colour, 0.75)) if dark else surface


def _level(canvas: Canvas) -> Plane:
    return np.zeros(canvas.size, dtype=np.float32)


def _cloth(canvas: Canvas, colour: Colour, pattern: Plane) -> Surface:
    """Lay a pattern of a second colour on plain cloth."""
    strong = canvas.rng.random() < 0.7 or sum(colour) / 3 < DARK
    second = contrasting(colour) if strong else toned(colour, 0.5, 0.05)
    grain = np.sin(canvas.x * np.float32(160)) * np.sin(canvas.y * np.float32(160))
    tone = np.float32(0.06) * grain + np.float32(0.05) * canvas.noise(0.5, 2)
    return filling(mixed(shaded(canvas, colour, tone), pattern, canvas.colour(second)), grain * np.float32(0.002))
