"""The objects of the unseen set: gear, capsule, label, button, biscuit. No other set draws them."""

from dataclasses import replace

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from drawn_anomalies.canvas import Canvas, Colour, Plane, Region, Surface, box, disc, flat, gradient, mixed
from drawn_anomalies.ground import aside, laid, shadowed, speckled
from drawn_anomalies.kinds import Category

Picture = Float32[ndarray, "height width 3"]
Sheet = UInt8[ndarray, "sheet_height sheet_width"]
Corners = tuple[int, int, int, int]

LETTERS = (
    "00 06 46", "06 00 46 40", "00 40 06 46", "00 05 16 36 45 40", "41 30 10 01 05 16 36 45", "06 00 23 40 46",
    "01 05 16 36 45 41 30 10 01", "41 30 10 01 02 13 33 44 45 36 16 05", "00 26 40", "00 40 20 26", "20 26",
    "06 00 30 41 42 33 03", "40 00 03 33 03 06 46", "06 20 46 34 14", "00 06 03 43 40 46", "00 30 41 45 36 06 00",
    "06 00 30 41 42 33 03 23 46", "40 00 03 33 03 06", "00 06 04 40 13 46", "00 46 23 40 06",
)  # fmt: skip
"""Corners of each letter's stroke, as column and row digits on a grid of 5 by 7."""

DOTS = 640
"""Dots across a printed label."""


def gear(canvas: Canvas) -> Surface:
    """Draw a turned steel gear on pale concrete: teeth (each a part), rim, web with holes, hub and bore with keyway."""
    rng = canvas.rng
    teeth, spokes = int(rng.choice([16, 18, 20])), int(rng.choice([4, 5, 6]))
    lost = rng.permutation(teeth)[:6]
    tip = rng.uniform(0.74, 0.82)
    root, bore = 0.84 * tip, 0.17 * tip
    x, y = canvas.turned(rng.uniform(0, 2 * np.pi), aside(canvas, 0.07))
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    turn = angle * np.float32(teeth / (2 * np.pi))
    number = np.round(turn)
    beside = np.abs(turn - number) * np.float32(2 * np.pi / teeth) * radius
    pitch = 2 * np.pi * tip / teeth
    flank = beside - np.float32(0.29 * pitch) + (radius - np.float32(root)) * np.float32(0.26)
    outline = np.minimum(radius - np.float32(root), np.maximum(flank, radius - np.float32(tip)))
    openings = np.maximum(np.float32(bore) - radius, -box(x - np.float32(bore), y, 0.05, 0.035))
    place = angle * np.float32(spokes / (2 * np.pi))
    sector = (place - np.round(place)) * np.float32(2 * np.pi / spokes)
    across, middle = radius * np.sin(sector), radius * np.cos(sector) - np.float32(0.52 * tip)
    openings = np.maximum(openings, -disc(across, middle, 0.095 * tip))
    distance = np.maximum(outline, openings)
    web = canvas.fill(np.abs(radius - np.float32(0.52 * tip)) - np.float32(0.17 * tip), 3.0)
    relief = np.clip(-distance / np.float32(0.025), 0, 1) * np.float32(0.03) - web * np.float32(0.03)
    steel = _turned_steel(canvas, radius, angle, web, tip)
    background = speckled(canvas, (0.68, 0.67, 0.64), 0.03)
    background = shadowed(canvas, background, canvas.fill(radius - np.float32(root)), 0.5)
    surface = laid(background, canvas.fill(distance), steel, relief, 0.4)
    beyond = surface.body & (radius > np.float32(root))
    parts = tuple(beyond & (number.astype(np.int32) % teeth == tooth) for tooth in lost)
    return replace(surface, parts=tuple(part for part in parts if part.any()))


