"""Square pieces of a large or elongated photograph, scored at its own resolution and blended into one map."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from afr_clip.data.errors import DataError

Tile = int | Literal["auto"] | None
"""Side of a tile in pixels of the photograph; ``auto`` tiles what would lose detail; ``None`` never does."""

ELONGATED = 2.0
"""A photograph longer than this times its width is tiled by ``auto``, and so is one this many times the input size."""

BAND = 1 << 20
"""Pixels of a photograph or map that are worked on at a time."""

MOST_TILES = 10_000
"""Tiles of one photograph; with more it is so thin, or so large, that scoring it would not end."""

WEAKEST = 1e-3
"""Weight of the outermost pixel of a tile, so that every pixel of the photograph has some."""


@dataclass(frozen=True)
class Tiling:
    """Where the tiles of a photograph lie: on a grid, with the outermost ones flush with the borders.

    Attributes:
        side: Of each tile, in pixels of the photograph.
        tops: First row of each row of tiles.
        lefts: First column of each column of tiles.
        size: Height and width of the photograph.
    """

    side: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    size: tuple[int, int]

    @property
    def corners(self) -> list[tuple[int, int]]:
        """First row and column of each tile."""
        return [(top, left) for top in self.tops for left in self.lefts]


def choose_tiles(size: tuple[int, int], tile: Tile, overlap: float, input_size: int) -> Tiling | None:
    """Cut a photograph into tiles, or decide to look at it as a whole.

    ``auto`` cuts tiles of the network's input size, which are not scaled at all, from a photograph that is more than
    twice as large, and tiles as wide as the photograph from a narrow one.

    Args:
        size: Height and width of the photograph in pixels.
        overlap: Smallest share of a tile that the next one shows again; at least 0, below 1.
        input_size: Side of the network's input in pixels.

    Raises:
        DataError: If there would be too many tiles.

    Example:
        >>> choose_tiles((300, 200), 100, 0.25, 160).tops
        (0, 67, 133, 200)
        >>> choose_tiles((300, 200), "auto", 0.25, 160) is None
        True
    """
    short, long = min(size), max(size)
    if tile is None:
        return None
    if tile == "auto":
        if long <= ELONGATED * short and long <= ELONGATED * input_size:
            return None
        tile = input_size if short > ELONGATED * input_size else short
    side = min(tile, short)
    rows, columns = (1 + math.ceil((length - side) / max(1.0, side * (1 - overlap))) for length in size)
    if rows * columns > MOST_TILES:
        msg = (
            f"A photograph of {size[1]} x {size[0]} pixels would be cut into {rows * columns:,} tiles of {side} "
            f"pixels, and {MOST_TILES:,} is the most. Use a larger tile, a smaller overlap, or tile=null."
        )
        raise DataError(msg)
    return Tiling(side, _starts(size[0], side, rows), _starts(size[1], side, columns), size)


def bands(size: tuple[int, ...], step: int = 1) -> Iterator[slice]:
    """Cut an array of ``(height, width)`` into bands of rows, so that intermediate results take little memory.

    Args:
        step: All bands but the last have a multiple of so many rows.

    Example:
        >>> [(rows.start, rows.stop) for rows in bands((500, 7000), step=100)]
        [(0, 100), (100, 200), (200, 300), (300, 400), (400, 500)]
    """
    height, width = size
    rows = step * max(1, BAND // (width * step))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _starts(length: int, side: int, number: int) -> tuple[int, ...]:
    """Spread tiles evenly from one border to the other."""
    return tuple(round(start) for start in np.linspace(0, length - side, number))


class Blend:
    """The weighted mean of overlapping tiles; a tile counts most in its middle, where it sees all around.

    The weight of a pixel is the product of one along each axis, so the sum of the weights needs no map of its own.

    Args:
        tiling: Where the tiles lie.
    """

    def __init__(self, tiling: Tiling) -> None:
        self._tiling = tiling
        middles = (np.arange(tiling.side, dtype=np.float32) + 0.5) / tiling.side
        self._weight = (np.sin(np.pi * middles) ** 2 + WEAKEST).astype(np.float32)
        self._sum = np.zeros(tiling.size, dtype=np.float32)

    def add(self, corner: tuple[int, int], tile_map: Float32[np.ndarray, "side side"]) -> None:
        """Add the map of one tile."""
        top, left = corner
        place = self._sum[top : top + self._tiling.side, left : left + self._tiling.side]
        place += tile_map * self._weight[:, None] * self._weight

    def blended(self) -> Float32[np.ndarray, "height width"]:
        """Return the map of the photograph; this object is used up."""
        rows = self._total(self._tiling.tops, self._tiling.size[0])
        columns = self._total(self._tiling.lefts, self._tiling.size[1])
        self._sum /= rows[:, None]
        self._sum /= columns
        return self._sum

    def _total(self, starts: tuple[int, ...], length: int) -> NDArray[np.float32]:
        total = np.zeros(length, dtype=np.float32)
        for start in starts:
            total[start : start + self._tiling.side] += self._weight
        return total
