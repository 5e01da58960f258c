"""The textures of the unseen set: brickwork, marble, woven cloth, leather. No other set draws them."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Float64, Int32
from numpy import ndarray

from drawn_anomalies.canvas import Canvas, Colour, Plane, Region, Surface, box, flat, gradient, mixed, texture
from drawn_anomalies.kinds import Category

Numbers = Int32[ndarray, "height width"]
Picture = Float32[ndarray, "height width 3"]

PERIOD = 64
"""Number of bricks, threads or pebbles after which their properties repeat; more than a picture shows."""


def brick(canvas: Canvas) -> Surface:
    """Draw a wall of red bricks in running bond with pale mortar; each brick is a part."""
    rng = canvas.rng
    length, course = rng.uniform(0.56, 0.66), rng.uniform(0.2, 0.24)
    traits = rng.uniform(-1, 1, (3, PERIOD, PERIOD)).astype(np.float32)
    shifts = (np.arange(PERIOD) % 2 * 0.5 * length + rng.normal(0, 0.015, PERIOD)).astype(np.float32)
    seeds = rng.uniform(-0.7, 0.7, (9, 2))
    x, y = canvas.turned(rng.normal(0, 0.03), tuple(rng.uniform(-1, 1, 2)))
    y = y + np.float32(0.003) * canvas.noise(0.8)
    row, dy = _counted(y / np.float32(course))
    along = x + shifts.take(row)
    column, dx = _counted(along / np.float32(length))
    shade, burnt, tilt = traits.reshape(3, -1).take(row * PERIOD + column, axis=1)
    dx, dy = (dx - np.float32(0.5)) * np.float32(length), (dy - np.float32(0.5)) * np.float32(course)
    joint = rng.uniform(0.034, 0.046)
    away = box(dx, dy + np.float32(0.015) * tilt * dx, (length - joint) / 2, (course - joint) / 2, 0.016)
    away = away + np.float32(0.005) * canvas.noise(0.08, 3) + np.float32(0.004) * burnt
    coverage = canvas.fill(away, 1.5)
    sand, rough = canvas.noise(0.025, 2), canvas.noise(0.12, 3)
    mortar = flat(canvas.size, canvas.colour((0.62, 0.58, 0.52))) * (1 + 0.07 * sand + 0.05 * rough)[..., None]
    clay = _clay(canvas, shade, burnt) * (1 + 0.05 * sand + 0.07 * rough)[..., None]
    face = np.clip(-away / np.float32(0.022), 0, 1) * np.float32(0.035) + np.float32(0.0012) * (rough + sand)
    bed = np.float32(0.012) + np.float32(0.0014) * sand
    wall = texture(mixed(mortar, coverage, clay), (bed + coverage * (face - bed + 0.006)).astype(np.float32))
    depth = np.clip(0.32 + 0.05 * rough + 0.03 * sand, 0, 1)
    backdrop = (mortar * depth[..., None]).astype(np.float32)
    return replace(wall, backdrop=np.clip(backdrop, 0, 1), parts=_bricks(canvas, seeds, row, column, away < 0))


def _clay(canvas: Canvas, shade: Plane, burnt: Plane) -> Picture:
    dark, bright = canvas.colour((0.44, 0.18, 0.12), 0.03), canvas.colour((0.66, 0.34, 0.23), 0.03)
    tone = 0.5 + 0.4 * shade + 0.08 * canvas.noise(0.3, 2)
    black = np.clip((burnt - np.float32(0.6)) * 2, 0, 0.7)
    return mixed(gradient(tone, dark, bright), black, (0.25, 0.14, 0.13))


def _bricks(
    canvas: Canvas, seeds: Float64[ndarray, "points 2"], row: Numbers, column: Numbers, clay: Region
) -> tuple[Region, ...]:
    """Return up to six whole bricks under chosen points."""
    found: dict[tuple[int, int], Region] = {}
    half = np.array(canvas.size) / 2
    for point in seeds:
        at = tuple(np.clip(half + point / canvas.pixel, 0, 2 * half - 1).astype(int))
        name = (int(row[at]), int(column[at]))
        found[name] = (row == name[0]) & (column == name[1]) & clay
    return tuple(part for part in list(found.values())[:6] if part.any())


def marble(canvas: Canvas) -> Surface:
    """Draw polished white stone with grey clouds, sharp veins and a hint of gold."""
    rng = canvas.rng
    angle = rng.uniform(0, np.pi)
    base, cloud = canvas.colour((0.80, 0.79, 0.77), 0.015), canvas.colour((0.58, 0.59, 0.61), 0.02)
    stone = gradient(0.3 + 0.25 * canvas.noise(0.8, 4), base, cloud)
    drift, fine = canvas.noise(0.9, 3), canvas.noise(0.4, 4)
    finest = np.float32(max(0.004, 0.6 * canvas.pixel))  # a thinner line would be drawn as dots
    for turn, pitch, bend, strength in ((0.0, 2.4, 0.8, 0.9), (0.7, 3.6, 1.1, 0.55), (-0.5, 5.5, 1.6, 0.35)):
        along, _ = canvas.turned(angle + turn + rng.normal(0, 0.15))
        wave = along * np.float32(pitch) + np.float32(rng.uniform(0, 9)) + np.float32(bend) * drift
        line = np.abs(np.sin(wave + np.float32(0.35 * bend) * fine)) / np.float32(pitch)
        presence = np.clip(np.float32(0.5) + np.float32(0.6) * canvas.noise(0.6), 0, 1)
        sharp = np.exp(-((line / (finest + np.float32(0.014) * presence)) ** 2)) * (
            np.float32(0.35) + np.float32(0.65) * presence
        )
        halo = np.exp(-line / np.float32(0.09))
        stone = mixed(stone, np.float32(0.22 * strength) * halo * (1 - presence), (0.70, 0.57, 0.38))
        vein = canvas.colour((0.33, 0.34, 0.37), 0.03)
        stone = mixed(stone, np.float32(strength) * np.maximum(sharp, np.float32(0.45) * halo * presence), vein)
    crystals = 1 + np.float32(0.012) * canvas.noise(0.02, 2)
    polish = np.float32(0.003) * canvas.noise(0.7)
    return texture((stone * crystals[..., None]).astype(np.float32), polish, 0.2)


def weave(canvas: Canvas) -> Surface:
    """Draw plain-woven cloth: blue threads one way, pale ones the other, each over and under in turn."""
    rng = canvas.rng
    pitch = np.float32(rng.uniform(0.09, 0.105))
    traits = rng.normal(0, 1, (2, 2, PERIOD)).astype(np.float32)
    x, y = canvas.turned(rng.normal(0, 0.12), tuple(rng.uniform(-1, 1, 2)))
    x = (x + np.float32(0.012) * canvas.noise(0.6, 2)) / pitch
    y = (y + np.float32(0.012) * canvas.noise(0.6, 2)) / pitch
    (column, place_x), (row, place_y) = _counted(x), _counted(y)
    thick_x, shade_x = traits[0].take(column, axis=1)
    thick_y, shade_y = traits[1].take(row, axis=1)
    wave = np.float32(0.55) * np.sin(np.float32(np.pi) * x) * np.sin(np.float32(np.pi) * y)  # its sign alternates
    warp_round, weft_round = _roundness(place_x, thick_x), _roundness(place_y, thick_y)
    warp = np.where(warp_round > 0, warp_round + wave, np.float32(-9))  # without a thread, the other one shows
    weft = np.where(weft_round > 0, weft_round - wave, np.float32(-9))
    top = np.clip((warp - weft) * np.float32(5) + np.float32(0.5), 0, 1)
    fuzz = canvas.noise(0.02)
    ply_x = np.sin(np.float32(2 * np.pi) * (np.float32(2) * x + np.float32(1.3) * y))
    ply_y = np.sin(np.float32(2 * np.pi) * (np.float32(2) * y + np.float32(1.3) * x))
    blue = _yarn(canvas, (0.30, 0.40, 0.55), warp_round, shade_x + ply_x + fuzz)
    pale = _yarn(canvas, (0.66, 0.68, 0.70), weft_round, shade_y + ply_y + fuzz)
    depth = np.maximum(np.maximum(warp, weft), np.float32(-0.5))
    edge = np.float32(canvas.pixel) / pitch
    gap = _beside(place_x, thick_x, edge) * _beside(place_y, thick_y, edge)
    lit = np.clip(np.float32(0.75) + np.float32(0.2) * depth, 0.15, 1) * (1 - np.float32(0.7) * gap)
    cloth = mixed(pale, top, blue) * lit[..., None]
    return texture(cloth.astype(np.float32), (np.maximum(depth, 0) * pitch * np.float32(0.2)).astype(np.float32))


def _roundness(place: Plane, thickness: Plane) -> Plane:
    """Return the height of a thread's round profile across one pitch; zero between threads."""
    return np.sqrt(np.clip(1 - ((place - np.float32(0.5)) / _half(thickness)) ** 2, 0, None))


