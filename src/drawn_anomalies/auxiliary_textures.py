"""The textures of the auxiliary set: wood, brushed metal, tiles, granite, knitwear, wire mesh."""

from dataclasses import replace

import cv2
import numpy as np

from drawn_anomalies.canvas import Canvas, Plane, Region, Surface, box, flat, gradient, mixed, texture
from drawn_anomalies.kinds import Category

Places = tuple[Plane, Plane]


def wood(canvas: Canvas) -> Surface:
    """Draw a planed board: growth rings cut lengthwise, pores along the grain."""
    rng = canvas.rng
    along, across = canvas.turned(rng.normal(0, 0.08), tuple(rng.uniform(-1, 1, 2)))
    drift = np.float32(rng.uniform(0.05, 0.12)) * canvas.noise(1.2, 2, 5.0)
    rings = np.sin((across + drift) * np.float32(rng.uniform(22, 34)) + canvas.noise(1.5, 1, 4.0))
    pores = canvas.noise(0.022, 2, 16.0)
    tone = 0.5 + 0.3 * rings + 0.1 * canvas.noise(0.5, 2, 4.0) - 0.22 * np.clip(pores - 0.8, 0, 1)
    light, dark = canvas.colour((0.76, 0.57, 0.37), 0.05), canvas.colour((0.52, 0.34, 0.19), 0.04)
    seam = np.sin(along * np.float32(0.5)) * np.float32(0.02)
    height = np.float32(0.0012) * rings - np.float32(0.0016) * np.clip(pores - 0.5, 0, 2)
    return texture(gradient(tone + seam, dark, light), height.astype(np.float32), 0.08)


def brushed_metal(canvas: Canvas) -> Surface:
    """Draw sheet metal with the fine lines of a brush."""
    rng = canvas.rng
    angle = float(rng.normal(0, 0.03) + rng.choice([0.0, np.pi / 2]))
    _, across = canvas.turned(angle)
    lines = _lines(canvas, angle, 0.012) + 0.6 * _lines(canvas, angle, 0.05)
    sheen = np.sin(across * np.float32(rng.uniform(1.0, 2.0)) + np.float32(rng.uniform(0, 6)))
    tone = 0.5 + 0.1 * lines + 0.16 * sheen + 0.03 * canvas.noise(0.4)
    dark, bright = canvas.colour((0.44, 0.46, 0.48), 0.03), canvas.colour((0.78, 0.79, 0.80), 0.02)
    return texture(gradient(tone, dark, bright), (np.float32(0.0007) * lines).astype(np.float32), 0.3)


def _lines(canvas: Canvas, angle: float, width: float) -> Plane:
    """Return noise that is stretched along a direction close to an axis of the picture."""
    if abs(np.cos(angle)) > 0.5:
        return canvas.noise(width, 2, 40.0)
    turned = Canvas((canvas.size[1], canvas.size[0]), canvas.rng)
    return np.ascontiguousarray(turned.noise(width, 2, 40.0).T)


def ceramic_tiles(canvas: Canvas) -> Surface:
    """Draw glazed square tiles with grout between them; each tile is a part."""
    rng = canvas.rng
    side, joint = np.float32(rng.uniform(0.46, 0.56)), np.float32(rng.uniform(0.03, 0.042))
    x, y = canvas.turned(rng.normal(0, 0.03), tuple(rng.uniform(-0.3, 0.3, 2)))
    (column, dx), (row, dy) = _repeated(x, side), _repeated(y, side)
    away = box(dx, dy, float(side - joint) / 2, float(side - joint) / 2, 0.025)
    shades = rng.normal(0, 1, (64, 64)).astype(np.float32)
    shade = shades[row.astype(int) % 64, column.astype(int) % 64]
    glaze = flat(canvas.size, canvas.colour((0.36, 0.56, 0.60), 0.06))
    cloud = 1 + 0.035 * shade + 0.05 * canvas.noise(0.25, 3) + 0.015 * canvas.noise(0.02)
    sand = canvas.noise(0.02, 2)
    grout = flat(canvas.size, canvas.colour((0.70, 0.68, 0.64), 0.03)) * (1 + 0.06 * sand)[..., None]
    coverage = canvas.fill(away, 1.5)
    rise = np.clip(-away / np.float32(0.04), 0, 1)
    height = coverage * np.float32(0.03) * rise * (2 - rise) + np.float32(0.001) * canvas.noise(0.4)
    tiles = texture(mixed(grout.astype(np.float32), coverage, glaze * cloud[..., None]), height.astype(np.float32), 0.3)
    bed = np.clip(grout * (0.45 + 0.1 * canvas.noise(0.08, 3))[..., None], 0, 1).astype(np.float32)
    return replace(tiles, backdrop=bed, parts=_whole_ones(column, row, away < 0))


