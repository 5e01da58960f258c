"""Anomaly maps on disk: 16-bit PNG, value / 65535 = anomaly score, or TIFF with float32 values."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from afr_clip.data.records import AnomalyBatch, AnomalySample
from afr_clip.files import written_whole
from afr_clip.settings import MapFormat

FULL_SCALE = 65535


class MapWriter:
    """A sink that writes every anomaly map, and every known mask at the same size.

    ``maps/DATASET/CATEGORY/TYPE/STEM.png`` or ``.tiff`` holds the map, ``masks/...`` the resized ground truth (0 or
    255), so that every pixel metric can be computed again from the run folder alone.
    """

    def __init__(self, folder: Path, map_format: MapFormat) -> None:
        self._folder = folder
        self._format = map_format

    def __call__(
        self,
        batch: AnomalyBatch,
        anomaly_map: Float[Tensor, "batch height width"],
        image_score: Float[Tensor, " batch"],
    ) -> None:
        """Write the maps of one batch."""
        for i, sample in enumerate(batch.samples):
            place = map_path(sample)
            save_map(self._folder / "maps" / place.with_name(place.stem), anomaly_map[i], self._format)
            if batch.has_mask[i]:
                save_mask(self._folder / "masks" / place, batch.mask[i])


def map_path(sample: AnomalySample) -> Path:
    """Return where an image's map lies below ``maps/``."""
    return Path(sample.dataset, sample.category, sample.defect_type, f"{sample.name}.png")


def save_map(path: Path, anomaly_map: Float32[Tensor, "height width"], map_format: MapFormat) -> None:
    """Write a map of scores in [0, 1].

    Args:
        path: Without the suffix, which the format decides.
    """
    pixels = anomaly_map.cpu().numpy()
    if map_format is MapFormat.png:
        _save_png(path.with_name(f"{path.name}.png"), np.rint(pixels * np.float32(FULL_SCALE)).astype(np.uint16))
        return
    with written_whole(path.with_name(f"{path.name}.tiff")) as unfinished:
        Image.fromarray(pixels).save(unfinished, format="TIFF", compression="tiff_adobe_deflate")


def save_mask(path: Path, mask: Bool[Tensor, "height width"]) -> None:
    """Write a mask as PNG with 0 and 255."""
    _save_png(path, mask.cpu().numpy().astype(np.uint8) * np.uint8(255))


def load_map(path: Path) -> NDArray[np.float64]:
    """Read a map back as scores ``(H, W)``."""
    with Image.open(path) as image:
        return np.asarray(image, dtype=np.float64) / (1 if image.mode == "F" else FULL_SCALE)


def _save_png(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    with written_whole(path) as unfinished:
        Image.fromarray(pixels).save(unfinished, format="PNG", compress_level=1)
