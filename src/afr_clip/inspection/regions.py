"""Anomalous regions of a map: hysteresis, connected components, and outlines that are exact to the pixel."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import cv2
import numpy as np
from jaxtyping import Bool, Float32

Polygon: TypeAlias = tuple[tuple[float, float], ...]
"""The corners ``(x, y)`` of a ring in pixels, without the first again at the end; (0, 0) is the corner of the image."""


@dataclass(frozen=True)
class Hint:
    """Which of the given words fits a region best, which is no more than a hint.

    Attributes:
        margin: How much better than the second word, as a difference of cosines.
    """

    word: str
    margin: float


@dataclass(frozen=True)
class Region:
    """One connected anomalous region of a photograph.

    Attributes:
        box: Its left and upper edge, width and height in pixels of the photograph.
        mask: Its pixels within the box.
        polygons: The outline along the edges of the pixels: outer rings clockwise, then holes anticlockwise. No ring
            touches itself, so pixels that meet at a corner only may lie in different rings.
        area_mm2: ``None`` if the size of a pixel is unknown.
        peak: The highest score in it.
        mean: The mean score in it.
    """

    box: tuple[int, int, int, int]
    mask: Bool[np.ndarray, "height width"] = field(compare=False)  # box and polygons say the same
    polygons: tuple[Polygon, ...]
    area_px: int
    area_mm2: float | None
    peak: float
    mean: float
    hint: Hint | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; the mask as `run_lengths`."""
        return {
            "box": list(self.box),
            "area_px": self.area_px,
            "area_mm2": self.area_mm2,
            "peak": self.peak,
            "mean": self.mean,
            "hint": None if self.hint is None else {"word": self.hint.word, "margin": self.hint.margin},
            "polygons": [[list(corner) for corner in ring] for ring in self.polygons],
            "mask": run_lengths(self.mask),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Region":
        """Read what `to_dict` returned."""
        x, y, width, height = content["box"]
        runs = content["mask"]
        mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
        return cls(
            (x, y, width, height),
            np.ascontiguousarray(mask),
            tuple(tuple((float(x), float(y)) for x, y in ring) for ring in content["polygons"]),
            content["area_px"],
            content["area_mm2"],
            content["peak"],
            content["mean"],
            None if content["hint"] is None else Hint(**content["hint"]),
        )


def find_regions(
    anomaly_map: Float32[np.ndarray, "height width"],
    high: float,
    low: float,
    *,
    mm_per_pixel: float | None = None,
    min_area_mm2: float | None = None,
) -> tuple[Region, ...]:
    """Find the regions of a map at the photograph's size; pixels that touch by a corner belong together.

    Args:
        high: A region has at least one pixel that scores this much.
        low: Every pixel of a region scores at least this much.
        mm_per_pixel: The side of a pixel on the part.

    Returns:
        The highest peak first.

    Raises:
        ValueError: If the map holds NaN or infinity, or ``low`` exceeds ``high``.

    Example:
        >>> scores = np.float32([[0.1, 0.4, 0.9, 0.1], [0.1, 0.1, 0.1, 0.1], [0.1, 0.4, 0.4, 0.1]])
        >>> [(region.box, region.area_px) for region in find_regions(scores, high=0.8, low=0.3)]
        [((1, 0, 2, 1), 2)]
    """
    if not low <= high:
        msg = f"low must not exceed high, got low={low} and high={high}. A region grows from high down to low."
        raise ValueError(msg)
    highest = anomaly_map.max(axis=1)
    if not (np.isfinite(highest).all() and np.isfinite(anomaly_map.min())):
        msg = "The anomaly map holds NaN or infinity, so its regions are undefined. Score the photograph again."
        raise ValueError(msg)
    least_low, least_high = _least(low), _least(high)
    found = []
    # No region crosses a row that is low throughout, so labels are needed only for the rows between two of those.
    edges = np.flatnonzero(np.diff(highest >= least_low, prepend=False, append=False))
    for top, bottom in edges.reshape(-1, 2).tolist():
        if not highest[top:bottom].max() >= least_high:
            continue
        rows = anomaly_map[top:bottom]
        above = (rows >= least_low).view(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8, ltype=cv2.CV_32S)
        for label in np.unique(labels[rows >= least_high]):
            x, y, width, height, area_px = stats[label].tolist()
            # 12 digits, so that 29 pixels of 0.1 mm have 0.29 mm2 and not 0.2900000000000000...4.
            area_mm2 = None if mm_per_pixel is None else float(f"{area_px * mm_per_pixel**2:.12g}")
            if (area_mm2 or 0) < (min_area_mm2 or 0):
                continue
            window = (slice(y, y + height), slice(x, x + width))
            mask = labels[window] == label
            scores = rows[window][mask]
            peak, mean = float(scores.max()), float(scores.mean(dtype=np.float64))
            y += top
            found.append(Region((x, y, width, height), mask, outline(mask, x, y), area_px, area_mm2, peak, mean))
    return tuple(sorted(found, key=lambda region: (-region.peak, region.box[1], region.box[0], region.polygons)))


def _least(limit: float) -> np.float32:
    """Return the least value of a map that reaches a limit; NumPy would round the limit, down as well."""
    rounded = np.float32(limit)
    return rounded if float(rounded) >= limit else np.nextafter(rounded, np.float32(np.inf))


def run_lengths(mask: Bool[np.ndarray, "height width"]) -> list[int]:
    """Count the equal pixels that follow each other down the columns, from left to right, beginning with ``False``.

    COCO's uncompressed run lengths are these.

    Example:
        >>> run_lengths(np.array([[True, False], [True, False]])), run_lengths(np.array([[False, True]]))
        ([0, 2, 2], [1, 1])
    """
    pixels = mask.T.reshape(-1)
    changes = np.flatnonzero(np.diff(pixels, prepend=False, append=not pixels[-1]))
    return np.diff(changes, prepend=0).tolist()


def outline(mask: Bool[np.ndarray, "height width"], x: int = 0, y: int = 0) -> tuple[Polygon, ...]:
    """Trace the outline of a mask along the edges of its pixels.

    Args:
        x: Where the left edge of the mask lies in the photograph.
        y: Where its upper edge lies.

    Returns:
        Outer rings, clockwise as seen, then holes, anticlockwise. Filled by the even-odd rule they give the mask.

    Example:
        >>> outline(np.array([[True, True]]), x=10, y=5)
        (((10.0, 5.0), (12.0, 5.0), (12.0, 6.0), (10.0, 6.0)),)
    """
    padded = np.pad(mask, 1)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    # The outline turns at a corner with one or three pixels; where two meet at it only, it passes twice.
    rises = (upper_right & lower_left) & ~(upper_left | lower_right)
    is_passed_twice = rises | ((upper_left & lower_right) & ~(upper_right | lower_left))
    rows, columns = np.nonzero((upper_left ^ upper_right ^ lower_left ^ lower_right) | is_passed_twice)
    passes = 1 + is_passed_twice[rows, columns]
    rows, columns = np.repeat(rows, passes), np.repeat(columns, passes)
    is_second = np.repeat(np.cumsum(passes), passes) - 1 == np.arange(len(rows))
    # Along a row, the first and second corner are joined by an edge, the third and fourth, and so on; along a column
    # too. Where the outline passes a corner twice, the first pass comes from the left. It turns upwards if the two
    # pixels that meet there lie on a falling line.
    pairs = np.arange(len(rows)) ^ 1
    order = np.lexsort((is_second ^ rises[rows, columns], rows, columns))
    vertical = np.empty(len(rows), np.intp)
    vertical[order] = order[pairs]
    # The mask is on the right hand: an edge above it runs to the right, one below it to the left.
    starts = np.arange(0, len(rows), 2)
    starts += ~lower_right[rows[::2], columns[::2]]
    corners = list(zip((columns + x).astype(float).tolist(), (rows + y).astype(float).tolist(), strict=True))
    outer: list[Polygon] = []
    holes: list[Polygon] = []
    for ring in _rings(corners, pairs.tolist(), vertical.tolist(), starts.tolist()):
        doubled_area = sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairwise([*ring, ring[0]]))
        first = min(range(len(ring)), key=lambda place: ring[place][::-1])
        (outer if doubled_area > 0 else holes).append((*ring[first:], *ring[:first]))
    from_the_top = partial(sorted, key=lambda ring: ring[0][::-1])
    return (*from_the_top(outer), *from_the_top(holes))


def _rings(
    corners: Sequence[tuple[float, float]], across: Sequence[int], vertical: Sequence[int], starts: Sequence[int]
) -> Iterator[list[tuple[float, float]]]:
    """Follow the edges around, and cut a ring where it touches itself."""
    is_seen = [False] * len(corners)
    for start in starts:
        ring: list[tuple[float, float]] = []
        place_in_ring: dict[tuple[float, float], int] = {}
        here = start
        while not is_seen[here]:
            for passed in (here, across[here]):
                is_seen[passed] = True
                corner = corners[passed]
                if corner in place_in_ring:
                    loop = ring[place_in_ring[corner] :]
                    yield loop
                    del ring[-len(loop) :]
                    for other in loop:
                        del place_in_ring[other]
                place_in_ring[corner] = len(ring)
                ring.append(corner)
            here = vertical[across[here]]
        if ring:
            yield ring