def _beside(place: Plane, thickness: Plane, edge: np.float32) -> Plane:
    """Return how far a place is outside its thread: 0 inside, 1 between threads."""
    return np.clip((np.abs(place - np.float32(0.5)) - _half(thickness)) / edge + np.float32(0.5), 0, 1)


def _half(thickness: Plane) -> Plane:
    return np.float32(0.45) + np.float32(0.02) * thickness


def _yarn(canvas: Canvas, base: Colour, roundness: Plane, tone: Plane) -> Picture:
    yarn = flat(canvas.size, canvas.colour(base, 0.03))
    lit = (np.float32(0.6) + np.float32(0.4) * roundness) * (1 + np.float32(0.05) * tone)
    return (yarn * lit[..., None]).astype(np.float32)


def leather(canvas: Canvas) -> Surface:
    """Draw dark brown leather: pebbles of uneven size between creases, pores, and slow folds."""
    rng = canvas.rng
    spacing = np.float32(rng.uniform(0.085, 0.105))
    x, y = canvas.turned(rng.uniform(0, np.pi), tuple(rng.uniform(-1, 1, 2)))
    x = x * np.float32(rng.uniform(0.8, 0.95)) + np.float32(0.018) * canvas.noise(0.3, 2)
    y = y + np.float32(0.018) * canvas.noise(0.3, 2)
    first, second, value = _pebbles(rng, x / spacing, y / spacing)
    crease = np.clip((second - first) * np.float32(2.3), 0, 1)
    dome = np.sqrt(crease) * (np.float32(1.1) - np.float32(0.6) * first**2)
    dome = dome * (np.float32(0.75) + np.float32(0.25) * value)
    folds, fine, tan = canvas.noise(0.7, 2), canvas.noise(0.03, 2), canvas.noise(0.5, 3)
    tone = 0.08 + 0.6 * dome + 0.15 * value * crease + 0.1 * tan + 0.04 * fine
    dark, bright = canvas.colour((0.17, 0.09, 0.06), 0.01), canvas.colour((0.46, 0.26, 0.15), 0.03)
    relief = dome * np.float32(0.028) + fine * np.float32(0.0012) + folds * np.float32(0.012)
    return texture(gradient(tone, dark, bright), relief.astype(np.float32), 0.4)


