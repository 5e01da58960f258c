"""Devices of the auxiliary set, circuit and dial, and the printing that the set's other objects also use."""

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from drawn_anomalies.canvas import Canvas, Plane, Region, Surface, box, flat, mixed
from drawn_anomalies.ground import aside, laid, shadowed, speckled

Picture = Float32[ndarray, "height width 3"]
Print = UInt8[ndarray, "sheet_height sheet_width"]
Artwork = UInt8[ndarray, "sheet_height sheet_width 3"]
Corners = tuple[int, int, int, int]

FONT = cv2.FONT_HERSHEY_SIMPLEX
BOARD = (480, 360)
"""Width and height of a circuit's artwork, in dots."""
FACE = 640
"""Dots across the print of a dial."""
FIRST, SWEEP = 0.75 * np.pi, 1.5 * np.pi
"""Direction of a dial's first tick, and the angle from there to its last."""


def circuit(canvas: Canvas) -> Surface:
    """Draw a printed circuit board on pale pink foam; its chips, small components and open pads are parts."""
    rng = canvas.rng
    half_width = rng.uniform(0.74, 0.82)
    half_height = half_width * BOARD[1] / BOARD[0]
    x, y = canvas.turned(rng.choice([0, np.pi / 2, np.pi, -np.pi / 2]) + rng.normal(0, 0.1), aside(canvas))
    bare, full, high, boxes = _board_artwork(canvas)
    dot = np.float32(2 * half_width / BOARD[0])
    right, down = x / dot + np.float32(BOARD[0] / 2), y / dot + np.float32(BOARD[1] / 2)
    drilled = np.hypot(np.abs(right - BOARD[0] / 2) - (BOARD[0] / 2 - 24), np.abs(down - BOARD[1] / 2) - 156)
    distance = np.maximum(box(x, y, half_width, half_height, 0.04), (np.float32(9) - drilled.astype(np.float32)) * dot)
    coverage = canvas.fill(distance)
    foam = shadowed(canvas, _foam(canvas), coverage, 0.6)
    resin = (1 + np.float32(0.02) * canvas.noise(0.05, 3))[..., None]
    empty = laid(foam, coverage, sampled(canvas, x, y, bare, 2 * half_width) * resin, np.zeros_like(x), 0.2)
    board = sampled(canvas, x, y, full, 2 * half_width) * resin
    relief = sampled(canvas, x, y, high[..., None], 2 * half_width)[..., 0] * np.float32(0.1)
    surface = laid(foam, coverage, board, relief, 0.2)
    parts = tuple(
        (right > left) & (right < end) & (down > top) & (down < bottom) & surface.body
        for left, top, end, bottom in boxes
    )
    return replace(surface, backdrop=empty.colour, parts=tuple(part for part in parts if part.any()))


def _board_artwork(canvas: Canvas) -> tuple[Artwork, Artwork, Print, list[Corners]]:
    """Lay out a board.

    Returns:
        The board as etched, the board with its components, their height, and the boxes of what can be missing.
    """
    rng = canvas.rng
    mask = np.array([(0.05, 0.30, 0.15), (0.05, 0.17, 0.36), (0.05, 0.33, 0.24)][rng.integers(3)])
    width, height = BOARD
    bare = np.empty((height, width, 3), np.uint8)
    bare[:] = np.round(255 * np.asarray(canvas.colour(tuple(mask.tolist()), 0.015)))
    _etch(rng, bare)
    large = int(rng.integers(3))
    spots = [(80 + 80 * column, 75 + 75 * row) for column in range(5) for row in range(4)]
    taken = [(80 + 80 * (large + a), 75 + 75 * (1 + b)) for a in range(2) for b in range(2)]
    chips: list[Corners] = [_quad_chip(bare, (120 + 80 * large, 187))]
    chips += [_small_component(rng, bare, place) for place in spots if place not in taken and rng.random() < 0.85]
    full, high = bare.copy(), np.zeros((height, width), np.uint8)
    for corners in chips:
        _mount(rng, full, high, corners)
    pads = []
    pitch, first = 30, 105
    for place in range(9):
        cv2.circle(full, (first + pitch * place, 342), 11, (212, 190, 120), -1, cv2.LINE_AA)
        cv2.circle(high, (first + pitch * place, 342), 10, 22, -1, cv2.LINE_AA)
        cv2.circle(full, (first + pitch * place, 342), 4, (25, 25, 25), -1, cv2.LINE_AA)
        pads.append((first + pitch * place - 13, 329, first + pitch * place + 13, 355))
    kept = [*rng.permutation(len(chips))[:5].tolist(), 0]
    return bare, full, high, [chips[index] for index in kept] + [pads[index] for index in rng.permutation(9)[:2]]