def _turned_steel(canvas: Canvas, radius: Plane, angle: Plane, web: Plane, tip: float) -> Picture:
    """Colour steel with circular lathe marks and the two-armed sheen they cause."""
    rng = canvas.rng
    circles = rng.normal(0, 1, 160).astype(np.float32)
    groove = np.interp(radius, np.linspace(0, 1.6, 160), circles).astype(np.float32)
    sheen = np.cos(2 * angle - np.float32(rng.uniform(0, 6))) + np.float32(0.4) * np.cos(
        4 * angle + np.float32(rng.uniform(0, 6))
    )
    tone = np.float32(0.5) + np.float32(0.14) * sheen * (1 - np.float32(0.6) * web) + np.float32(0.07) * groove
    tone = tone - np.float32(0.22) * web + np.float32(0.05) * canvas.noise(0.2, 3)
    tone = tone + np.float32(0.1) * (radius < np.float32(0.34 * tip))
    return gradient(tone, canvas.colour((0.20, 0.21, 0.23), 0.02), canvas.colour((0.58, 0.59, 0.61), 0.02))


def capsule(canvas: Canvas) -> Surface:
    """Draw a two-coloured gelatine capsule with an imprint on a pale blue tray."""
    rng = canvas.rng
    half, thick = rng.uniform(0.68, 0.76), rng.uniform(0.25, 0.29)
    x, y = canvas.turned(rng.uniform(0, 2 * np.pi), aside(canvas, 0.07))
    seam = np.float32(rng.uniform(-0.04, 0.08))
    cap = canvas.fill(x - seam)
    sleeve = np.float32(0.012) * cap
    distance = box(x, y, half, thick, thick) + np.float32(0.012) - sleeve
    bulge = np.sqrt(np.clip(1 - ((distance + np.float32(thick)) / np.float32(thick)) ** 2, 0, None))
    bulge = np.where(distance < -thick, 1, bulge)
    lip = np.exp(-(((x - seam) / np.float32(0.012)) ** 2))
    relief = bulge * np.float32(0.75 * thick) + sleeve
    red, ivory = canvas.colour((0.70, 0.13, 0.10), 0.03), canvas.colour((0.88, 0.82, 0.66), 0.02)
    shell = mixed(flat(canvas.size, ivory), cap, red)
    shell = mixed(shell, np.float32(0.35) * lip, (0.25, 0.06, 0.05))
    dots = _printed(canvas, x - np.float32(0.5 * half), y, _imprint(rng), 0.55 * half)
    shell = mixed(shell, np.float32(0.85) * dots, (0.16, 0.10, 0.10))
    shell = shell * (np.float32(0.72) + np.float32(0.28) * bulge)[..., None]
    window = canvas.fill(box(x, y + np.float32(0.42 * thick), half - thick, 0.07 * thick, 0.07 * thick), 9.0)
    shell = mixed(shell, np.float32(0.35) * window, (1.0, 1.0, 1.0))
    tray = speckled(canvas, (0.66, 0.73, 0.80), 0.01)
    coverage = canvas.fill(distance)
    tray = shadowed(canvas, tray, coverage, 0.6)
    return laid(tray, coverage, shell, relief, 0.75)


def _imprint(rng: np.random.Generator) -> Sheet:
    """Print a short code, black on white."""
    sheet = np.full((100, 400), 255, np.uint8)
    _write(rng, sheet, (40, 15), 70, 5)
    return sheet


def label(canvas: Canvas) -> Surface:
    """Draw a printed paper label on brown cardboard; logo, words and bars are parts."""
    rng = canvas.rng
    half_width = rng.uniform(0.78, 0.84)
    sheet, boxes = _label_print(rng)
    half_height = half_width * sheet.shape[0] / sheet.shape[1]
    x, y = canvas.turned(rng.normal(0, 0.08), aside(canvas, 0.07))
    distance = box(x, y, half_width, half_height, 0.04)
    coverage = canvas.fill(distance)
    board = _cardboard(canvas)
    board = shadowed(canvas, board, coverage, 0.3)
    fibres = 1 + np.float32(0.012) * canvas.noise(0.03, 2)
    paper = flat(canvas.size, canvas.colour((0.86, 0.85, 0.82), 0.015)) * fibres[..., None]
    ink = _printed(canvas, x, y, sheet, 2 * half_width)
    printed = mixed(paper, ink * np.float32(0.94), canvas.colour((0.10, 0.10, 0.13), 0.02))
    relief = np.float32(0.0008) * canvas.noise(0.05, 2)
    surface = laid(board, coverage, printed, relief, 0.1)
    blank = laid(board, coverage, paper, relief, 0.1).colour
    dot = np.float32(2 * half_width / DOTS)
    right, down = (x + np.float32(half_width)) / dot, (y + np.float32(half_height)) / dot
    parts = tuple(_inside(right, down, corners) & surface.body for corners in boxes)
    return replace(surface, backdrop=blank, parts=tuple(part for part in parts if part.any()))


