"""Materials and things without a name: random layers of patterns, printed marks and outlines.

A model that has seen many of them can tell what belongs to a pattern from what does not, for any pattern.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from drawn_anomalies.canvas import Canvas, Colour, Plane, Surface, box, cells, disc, flat, mixed, placed, texture
from drawn_anomalies.pairs.frame import BACKDROPS, Frame, bevel, framed, part
from drawn_anomalies.pairs.palette import contrasting, toned

TAU = 2 * np.pi

Picture = Float32[ndarray, "height width 3"]


def invented_material(canvas: Canvas) -> Surface:
    """Draw a material of one to three layers, with or without printed marks."""
    rng = canvas.rng
    colour, height, gloss = _substance(canvas, some_colour(rng))
    surface = texture(colour, height, gloss)
    behind = flat(canvas.size, toned(some_colour(rng), 0.4))
    surface = replace(surface, backdrop=behind)
    if rng.random() < 0.3:
        at = Frame(*canvas.turned(rng.uniform(0, TAU)), 1.0)
        surface = _printed(canvas, surface, at, 0.95)
    return surface


def invented_thing(canvas: Canvas) -> Surface:
    """Draw an object made of one or two pieces on a plain background, with or without printed marks."""
    rng = canvas.rng
    at = framed(canvas)
    scale = np.float32(at.scale)
    distance = _outline(canvas, at) * scale
    base = some_colour(rng)
    ground = _ground(canvas, base)
    colour, height, gloss = _substance(canvas, base, strength=rng.uniform(0.2, 0.8))
    if rng.random() < 0.5:
        inner = (distance + np.float32(rng.uniform(0.06, 0.25))).astype(np.float32)
        if rng.random() < 0.5:
            other, _, _ = _substance(canvas, some_colour(rng), strength=0.4)
            colour = mixed(colour, canvas.fill(inner), other)
        step = np.float32(rng.uniform(-0.03, 0.03)) * canvas.fill(inner, 3.0)
        height = height + step
    relief = height + bevel(distance, rng.uniform(0.02, 0.3), rng.uniform(0.0, 0.1))
    coverage = canvas.fill(distance)
    shadow = np.clip(1 - distance / np.float32(rng.uniform(0.05, 0.2)), 0, 1) * np.float32(rng.uniform(0, 0.5))
    ground = (ground * (1 - shadow)[..., None]).astype(np.float32)
    surface = placed(ground, coverage, colour, relief, gloss)
    if rng.random() < 0.55:
        surface = _printed(canvas, surface, at, 0.6)
    return surface


def some_colour(rng: np.random.Generator) -> Colour:
    """Choose any colour, dull ones more often than bright ones."""
    level, hue = rng.uniform(0.08, 0.9), rng.normal(0, 1, 3)
    spread = np.float32(rng.choice([0.02, 0.08, 0.2], p=[0.4, 0.35, 0.25]))
    red, green, blue = np.clip(level + spread * (hue - hue.mean()), 0.03, 0.97).tolist()
    return red, green, blue


def pattern(canvas: Canvas) -> tuple[Plane, Plane]:
    """Draw one layer.

    Returns:
        Its tone, about -1 to 1, and its relief in units of half the shorter side.
    """
    rng = canvas.rng
    layer = _one_of(rng, *PATTERNS)(canvas)
    relief = np.float32(rng.choice([0.0, 0.004, 0.012]) * rng.choice([-1, 1]))
    return layer.astype(np.float32), layer.astype(np.float32) * relief


def _substance(canvas: Canvas, base: Colour, strength: float = 1.0) -> tuple[Picture, Plane, float]:
    rng = canvas.rng
    colour = flat(canvas.size, base)
    height = np.zeros(canvas.size, np.float32)
    for number in range(rng.integers(1, 4)):
        tone, relief = pattern(canvas)
        if rng.random() < 0.5:
            gain = np.float32(rng.uniform(0.03, 0.35) * strength / (1 + number))
            colour = colour * (1 + gain * tone)[..., None]
        else:
            other = toned(base, rng.uniform(0.4, 1.6)) if rng.random() < 0.6 else some_colour(rng)
            share = np.clip(tone * np.float32(0.5) + np.float32(0.5), 0, 1) * np.float32(
                rng.uniform(0.2, 0.9) * strength
            )
            colour = mixed(colour, share, other)
        height = height + relief * np.float32(strength)
    colour = colour + np.float32(rng.uniform(0, 0.02)) * canvas.grain()[..., None]
    gloss = float(rng.choice([0.0, 0.1, 0.3, 0.5]))
    return np.clip(colour, 0.01, 0.98).astype(np.float32), height.astype(np.float32), gloss


def _clouds(canvas: Canvas) -> Plane:
    return canvas.noise(canvas.rng.uniform(0.1, 1.2), int(canvas.rng.integers(1, 5))) * np.float32(0.7)


def _streaks(canvas: Canvas) -> Plane:
    streaks = canvas.noise(canvas.rng.uniform(0.02, 0.12), 2, canvas.rng.uniform(4, 20)) * np.float32(0.7)
    return streaks.T.copy() if canvas.rng.random() < 0.5 and canvas.size[0] == canvas.size[1] else streaks


def _blotches(canvas: Canvas) -> Plane:
    clouds = canvas.noise(canvas.rng.uniform(0.06, 0.35), 2)
    return np.tanh((clouds - np.float32(canvas.rng.uniform(-0.8, 0.8))) * np.float32(canvas.rng.uniform(2, 8)))


def _waves(canvas: Canvas) -> Plane:
    rng = canvas.rng
    x, y = canvas.turned(rng.uniform(0, np.pi))
    period = rng.uniform(0.06, 0.5)
    bent = y + np.float32(rng.uniform(0.05, 0.25)) * canvas.noise(rng.uniform(0.3, 1.0), 1, 2.0)
    return np.sin(bent * np.float32(TAU / period)) * (1 + np.float32(0.3) * np.sin(x))


def _grating(canvas: Canvas) -> Plane:
    rng = canvas.rng
    x, y = canvas.turned(rng.uniform(0, np.pi))
    first, second = rng.uniform(0.05, 0.3, 2)
    return (np.sin(x * np.float32(TAU / first)) + np.sin(y * np.float32(TAU / second))) * np.float32(0.5)


def _stripes(canvas: Canvas) -> Plane:
    rng = canvas.rng
    x, _ = canvas.turned(rng.uniform(0, np.pi))
    return np.tanh((np.sin(x * np.float32(TAU / rng.uniform(0.08, 0.6))) - np.float32(rng.uniform(-0.7, 0.7))) * 6)


def _lattice(canvas: Canvas) -> Plane:
    rng = canvas.rng
    x, y = canvas.turned(rng.uniform(0, np.pi))
    spacing = np.float32(rng.uniform(0.12, 0.45))
    row = np.round(y / spacing)
    x = x + row * spacing * np.float32(0.5 * rng.integers(2))
    dx, dy = x - np.round(x / spacing) * spacing, y - row * spacing
    return 2 * canvas.fill(_mark(rng, dx, dy, float(spacing) * rng.uniform(0.18, 0.42)), rng.uniform(1, 5)) - 1


def _cell_tones(canvas: Canvas) -> Plane:
    _, _, value = cells(canvas, canvas.rng.uniform(0.12, 0.5))
    return 2 * value - 1


def _cell_walls(canvas: Canvas) -> Plane:
    first, second, _ = cells(canvas, canvas.rng.uniform(0.15, 0.5))
    return 2 * np.clip((second - first) / np.float32(canvas.rng.uniform(0.02, 0.12)), 0, 1) - 1


def _scattered(canvas: Canvas) -> Plane:
    rng = canvas.rng
    away, _, value = cells(canvas, rng.uniform(0.1, 0.4))
    size = np.float32(rng.uniform(0.015, 0.06))
    return 2 * canvas.fill(away - size * (value + np.float32(0.3)), 2.0) - 1


def _fine_grain(canvas: Canvas) -> Plane:
    return canvas.noise(canvas.rng.uniform(0.012, 0.05), int(canvas.rng.integers(1, 3))) * np.float32(0.7)


PATTERNS: tuple[Callable[[Canvas], Plane], ...] = (
    _clouds,
    _streaks,
    _blotches,
    _waves,
    _grating,
    _stripes,
    _lattice,
    _cell_tones,
    _cell_walls,
    _scattered,
    _fine_grain,
)
"""The layers of invented materials."""


def _mark(rng: np.random.Generator, x: Plane, y: Plane, size: float) -> Plane:
    """Return the signed distance to a small printed or moulded mark."""
    form = rng.integers(5)
    if form == 0:
        return disc(x, y, size)
    if form == 1:
        return np.abs(disc(x, y, 0.75 * size)) - np.float32(0.25 * size)
    if form == 2:
        return box(x, y, size, size * rng.uniform(0.3, 1.0), 0.2 * size)
    if form == 3:
        return np.minimum(box(x, y, size, 0.3 * size), box(x, y, 0.3 * size, size))
    return np.maximum(np.abs(x) * np.float32(0.87) + y * np.float32(0.5), -y) - np.float32(0.5 * size)


def _outline(canvas: Canvas, at: Frame) -> Plane:
    """Return the signed distance to a random outline: smooth, with corners or a hole, or in two pieces; no gears."""
    rng = canvas.rng
    distance = _piece(rng, at.x, at.y, rng.uniform(0.6, 0.95))
    choice = rng.random()
    if choice < 0.25:
        away, angle = rng.uniform(0.3, 0.6), rng.uniform(0, TAU)
        dx, dy = np.float32(away * np.cos(angle)), np.float32(away * np.sin(angle))
        distance = np.minimum(distance, _piece(rng, at.x - dx, at.y - dy, rng.uniform(0.2, 0.45)))
    elif choice < 0.5:
        distance = np.maximum(distance, -_piece(rng, at.x, at.y, rng.uniform(0.12, 0.35)))
    return distance.astype(np.float32)


def _piece(rng: np.random.Generator, x: Plane, y: Plane, size: float) -> Plane:
    form = rng.integers(4)
    longer = rng.uniform(0.35, 1.0)
    if form == 0:
        return box(x, y, size, size * longer, size * longer * rng.uniform(0, 1))
    radius, angle = np.hypot(x, y / np.float32(longer**0.5)), np.arctan2(y, x)
    if form == 1:
        return radius - np.float32(size)
    if form == 2:
        waves = sum(
            np.float32(rng.normal(0, 0.12 / n)) * np.cos(n * angle + np.float32(rng.uniform(0, TAU)))
            for n in range(1, 5)
        )
        return radius - np.float32(size) * (1 + waves)
    corners = int(rng.integers(3, 8))
    sector = np.float32(TAU / corners)
    folded = angle - np.round(angle / sector) * sector
    return radius * np.cos(folded) - np.float32(size * np.cos(np.pi / corners))


def _ground(canvas: Canvas, base: Colour) -> Picture:
    rng = canvas.rng
    options = [tone for tone in (*BACKDROPS, some_colour(rng)) if np.abs(np.subtract(tone, base)).max() > 0.25]
    colour = options[rng.integers(len(options))]
    rough = np.float32(rng.uniform(0.005, 0.05)) * _one_of(rng, _clouds, _fine_grain, _streaks)(canvas)
    return np.clip(flat(canvas.size, canvas.colour(colour)) + rough[..., None], 0, 1).astype(np.float32)


def _one_of(rng: np.random.Generator, *choices: Callable[[Canvas], Plane]) -> Callable[[Canvas], Plane]:
    return choices[rng.integers(len(choices))]


def _printed(canvas: Canvas, surface: Surface, at: Frame, reach: float) -> Surface:
    """Print or mould marks in rows, on a ring, or scattered.

    Every second time each is a part that can go missing; what it leaves, and what holes and cuts then show, is the
    surface without marks.
    """
    rng = canvas.rng
    places = _places(rng, reach)
    base = surface.colour[surface.body].mean(axis=0).tolist()
    ink: Colour = contrasting(tuple(base)) if rng.random() < 0.6 else some_colour(rng)
    relief = np.float32(rng.choice([0.0, -0.02, 0.02]))
    size = rng.uniform(0.03, 0.11)
    blank, parts = surface.colour, []
    form = int(rng.integers(2**31))
    same = rng.random() < 0.5
    for number, (px, py) in enumerate(places):
        mark_rng = np.random.default_rng(form if same else form + number)
        distance = _mark(mark_rng, at.x - np.float32(px), at.y - np.float32(py), size)
        coverage = canvas.fill(distance * np.float32(at.scale)) * surface.body
        if coverage.max() < 0.5:
            continue
        surface = surface.painted(coverage, ink).raised(coverage * relief)
        parts.append(part(canvas, at, distance) & surface.body)
    if not parts:
        return surface
    return replace(surface, backdrop=blank, parts=tuple(parts)) if rng.random() < 0.5 else surface


def _places(rng: np.random.Generator, reach: float) -> list[tuple[float, float]]:
    choice = rng.random()
    if choice < 0.4:
        rows, columns = rng.integers(1, 5), rng.integers(2, 7)
        gap = 2 * reach / 7
        xs = (np.arange(columns) - (columns - 1) / 2) * gap
        ys = (np.arange(rows) - (rows - 1) / 2) * gap * rng.uniform(1.0, 1.4)
        keep = rng.uniform(0.7, 1.0)
        return [(float(px), float(py)) for py in ys for px in xs if rng.random() < keep]
    if choice < 0.7:
        count, radius = int(rng.integers(2, 9)), rng.uniform(0.3, 0.8) * reach
        return [(float(radius * np.cos(a)), float(radius * np.sin(a))) for a in TAU * np.arange(count) / count]
    return [(float(px), float(py)) for px, py in rng.uniform(-0.7 * reach, 0.7 * reach, (int(rng.integers(1, 8)), 2))]