def _etch(rng: np.random.Generator, bare: Artwork) -> None:
    """Draw the traces, their ends, and the rings around the drilled corners."""
    trace = np.clip(bare[0, 0] * 1.25 + np.array([26, 42, 26]), 0, 255).astype(int).tolist()
    for _ in range(34):
        x, y = (20 * rng.integers(2, (22, 16)) + rng.integers(-3, 4, 2)).tolist()
        line = [(x, y)]
        heading = int(rng.integers(4)) * 2
        for _ in range(4):
            step = int(rng.integers(20, 80))
            angle = heading * np.pi / 4
            x, y = x + round(step * np.cos(angle)), y + round(step * np.sin(angle))
            line.append((min(max(x, 22), BOARD[0] - 22), min(max(y, 22), BOARD[1] - 22)))
            heading += int(rng.choice([-1, 1]))
        cv2.polylines(bare, [np.array(line)[:, None]], isClosed=False, color=trace, thickness=4, lineType=cv2.LINE_AA)
        for end in (line[0], line[-1]):
            cv2.circle(bare, end, 6, (196, 178, 118), -1, cv2.LINE_AA)
            cv2.circle(bare, end, 2, (30, 30, 30), -1, cv2.LINE_AA)
    for corner in ((24, 24), (BOARD[0] - 24, 24), (24, BOARD[1] - 24), (BOARD[0] - 24, BOARD[1] - 24)):
        cv2.circle(bare, corner, 16, (206, 186, 122), -1, cv2.LINE_AA)


def _quad_chip(bare: Artwork, middle: tuple[int, int]) -> Corners:
    """Etch the feet of a chip with legs on all four sides; returns the chip's box."""
    x, y = middle
    cv2.rectangle(bare, (x - 58, y - 58), (x + 58, y + 58), bare[0, 0].tolist(), -1)
    for shift in range(-36, 37, 12):
        cv2.rectangle(bare, (x - 56, y + shift - 3), (x + 56, y + shift + 3), (190, 190, 186), -1)
        cv2.rectangle(bare, (x + shift - 3, y - 56), (x + shift + 3, y + 56), (190, 190, 186), -1)
    cv2.rectangle(bare, (x - 40, y - 40), (x + 40, y + 40), bare[0, 0].tolist(), -1)
    return x - 45, y - 45, x + 45, y + 45


def _small_component(rng: np.random.Generator, bare: Artwork, middle: tuple[int, int]) -> Corners:
    """Etch the pads of a resistor, a capacitor or a chip with two rows of legs, and return the component's box."""
    x, y = middle
    long, short = (26, 20) if rng.random() < 0.4 else (20, 9)
    across = rng.random() < 0.5
    wide, high = (long, short) if across else (short, long)
    cv2.rectangle(bare, (x - wide - 10, y - high - 10), (x + wide + 10, y + high + 10), bare[0, 0].tolist(), -1)
    feet = range(-18, 19, 12) if short == 20 else (0,)
    half = 3 if short == 20 else 10
    for shift in feet:
        for side in (-1, 1):
            if across == (short == 20):
                foot = (x + shift, y + side * (high + 1))
                size = (half, 7)
            else:
                foot = (x + side * (wide - 1), y + shift)
                size = (7, half)
            low, end = (foot[0] - size[0], foot[1] - size[1]), (foot[0] + size[0], foot[1] + size[1])
            cv2.rectangle(bare, low, end, (192, 192, 188), -1)
    cv2.rectangle(bare, (x - wide - 10, y - high - 10), (x + wide + 10, y + high + 10), (205, 208, 200), 1)
    return x - wide, y - high, x + wide, y + high


