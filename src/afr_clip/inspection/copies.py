"""Photographs that look like another one: they may show the same part again, which is no new evidence."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

SIDE = 32
"""Pixels of a thumbnail's side."""

ALIKE = 0.01
"""Root mean square difference of two thumbnails, as a share of the grey range, below which they look alike.

Of photographs of different bottles, pills, grids and metal plates the nearest two are 0.018 to 0.09 apart. The same
photograph as another JPEG, with noise of four grey levels or two levels brighter is at most 0.008 away.
"""


def thumbnail(photograph: UInt8[ndarray, "height width 3"]) -> Float32[ndarray, " pixels"]:
    """Shrink a photograph to a few grey pixels from 0 to 1."""
    small = cv2.resize(photograph, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return (small.mean(axis=2, dtype=np.float32) / np.float32(255)).ravel()


def look_alikes(thumbnails: Float32[ndarray, "photographs pixels"]) -> list[tuple[int, int]]:
    """Return each photograph that looks like an earlier one, with the nearest of those."""
    found = []
    for later in range(1, len(thumbnails)):
        distance = np.sqrt(((thumbnails[:later] - thumbnails[later]) ** 2).mean(axis=1))
        nearest = int(distance.argmin())
        if distance[nearest] < ALIKE:
            found.append((later, nearest))
    return found
