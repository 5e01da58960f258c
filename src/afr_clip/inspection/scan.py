"""Looking at photographs of any size, whole and in tiles; importing this module does not import torch."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from afr_clip.inspection.regions import Region
from afr_clip.inspection.tiles import Blend, Tile, Tiling, bands, choose_tiles

WHOLE, PIECE = "whole", "piece"
"""Views of a photograph, whose references are kept apart."""

MOST_HELD = 1 << 26
"""Pixels of photographs from which a batch is full; they are kept until their tiles are scored."""


class InspectionError(ValueError):
    """Photographs cannot be inspected as asked."""


@dataclass(frozen=True)
class Scan:
    """A network's result for one photograph.

    Attributes:
        anomaly_map: At the network's input size, or, of a tiled photograph, at its own.
        image_score: In [0, 1].
        size: Height and width of the photograph in pixels.
        by_name: The image score under other names.
    """

    anomaly_map: Float32[np.ndarray, "rows columns"]
    image_score: float
    size: tuple[int, int]
    by_name: Mapping[str, float] = field(default_factory=dict)

    @property
    def highest(self) -> float:
        """The maximum of the map at the photograph's own size."""
        return float(self.enlarged().max())

    def enlarged(self) -> Float32[np.ndarray, "height width"]:
        """Return the map at the photograph's own size."""
        return enlarged(self.anomaly_map, self.size)

    def within(self, area: Bool[np.ndarray, "height width"] | None) -> "Scan":
        """Look at part of a photograph: the map is 0 elsewhere, and the image score is its maximum.

        The network's own image score may come from what is outside, so it cannot be used.
        """
        if area is None:
            return self
        inside = np.where(area, self.enlarged(), np.float32(0))
        return Scan(inside, float(inside.max()), self.size)


@dataclass(frozen=True)
class Scanning:
    """How photographs are looked at.

    Attributes:
        accelerator: ``auto`` takes a GPU if there is one; or a device of PyTorch: ``cpu``, ``cuda:1``, ``mps``.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``; scores are always float32.
        tile: See `Tile`.
        overlap: Smallest share of a tile that the next one shows again.
        batch_size: Views in one forward pass.
    """

    accelerator: str
    precision: str
    tile: Tile
    overlap: float
    batch_size: int


@dataclass(frozen=True)
class Looked:
    """Maps at input size and image scores of a batch of views, and the image scores under other names."""

    maps: Float32[np.ndarray, "batch rows columns"]
    scores: Float32[np.ndarray, " batch"]
    by_name: Mapping[str, Sequence[float]] = field(default_factory=dict)