def _mount(rng: np.random.Generator, full: Artwork, high: Print, corners: Corners) -> None:
    """Draw a component into its box."""
    left, top, right, bottom = corners
    chip = min(right - left, bottom - top) > 30
    body = (34, 34, 37) if chip else ((168, 138, 98), (42, 42, 46), (120, 84, 58))[rng.integers(3)]
    cv2.rectangle(full, (left, top), (right, bottom), body, -1)
    cv2.rectangle(high, (left, top), (right, bottom), 105 if chip else 70, -1)
    if chip:
        cv2.circle(full, (left + 8, top + 8), 3, (92, 92, 95), -1, cv2.LINE_AA)
        for row in range(2 if right - left < 80 else 3):
            text = "".join(chr(int(code)) for code in rng.integers(48, 58, max(2, (right - left) // 12 - 1)))
            cv2.putText(full, text, (left + 7, top + 22 + 12 * row), FONT, 0.34, (158, 158, 156), 1, cv2.LINE_AA)
    elif right - left > bottom - top:
        full[top : bottom + 1, left : left + 8] = full[top : bottom + 1, right - 7 : right + 1] = (200, 200, 198)
    else:
        full[top : top + 8, left : right + 1] = full[bottom - 7 : bottom + 1, left : right + 1] = (200, 200, 198)


def _foam(canvas: Canvas) -> Picture:
    pores = np.clip(canvas.noise(0.035, 2) - np.float32(0.8), 0, 1)
    tone = 1 - np.float32(0.1) * pores + np.float32(0.03) * canvas.noise(0.5, 2)
    return flat(canvas.size, canvas.colour((0.84, 0.68, 0.70), 0.02)) * tone[..., None]


def dial(canvas: Canvas) -> Surface:
    """Draw a round gauge in a black or chrome frame on a blue panel; ticks, numbers and the needle are parts."""
    rng = canvas.rng
    rim = rng.uniform(0.76, 0.86)
    x, y = (plane / np.float32(rim) for plane in canvas.turned(rng.normal(0, 0.15), aside(canvas)))
    radius = np.hypot(x, y)
    blank, relief = _gauge(canvas, x, y, radius)
    ink = sampled(canvas, x, y, _face_print()[..., None], 2.0)[..., 0]
    pointing = FIRST + SWEEP * rng.uniform(0.05, 0.95)
    along = np.float32(np.cos(pointing)) * x + np.float32(np.sin(pointing)) * y
    across = np.float32(np.cos(pointing)) * y - np.float32(np.sin(pointing)) * x
    taper = np.float32(0.04) - np.float32(0.022) * np.clip(along / np.float32(0.5), 0, 1)
    needle = np.maximum(np.abs(across) - taper, np.abs(along - np.float32(0.15)) - np.float32(0.35))
    needle = np.minimum(needle, radius - np.float32(0.085)) * np.float32(rim)
    pointer = canvas.fill(needle)
    near = np.minimum(cv2.GaussianBlur(pointer, (0, 0), 0.025 / canvas.pixel), np.float32(0.6))
    shade = (1 - np.float32(0.4) * near)[..., None]
    face = mixed(blank, ink * np.float32(0.92), (0.07, 0.07, 0.08)) * shade
    face = mixed(face, pointer, canvas.colour(((0.10, 0.10, 0.11), (0.72, 0.10, 0.07))[rng.integers(2)], 0.02))
    relief = relief + np.float32(0.02) * np.clip(-needle / np.float32(0.03), 0, 1)
    coverage = canvas.fill((radius - 1) * np.float32(rim))
    panel = shadowed(canvas, speckled(canvas, (0.24, 0.33, 0.42), 0.06), coverage, 0.7)
    surface = laid(panel, coverage, face, relief, 0.25)
    # Where the needle was, its shadow stays within the part that is lost.
    parts = [pointer > 0, *_printed_parts(rng, x, y)]
    backdrop = laid(panel, coverage, blank, relief, 0.25).colour
    return replace(surface, backdrop=backdrop, parts=tuple(part & surface.body for part in parts if part.any()))


def _gauge(canvas: Canvas, x: Plane, y: Plane, radius: Plane) -> tuple[Picture, Plane]:
    """Draw a gauge without print and needle; returns its colour and relief."""
    rng = canvas.rng
    paper = flat(canvas.size, canvas.colour((0.86, 0.86, 0.83), 0.015))
    paper = paper * (1 + np.float32(0.008) * canvas.noise(0.4, 2))[..., None]
    low, high = FIRST + SWEEP * np.array([rng.uniform(0.7, 0.85), 1.0])
    angle = np.mod(np.arctan2(y, x) - np.float32(FIRST), np.float32(2 * np.pi)) + np.float32(FIRST)
    band = canvas.fill(np.abs(radius - np.float32(0.685)) - np.float32(0.018)) * (angle > low) * (angle < high)
    paper = mixed(paper, band.astype(np.float32), canvas.colour((0.76, 0.13, 0.10), 0.02))
    depth = np.clip((radius - np.float32(0.79)) / np.float32(0.08), 0, 1)
    paper = paper * (1 - np.float32(0.25) * depth)[..., None]
    metal = ((0.10, 0.10, 0.11), (0.60, 0.61, 0.63), (0.60, 0.49, 0.28))[rng.integers(3)]
    ring = flat(canvas.size, canvas.colour(metal, 0.02)) * (1 + np.float32(0.2) * (x * x - y * y))[..., None]
    ridge = np.clip(1 - ((radius - np.float32(0.935)) / np.float32(0.065)) ** 2, 0, None)
    return mixed(paper, canvas.fill(np.float32(0.87) - radius), ring), np.float32(0.07) * np.sqrt(ridge)


@cache
def _face_print() -> Print:
    """Print 51 ticks and 11 numbers, white on black."""
    sheet = np.zeros((FACE, FACE), np.uint8)
    for tick in range(51):
        angle = FIRST + SWEEP * tick / 50
        towards = FACE / 2 * np.array([np.cos(angle), np.sin(angle)])
        major = tick % 5 == 0
        ends = [np.round(FACE / 2 + reach * towards).astype(int).tolist() for reach in (0.7 if major else 0.755, 0.82)]
        cv2.line(sheet, ends[0], ends[1], 255, 9 if major else 4, cv2.LINE_AA)
        if major:
            middle = np.round(FACE / 2 + 0.585 * towards).astype(int).tolist()
            centred(sheet, str(tick * 2), (middle[0], middle[1]), 0.95, 3)
    centred(sheet, "bar", (FACE // 2, round(0.64 * FACE)), 0.9, 2)
    return sheet


def _printed_parts(rng: np.random.Generator, x: Plane, y: Plane) -> list[Region]:
    """Return the places of some long ticks, some numbers, and some runs of short ticks."""
    parts = []
    for place, number in enumerate(rng.permutation(11)[:6]):
        run = place >= 4  # of the short ticks after a number
        angle = FIRST + SWEEP * (min(number, 9) + 0.5 if run else number) / 10
        if place < 2:
            at = 0.585 * np.array([np.cos(angle), np.sin(angle)])
            parts.append((np.abs(x - np.float32(at[0])) < 0.1) & (np.abs(y - np.float32(at[1])) < 0.055))
            continue
        along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
        across = np.float32(np.cos(angle)) * y - np.float32(np.sin(angle)) * x
        parts.append((np.abs(along - np.float32(0.76)) < 0.075) & (np.abs(across) < (0.15 if run else 0.028)))
    return parts


def sampled(
    canvas: Canvas, x: Plane, y: Plane, sheet: UInt8[ndarray, "sheet_height sheet_width channels"], width: float
) -> Float32[ndarray, "height width channels"]:
    """Show a sheet ``width`` wide around the origin.

    Args:
        sheet: Dots from 0 to 255.
        width: Width of the sheet in the canvas' units.

    Returns:
        Values in [0, 1]; 0 outside the sheet.
    """
    columns = max(8, min(sheet.shape[1], round(width / canvas.pixel * 1.25)))
    rows = max(4, round(columns * sheet.shape[0] / sheet.shape[1]))
    small = cv2.resize(sheet, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    dot = np.float32(width / columns)
    across, down = x / dot + np.float32(columns / 2 - 0.5), y / dot + np.float32(rows / 2 - 0.5)
    seen = cv2.remap(small, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return seen.reshape(*canvas.size, sheet.shape[2])


def centred(sheet: Print, text: str, middle: tuple[int, int], scale: float, thickness: int) -> None:
    """Write a text in white around a point of a sheet."""
    (width, height), _ = cv2.getTextSize(text, FONT, scale, thickness)
    corner = (middle[0] - width // 2, middle[1] + height // 2)
    cv2.putText(sheet, text, corner, FONT, scale, 255, thickness, cv2.LINE_AA)
