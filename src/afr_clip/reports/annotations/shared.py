"""What several formats need: labels, regions as one ring, and JSON that is written as it comes."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np

from afr_clip.files import in_one_line, shown, written_whole
from afr_clip.inspection.regions import Polygon, Region

ANOMALY = "anomaly"
"""The label of regions without a hint."""

FEW_CORNERS = 24
"""Up to this many corners, an outline is easy to edit by hand."""


@dataclass(frozen=True)
class Photographs:
    """The photographs that annotations belong to.

    Attributes:
        root: The folder that their names start from.
        places: Where the files about each photograph lie below a folder, without suffix, by its name.
        model_version: The detector in a few words.
    """

    root: Path
    places: Mapping[str, Path]
    model_version: str

    def seen_from(self, folder: Path, image: str) -> str:
        """Return the path of a photograph relative to a folder, in characters that a file can hold."""
        return in_one_line(Path(os.path.relpath(self.root / image, folder)).as_posix())


class Labels(dict[str, int]):
    """The labels so far and their numbers, which begin with `ANOMALY`."""

    def __init__(self, first: int) -> None:
        super().__init__({ANOMALY: first})
        self._first = first

    def number(self, region: Region) -> int:
        """Return the number of a region's label."""
        return self.setdefault(label_of(region), self._first + len(self))


def label_of(region: Region) -> str:
    """Return the word that a region's hint names, or `ANOMALY`."""
    return ANOMALY if region.hint is None else shown(region.hint.word)


def one_ring(polygons: tuple[Polygon, ...]) -> list[list[float]]:
    """Join the rings of a region by bridges of no width, for tools that know neither holes nor parts.

    Filled by the even-odd rule, the ring covers the same pixels.

    Example:
        >>> one_ring((((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)), ((1.0, 1.0), (2.0, 2.0), (1.0, 2.0))))
        [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [2.0, 2.0], [1.0, 2.0], [1.0, 1.0]]
    """
    ring = np.array(polygons[0])
    for polygon in polygons[1:]:
        other = np.array(polygon)
        # From the upper corner of the next ring to the nearest one so far, and back.
        nearest = int(((ring - other[0]) ** 2).sum(axis=1).argmin())
        there_and_back = [other, other[:1], ring[nearest : nearest + 1]]
        if (ring[nearest] == other[0]).all():
            there_and_back = [other[1:], other[:1]]
        ring = np.concatenate([ring[: nearest + 1], *there_and_back, ring[nearest + 1 :]])
    return ring.tolist()


def drawn_outline(region: Region) -> list[list[float]]:
    """Return a region as one ring with few corners, about a pixel off at most, that a person can correct.

    Rings that already have few corners, or whose area would change by more than 5 %, are kept.
    """
    return one_ring(tuple(map(_smoothed, region.polygons)))


def _smoothed(ring: Polygon) -> Polygon:
    if len(ring) <= FEW_CORNERS:
        return ring
    exact = np.array(ring, dtype=np.float32)
    smooth = cv2.approxPolyDP(exact, 1.0, closed=True)
    area = cv2.contourArea(exact)
    is_close = abs(cv2.contourArea(smooth) - area) <= 0.05 * area
    return tuple((x, y) for x, y in smooth[:, 0].tolist()) if is_close else ring


def as_json(content: object) -> str:
    """Return one line of JSON, with letters of all languages as they are."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@contextmanager
def growing_text(path: Path) -> Iterator[TextIO]:
    """Open a file that replaces the one before once everything is written."""
    with written_whole(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
        yield file