class PhotographScanner(ABC):
    """Scores photographs of any size, with what computes the score of a view.

    Attributes:
        normalisation: Per-channel mean and standard deviation of the pictures that `score_under` takes.
    """

    scanning: Scanning
    normalisation: tuple[Sequence[float], Sequence[float]]

    @property
    @abstractmethod
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""

    @abstractmethod
    def identity(self, category: str) -> dict[str, Any]:
        """Return everything that affects a photograph's scores. A calibration is valid for this combination only."""

    @abstractmethod
    def look(
        self, names: Sequence[str], views: Sequence[UInt8[np.ndarray, "3 _ _"]], images: Sequence[str], view: str
    ) -> Looked:
        """Score views of any size, at least one, under a category and other names; ``images`` names them in errors."""

    @abstractmethod
    def score_under(self, names: Sequence[str], pictures: Any, images: Sequence[str]) -> tuple[Any, Any, Any]:  # noqa: ANN401
        """Score pictures of the input size, normalised by `normalisation`; returns what `Looked` holds."""

    @abstractmethod
    def hinted(
        self,
        photograph: UInt8[np.ndarray, "3 height width"],
        regions: Sequence[Region],
        category: str,
        words: tuple[str, ...],
    ) -> tuple[Region, ...]:
        """Give each region of a photograph the word that fits it best."""

    def scan(
        self,
        photographs: Iterable[tuple[str, UInt8[np.ndarray, "3 _ _"]]],
        category: str,
        other_names: Sequence[str] = (),
    ) -> Iterator[Scan]:
        """Score photographs of any size, in order and in batches.

        Args:
            photographs: With their names, upright.
            other_names: Under which they get a second image score, as a whole.
        """
        for batch in batched(photographs, self.scanning.batch_size):
            names, pixels = zip(*batch, strict=True)
            looked = self.look((category, *other_names), pixels, names, WHOLE)
            for i, (name, photograph) in enumerate(batch):
                by_name = {other: values[i] for other, values in looked.by_name.items()}
                yield self.complete(name, photograph, looked.maps[i], float(looked.scores[i]), category, by_name)

    def complete(
        self,
        name: str,
        photograph: UInt8[np.ndarray, "3 height width"],
        whole: Float32[np.ndarray, "rows columns"],
        image_score: float,
        category: str,
        by_name: Mapping[str, float] | None = None,
    ) -> Scan:
        """Add the tiles of a photograph to what it looks like as a whole.

        The map is the mean of both views, and the image score its maximum: the class token of a
        single tile does not describe the photograph.
        """
        size = (photograph.shape[1], photograph.shape[2])
        tiling = self.tiling(size)
        if tiling is None:
            return Scan(whole, image_score, size, by_name or {})
        blend = Blend(tiling)
        for batch in batched(pieces(photograph, tiling), self.scanning.batch_size):
            corners, views = zip(*batch, strict=True)
            looked = self.look((category,), views, [name] * len(batch), PIECE)
            for corner, tile_map in zip(corners, looked.maps, strict=True):
                blend.add(corner, enlarged(tile_map, (tiling.side, tiling.side)))
        joined = blend.blended()
        _add_enlarged(joined, whole)
        joined /= 2
        return Scan(joined, float(joined.max()), size, by_name or {})

    def tiling(self, size: tuple[int, int]) -> Tiling | None:
        """Return the tiles of a photograph of ``(height, width)`` pixels; ``None`` if it is looked at as a whole."""
        return choose_tiles(size, self.scanning.tile, self.scanning.overlap, self.input_size[0])


def pieces(
    photograph: UInt8[np.ndarray, "3 height width"], tiling: Tiling
) -> Iterator[tuple[tuple[int, int], UInt8[np.ndarray, "3 side side"]]]:
    """Cut a photograph into its tiles, each with its first row and column."""
    for top, left in tiling.corners:
        yield (top, left), photograph[:, top : top + tiling.side, left : left + tiling.side]


def enlarged(
    anomaly_map: Float32[np.ndarray, "rows columns"], size: tuple[int, int]
) -> Float32[np.ndarray, "height width"]:
    """Interpolate a map bilinearly between the centres of its pixels, as `upsample_map` does.

    Example:
        >>> enlarged(np.float32([[0, 1]]), (1, 4)).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
    """
    if anomaly_map.shape == size:
        return anomaly_map
    return np.asarray(cv2.resize(anomaly_map, size[::-1], interpolation=cv2.INTER_LINEAR))


def _add_enlarged(total: Float32[np.ndarray, "height width"], anomaly_map: Float32[np.ndarray, "rows columns"]) -> None:
    """Add `enlarged` of a map without its memory: enlarge it along its rows, then, in bands, along its columns."""
    (height, width), rows = total.shape, len(anomaly_map)
    wide = enlarged(anomaly_map, (rows, width))
    for band in bands(total.shape):
        place = np.arange(band.start, band.stop, dtype=np.float32) + np.float32(0.5)
        place = np.maximum(place * np.float32(rows / height) - np.float32(0.5), 0)
        above = place.astype(np.intp)
        share = (place - above).astype(np.float32)[:, None]
        total[band] += (1 - share) * wide[above] + share * wide[np.minimum(above + 1, rows - 1)]


def batched(items: Iterable[tuple[Any, np.ndarray]], size: int) -> Iterator[list[tuple[Any, Any]]]:
    """Collect ``size`` pictures with their keys, or fewer if they are large."""
    batch: list[tuple[Any, np.ndarray]] = []
    for item in items:
        batch.append(item)
        if len(batch) == size or sum(pixels[0].size for _, pixels in batch) >= MOST_HELD:
            yield batch
            batch = []
    if batch:
        yield batch