def _inside(right: Plane, down: Plane, corners: Corners) -> Region:
    return (right > corners[0]) & (right < corners[2]) & (down > corners[1]) & (down < corners[3])


def _label_print(rng: np.random.Generator) -> tuple[Sheet, list[Corners]]:
    """Print a label, black on white.

    Returns:
        The sheet, and left, top, right and bottom of what can go missing or wrong.
    """
    sheet = np.full((500, DOTS), 255, np.uint8)
    cv2.rectangle(sheet, (16, 16), (DOTS - 17, 483), 0, 3)
    boxes = [(34, 34, 136, 136), _write(rng, sheet, (160, 38), 54, int(rng.integers(5, 8)))]
    boxes.append(_write(rng, sheet, (160, 116), 23, 12))
    _logo(sheet, (85, 85), 48)
    cv2.line(sheet, (16, 154), (DOTS - 17, 154), 0, 3)
    for line in range(4):
        left = 40
        while left < 480:
            word = _write(rng, sheet, (left, 174 + 42 * line), 27, int(rng.integers(2, 8)))
            left = word[2] + 22
            boxes.append(word)
    boxes.append(_bars(rng, sheet, (60, 352, 580, 436)))
    boxes.append(_write(rng, sheet, (130, 446), 22, 18))
    kept = [0, 1, len(boxes) - 2, *rng.permutation(np.arange(2, len(boxes) - 2))[:4].tolist()]
    return sheet, [boxes[index] for index in kept]


def _logo(sheet: Sheet, centre: tuple[int, int], radius: int) -> None:
    cv2.circle(sheet, centre, radius, 0, -1, cv2.LINE_AA)
    cv2.circle(sheet, centre, radius - 8, 255, 4, cv2.LINE_AA)
    hill = np.array([(-26, 20), (-6, -22), (6, 2), (12, -8), (28, 20)]) + centre
    cv2.fillPoly(sheet, [hill.astype(np.int32)], 255, cv2.LINE_AA)


def _write(rng: np.random.Generator, sheet: Sheet, corner: tuple[int, int], height: int, length: int) -> Corners:
    """Write random letters from a corner on; returns their box."""
    unit = height / 6
    thickness = max(2, round(0.9 * unit))
    left, top = corner
    for place, letter in enumerate(rng.integers(len(LETTERS), size=length)):
        if left + (place + 1) * 6 * unit > sheet.shape[1] - 24:
            length = place
            break
        corners = np.array([(6 * place + int(pair[0]), int(pair[1])) for pair in LETTERS[letter].split()])
        points = np.round(corners * unit + corner).astype(np.int32)
        cv2.polylines(sheet, [points[:, None]], isClosed=False, color=0, thickness=thickness, lineType=cv2.LINE_AA)
    return left - 4, top - 5, round(left + (6 * length - 2) * unit) + 5, top + height + 6


def _bars(rng: np.random.Generator, sheet: Sheet, corners: Corners) -> Corners:
    """Print a barcode into a box; returns the box of some of its bars."""
    left, top, right, bottom = corners
    module, position, edges = 5, left, []
    while position < right:
        bar, gap = rng.choice([1, 2, 3], 2, p=[0.5, 0.3, 0.2]) * module
        sheet[top:bottom, position : min(position + bar, right)] = 0
        edges.append(position)
        position += int(bar + gap)
    first = int(rng.integers(2, len(edges) - 10))
    return edges[first] - 1, top - 3, edges[first + 6] - 1, bottom + 3