def _whole_ones(column: Plane, row: Plane, inside: Region) -> tuple[Region, ...]:
    """Return up to six pieces of a grid that lie wholly in the picture."""
    number = row.astype(np.int32) * 1000 + column.astype(np.int32)
    edge = np.concatenate([number[0], number[-1], number[:, 0], number[:, -1]])
    step = max(1, min(number.shape) // 32)  # no tile is so small that it falls between two samples
    whole = np.setdiff1d(number[::step, ::step], edge)
    return tuple((number == name) & inside for name in whole[:6])


def granite(canvas: Canvas) -> Surface:
    """Draw polished granite: grains of white, grey, black and a warm mineral."""
    rng = canvas.rng
    value = _grains(canvas, rng.uniform(0.055, 0.07))
    fine = canvas.noise(0.03, 2)
    grey = gradient(
        value + 0.12 * fine, canvas.colour((0.38, 0.37, 0.37), 0.03), canvas.colour((0.80, 0.79, 0.77), 0.02)
    )
    black = np.clip((canvas.noise(0.06, 2) - np.float32(0.9)) * 4, 0, 1)
    warm = np.clip((canvas.noise(0.12, 3) - np.float32(0.8)) * 3, 0, 0.8)
    stone = mixed(grey, warm.astype(np.float32), canvas.colour((0.70, 0.50, 0.42), 0.04))
    stone = mixed(stone, black.astype(np.float32), (0.10, 0.10, 0.11))
    return texture(stone, (np.float32(0.0006) * fine).astype(np.float32), 0.2)


def _grains(canvas: Canvas, spacing: float) -> Plane:
    """Return a random value per grain of a jittered grid; faster than ``cells`` if there are a thousand."""
    step = spacing / canvas.pixel
    rows, columns = (np.arange(0.0, length + step, step) for length in canvas.size)
    seeds = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    seeds = np.round(seeds + canvas.rng.uniform(-0.5, 0.5, seeds.shape) * step).astype(int)
    away = np.ones(canvas.size, np.uint8)
    away[tuple(np.clip(seeds, 0, np.array(canvas.size) - 1).T)] = 0
    _, label = cv2.distanceTransformWithLabels(away, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    number = np.asarray(label, dtype=np.int32)
    return canvas.rng.uniform(0, 1, int(number.max()) + 1).astype(np.float32).take(number)


def knit(canvas: Canvas) -> Surface:
    """Draw plain knitting: columns of V-shaped stitches."""
    rng = canvas.rng
    pitch = np.float32(rng.uniform(0.19, 0.225))
    x, y = canvas.turned(rng.normal(0, 0.06), tuple(rng.uniform(-1, 1, 2)))
    x = x + np.float32(0.012) * canvas.noise(0.5, 2)
    y = y + np.float32(0.012) * canvas.noise(0.5, 2)
    _, dx = _repeated(x, pitch)
    side = np.abs(dx) / (pitch / 2)  # 0 in the middle of a column, 1 between columns
    slanted = y / (pitch * np.float32(0.8)) - np.float32(0.75) * side
    _, ds = _repeated(slanted, np.float32(1))
    leg = 1 - (ds / np.float32(0.5)) ** 2
    round_ = np.clip(leg, 0, 1) * np.clip(1.15 - (2 * side - 1) ** 2, 0, 1)
    ply = np.sin(np.float32(2 * np.pi) * (np.float32(3) * slanted + np.float32(2.2) * side * np.sign(dx)))
    fuzz = canvas.noise(0.015, 2)
    tone = (0.35 + 0.65 * np.sqrt(np.clip(round_, 0, 1))) * (1 + 0.05 * ply + 0.06 * fuzz + 0.04 * canvas.noise(0.5))
    wool = flat(canvas.size, canvas.colour((0.72, 0.31, 0.33), 0.06)) * tone[..., None]
    return texture(wool, (round_ * pitch * np.float32(0.22)).astype(np.float32))


def wire_mesh(canvas: Canvas) -> Surface:
    """Draw a woven wire mesh over the dark; pieces of wire are its parts."""
    rng = canvas.rng
    pitch, wire = np.float32(rng.uniform(0.2, 0.24)), np.float32(rng.uniform(0.026, 0.034))
    x, y = canvas.turned(rng.normal(np.pi / 4, 0.05), tuple(rng.uniform(-1, 1, 2)))
    x, y = x + np.float32(0.006) * canvas.noise(0.8), y + np.float32(0.006) * canvas.noise(0.8)
    (column, dx), (_, dy) = _repeated(x, pitch), _repeated(y, pitch)
    over = np.float32(0.02) * np.sin(np.float32(np.pi) * x / pitch) * np.sin(np.float32(np.pi) * y / pitch)
    upright, level = _wire(dx, wire), _wire(dy, wire)
    top = np.where(upright + over * (upright > 0) >= level - over * (level > 0), upright, level)
    coverage = np.maximum(canvas.fill(np.abs(dx) - wire), canvas.fill(np.abs(dy) - wire))
    steel = flat(canvas.size, canvas.colour((0.66, 0.66, 0.64), 0.04))
    steel = steel * (0.45 + 0.55 * top / wire + 0.04 * canvas.noise(0.05, 2))[..., None]
    behind = flat(canvas.size, canvas.colour((0.10, 0.11, 0.12), 0.03)) * (1 + 0.15 * canvas.noise(0.6))[..., None]
    behind = np.clip(behind, 0, 1).astype(np.float32)
    body = coverage > 0.05
    colour = np.clip(mixed(behind, coverage, steel.astype(np.float32)), 0, 1).astype(np.float32)
    pieces = _pieces(rng, body & (np.abs(dx) < wire * np.float32(1.2)), column, y, pitch)
    return Surface(colour, (top + over * coverage).astype(np.float32), 0.35, body, behind, pieces)


def _wire(away: Plane, radius: np.float32) -> Plane:
    """Return the height of a wire of round section."""
    return np.sqrt(np.clip(radius**2 - away**2, 0, None))


def _pieces(
    rng: np.random.Generator, wire: Region, column: Plane, along: Plane, pitch: np.float32
) -> tuple[Region, ...]:
    """Return stretches of single wires, each between two and four meshes long."""
    found = []
    for _ in range(8):
        start, length = rng.uniform(-0.9, 0.4), rng.uniform(1.6, 3.2) * pitch
        number = rng.integers(int(column.min()) + 2, int(column.max()))
        piece = wire & (column == number) & (along > start) & (along < start + length)
        if piece.mean() > 0.002:
            found.append(piece)
    return tuple(found)


def _repeated(position: Plane, pitch: np.float32) -> Places:
    """Return the number of each repetition, and the position from its middle."""
    number = np.floor(position / pitch)
    return number, (position - (number + np.float32(0.5)) * pitch).astype(np.float32)


AUXILIARY_TEXTURES: tuple[Category, ...] = (
    Category("wood", wood, ("scratch", "stain", "hole", "dent", "discolouration")),
    Category("brushed_metal", brushed_metal, ("scratch", "dent", "stain", "contamination", "fold")),
    Category("ceramic_tiles", ceramic_tiles, ("chip", "missing_part", "stain", "scratch", "contamination")),
    Category("granite", granite, ("stain", "hole", "scratch", "chip", "contamination")),
    Category("knit", knit, ("hole", "cut", "stain", "fold", "discolouration")),
    Category("wire_mesh", wire_mesh, ("missing_part", "contamination", "discolouration", "cut")),
)
"""The six textures of the auxiliary set."""
