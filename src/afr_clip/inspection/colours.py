"""One colour scale for anomaly scores, on photographs."""

from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from numpy import ndarray

COLOURS = "turbo"
OPACITY = 0.5


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