def _printed(canvas: Canvas, x: Plane, y: Plane, sheet: Sheet, width: float) -> Plane:
    """Return the coverage of ink of a sheet that is printed ``width`` wide around the origin."""
    columns = max(8, min(sheet.shape[1], round(width / canvas.pixel * 1.25)))
    rows = max(4, round(columns * sheet.shape[0] / sheet.shape[1]))
    small = cv2.resize(255 - sheet, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    dot = np.float32(width / columns)
    across, down = x / dot + np.float32(columns / 2 - 0.5), y / dot + np.float32(rows / 2 - 0.5)
    return cv2.remap(small, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def button(canvas: Canvas) -> Surface:
    """Draw a pearly shirt button with a rim and four holes on dark teal cloth."""
    rng = canvas.rng
    radius = rng.uniform(0.6, 0.72)
    x, y = canvas.turned(rng.uniform(0, 2 * np.pi), aside(canvas, 0.07))
    away = np.hypot(x, y) / np.float32(radius)
    hole = disc(np.abs(x) - np.float32(0.17 * radius), np.abs(y) - np.float32(0.17 * radius), 0.082 * radius)
    distance = np.maximum((away - 1) * np.float32(radius), -hole)
    rim = np.exp(-(((away - np.float32(0.86)) / np.float32(0.11)) ** 2))
    dish = np.clip((away - np.float32(0.35)) / np.float32(0.35), 0, 1)
    edge = np.clip(-hole / np.float32(-0.03), 0, 1) * np.clip((1 - away) / np.float32(0.1), 0, 1) ** 0.5
    relief = (np.float32(0.06) + np.float32(0.055) * rim + np.float32(0.012) * dish) * edge
    flow = np.sin(x * np.float32(5) + np.float32(1.6) * canvas.noise(0.5, 3))
    tone = np.float32(0.55) + np.float32(0.22) * flow + np.float32(0.06) * canvas.noise(0.06, 2)
    pearl = gradient(tone, canvas.colour((0.70, 0.62, 0.53), 0.02), canvas.colour((0.88, 0.85, 0.80), 0.02))
    groove = np.exp(-(((away - np.float32(0.68)) / np.float32(0.02)) ** 2))
    pearl = mixed(pearl, np.float32(0.3) * groove, (0.35, 0.28, 0.22))
    cloth = _cloth(canvas, canvas.colour((0.09, 0.22, 0.23), 0.02))
    coverage = canvas.fill(distance)
    cloth = shadowed(canvas, cloth, canvas.fill((away - 1) * np.float32(radius)), 0.7)
    return laid(cloth, coverage, pearl, relief, 0.55)


def biscuit(canvas: Canvas) -> Surface:
    """Draw a baked rectangular biscuit with a scalloped edge and rows of holes on a blue conveyor belt."""
    rng = canvas.rng
    columns, rows = 14, 10
    scallop = rng.uniform(0.102, 0.112)
    half_width, half_height = columns * scallop / 2, rows * scallop / 2
    x, y = canvas.turned(rng.choice([0, np.pi / 2]) + rng.normal(0, 0.15), aside(canvas, 0.07))
    bent_x, bent_y = x + np.float32(0.008) * canvas.noise(0.4), y + np.float32(0.008) * canvas.noise(0.4)
    distance = _scalloped(bent_x, bent_y, (half_width, half_height), scallop)
    inner = box(bent_x, bent_y, half_width, half_height, 0.05)
    pits = _pits(bent_x, bent_y, 2 * half_width / 6, 2 * half_height / 4)
    pits = np.where(inner < np.float32(-0.06), pits, 1).astype(np.float32)
    deep = np.clip(1.5 - pits / np.float32(0.02), 0, 1)
    line = np.exp(-(((inner + np.float32(0.045)) / np.float32(0.014)) ** 2))
    crumb, patch = canvas.noise(0.035, 3), canvas.noise(0.5, 2)
    bake = np.clip(distance / np.float32(0.16) + 1, 0, 1) ** 2
    tone = np.float32(0.78) - np.float32(0.5) * bake + np.float32(0.07) * patch + np.float32(0.05) * crumb
    tone = tone - np.float32(0.12) * np.clip(np.float32(1.6) - pits / np.float32(0.03), 0, 1)
    crust = gradient(tone, canvas.colour((0.50, 0.27, 0.11), 0.02), canvas.colour((0.87, 0.67, 0.40), 0.02))
    crust = mixed(crust, np.float32(0.75) * deep, (0.30, 0.16, 0.07))
    crust = mixed(crust, np.float32(0.25) * line, (0.45, 0.25, 0.11))
    relief = np.sqrt(np.clip(-distance / np.float32(0.07), 0, 1)) * np.float32(0.05)
    relief = relief - deep * np.float32(0.03) - line * np.float32(0.008) + crumb * np.float32(0.0015)
    relief = relief + patch * np.float32(0.006)
    coverage = canvas.fill(distance, 1.5)
    belt = shadowed(canvas, _belt(canvas), coverage, 0.6)
    return laid(belt, coverage, crust, relief, 0.05)


def _scalloped(x: Plane, y: Plane, half: tuple[float, float], scallop: float) -> Plane:
    """Return the signed distance to a box whose edges and corners are rows of half discs."""
    step, radius = np.float32(scallop), 0.58 * scallop
    dx, dy = np.abs(x) - np.float32(half[0]), np.abs(y) - np.float32(half[1])
    fold_x, fold_y = x - np.round(x / step) * step, y - np.round(y / step) * step
    sunk = np.float32(0.25 * scallop)
    fold_x, fold_y = np.where(dx > 0, dx, fold_x), np.where(dy > 0, dy, fold_y)
    edges = np.minimum(disc(fold_x, dy + sunk, radius), disc(dx + sunk, fold_y, radius))
    return np.minimum(np.minimum(edges, np.maximum(dx, dy)), disc(dx + sunk, dy + sunk, 1.35 * radius))


def _pits(x: Plane, y: Plane, step_x: float, step_y: float) -> Plane:
    """Return the distance to the nearest of staggered grid points."""
    row = np.round(y / np.float32(step_y))
    shifted = x / np.float32(step_x) + np.float32(0.5) * (row % 2)
    across = (shifted - np.round(shifted)) * np.float32(step_x)
    return np.hypot(across, y - row * np.float32(step_y))


def _cardboard(canvas: Canvas) -> Picture:
    x, _ = canvas.turned(canvas.rng.normal(0, 0.05))
    flutes = np.sin(x * np.float32(2 * np.pi / 0.11))
    tone = (
        1
        + np.float32(0.03) * flutes
        + np.float32(0.04) * canvas.noise(0.03, 2, 1.6)
        + np.float32(0.02) * canvas.noise(0.5)
    )
    return flat(canvas.size, canvas.colour((0.60, 0.47, 0.33), 0.03)) * tone[..., None]


def _cloth(canvas: Canvas, colour: Colour) -> Picture:
    x, y = canvas.turned(canvas.rng.uniform(0.3, 1.2))
    twill = np.sin(x * np.float32(2 * np.pi / 0.075)) * (1 + np.float32(0.4) * np.sin(y * np.float32(2 * np.pi / 0.1)))
    tone = 1 + np.float32(0.16) * twill + np.float32(0.06) * canvas.noise(0.04, 2)
    return flat(canvas.size, colour) * tone[..., None]


def _belt(canvas: Canvas) -> Picture:
    x, y = canvas.turned(canvas.rng.normal(0, 0.03))
    step = np.float32(2 * np.pi / 0.13)
    knobs = np.maximum(np.cos(x * step) * np.cos(y * step), 0) ** 2
    tone = np.float32(0.92) + np.float32(0.2) * knobs + np.float32(0.03) * canvas.noise(0.4, 3)
    return flat(canvas.size, canvas.colour((0.16, 0.30, 0.52), 0.02)) * tone[..., None]


UNSEEN_OBJECTS: tuple[Category, ...] = (
    Category("gear", gear, ("corrosion", "crack", "warp", "missing_part", "dent", "scratch")),
    Category("capsule", capsule, ("crack", "warp", "fibre", "dent", "discolouration", "contamination")),
    Category("label", label, ("misprint", "fibre", "warp", "missing_part", "scratch")),
    Category("button", button, ("crack", "fibre", "chip", "missing_part")),
    Category("biscuit", biscuit, ("crack", "fibre", "missing_part", "discolouration", "contamination")),
)
"""The objects of the unseen set only."""