def _pebbles(rng: np.random.Generator, x: Plane, y: Plane) -> tuple[Plane, Plane, Plane]:
    """Return the distances to the nearest two of jittered grid points, and a random value per nearest point.

    Faster than the canvas' cells if there are hundreds of them, and it follows bent coordinates.
    """
    points = rng.uniform(0.12, 0.88, (2, PERIOD * PERIOD)).astype(np.float32)
    values = rng.uniform(0, 1, PERIOD * PERIOD).astype(np.float32)
    (column, inner_x), (row, inner_y) = _counted(x), _counted(y)
    first, second = np.full(x.shape, 9, np.float32), np.full(x.shape, 9, np.float32)
    nearest = np.zeros(x.shape, np.int32)
    for step in range(9):
        right, down = step % 3 - 1, step // 3 - 1
        number = ((row + down) & (PERIOD - 1)) * PERIOD + ((column + right) & (PERIOD - 1))
        dx, dy = points[0].take(number) + (right - inner_x), points[1].take(number) + (down - inner_y)
        away = dx * dx + dy * dy
        second = np.minimum(second, np.maximum(first, away))
        nearest = np.where(away < first, number, nearest)
        first = np.minimum(first, away)
    return np.sqrt(first), np.sqrt(second), values.take(nearest)


def _counted(place: Plane) -> tuple[Numbers, Plane]:
    """Split coordinates into cell numbers, modulo the period, and the position within the cell."""
    whole = np.floor(place)
    return whole.astype(np.int32) & np.int32(PERIOD - 1), place - whole


UNSEEN_TEXTURES: tuple[Category, ...] = (
    Category("brick", brick, ("crack", "corrosion", "missing_part", "stain", "chip")),
    Category("marble", marble, ("crack", "fibre", "scratch", "stain")),
    Category("weave", weave, ("fibre", "warp", "hole", "cut", "stain")),
    Category("leather", leather, ("fibre", "crack", "scratch", "cut", "discolouration")),
)
"""The textures of the unseen set only."""
