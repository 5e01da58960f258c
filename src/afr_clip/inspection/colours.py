"""One colour scale for anomaly scores, on photographs."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from numpy import ndarray
from PIL import Image, ImageDraw

from afr_clip.inspection.regions import Region

COLOURS = "turbo"
OPACITY = 0.5
OUTLINE = (255, 0, 255)
"""No colour of the scale."""


def laid_over(
    image: UInt8[ndarray, "height width 3"], anomaly_map: Float[ndarray, "height width"]
) -> UInt8[ndarray, "height width 3"]:
    """Blend an RGB image with its coloured map of scores in [0, 1]."""
    steps = np.rint(np.clip(anomaly_map, 0, 1) * 255).astype(np.uint8)
    return np.rint((1 - OPACITY) * image + OPACITY * palette()[steps]).astype(np.uint8)


@cache
def palette() -> UInt8[ndarray, "256 3"]:
    """Return the colours of the scores 0, 1/255, ..., 1."""
    return (colormaps[COLOURS](np.arange(256), bytes=True)[:, :3]).astype(np.uint8)


def draw_outlines(picture: Image.Image, regions: Sequence[Region], scale: float = 1.0) -> None:
    """Draw the outlines of regions on a picture.

    Args:
        scale: Pixels of the picture per pixel of the photograph.
    """
    draw = ImageDraw.Draw(picture)
    width = max(1, round(min(picture.size) / 300))
    for polygon in (polygon for region in regions for polygon in region.polygons):
        corners = [(x * scale, y * scale) for x, y in polygon]
        draw.line([*corners, corners[0]], fill=OUTLINE, width=width)
