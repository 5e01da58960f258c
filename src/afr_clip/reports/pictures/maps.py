"""Anomaly maps on disk: 16-bit PNG, value / 65535 = anomaly score, or TIFF with float32 values."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from afr_clip.data.records import AnomalyBatch, AnomalySample
from afr_clip.files import LONGEST_NAME, fitted, shown, write_encoded
from afr_clip.inspection.tiles import bands
from afr_clip.settings import MapFormat

FULL_SCALE = 65535


class MapWriter:
    """A sink that writes every anomaly map, and every known mask at the same size.

    ``maps/DATASET/CATEGORY/TYPE/STEM.png`` or ``.tiff`` holds the map, ``masks/...`` the resized ground truth (0 or
    255), so that every pixel metric can be computed again from the run folder alone.

    Args:
        samples: All images of the dataset.
    """

    def __init__(self, folder: Path, samples: Sequence[AnomalySample], map_format: MapFormat) -> None:
        self._folder = folder
        self._format = map_format
        wanted = [Path(sample.dataset, sample.category, sample.defect_type, sample.name) for sample in samples]
        images = [sample.image_path for sample in samples]
        self._places = dict(zip(images, output_places(wanted, wanted), strict=True))

    def __call__(
        self,
        batch: AnomalyBatch,
        anomaly_map: Float[Tensor, "batch height width"],
        image_score: Float[Tensor, " batch"],
    ) -> None:
        """Write the maps of one batch."""
        for i, sample in enumerate(batch.samples):
            place = self._places[sample.image_path]
            save_map(self._folder / "maps" / place, anomaly_map[i], self._format)
            if batch.has_mask[i]:
                save_mask(self._folder / "masks" / with_suffix(place, ".png"), batch.mask[i])


SUFFIXES = (".png", ".tiff", ".jpg")
"""Suffixes of the files that are written for an image."""

LONGEST_STEM = LONGEST_NAME - 15
"""Bytes of a file name without its suffix."""


def output_places(wanted: Sequence[Path], fuller: Sequence[Path], taken: Sequence[Path] = ()) -> list[Path]:
    """Return where the files of each image go: no two get the same place, on any file system.

    Some tell neither "A" from "a" nor a composed from a decomposed umlaut, drop dots and spaces at the end, and allow
    255 bytes in a name. Control characters, and bytes that are not UTF-8, do not get into the names of new files.

    Args:
        wanted: Relative paths without suffix.
        fuller: Paths that say more, for images whose wanted paths are the same.
        taken: Places of other images.

    Example:
        >>> names = [Path("a.jpg"), Path("a.png"), Path("b.png")]
        >>> [place.name for place in output_places([name.with_suffix("") for name in names], names)]
        ['a.jpg', 'a.png', 'b']
    """
    num_wanted, num_fuller = Counter(map(_folded, wanted)), Counter(map(_folded, fuller))
    folders = {_folded(folder) for path in (*fuller, *taken) for folder in path.parents}
    occupied = set(map(_folded, taken))

    def is_free(path: Path, key: str) -> bool:
        # A folder may be called as a map would be.
        return bool(path.name.strip(". ")) and key not in occupied and folders.isdisjoint(key + s for s in SUFFIXES)

    places = []
    for short, full in zip(wanted, fuller, strict=True):
        key, full_key = _folded(short), _folded(full)
        others = num_fuller[key] - (key == full_key)
        if num_wanted[key] == 1 and not others and is_free(short, key):
            place = _safe(short)
        elif num_fuller[full_key] == 1 and is_free(full, full_key):
            place = _safe(full)
        else:
            place = _safe(full, always_hashed=True)
        places.append(place)
    return places


def with_suffix(place: Path, suffix: str) -> Path:
    """Append a suffix to a place, whose own dots stay."""
    return place.with_name(f"{place.name}{suffix}")


def _folded(path: Path) -> str:
    parts = (part.rstrip(". ") for part in path.parts)
    return unicodedata.normalize("NFC", "/".join(parts).casefold())


def _safe(path: Path, *, always_hashed: bool = False) -> Path:
    parts = []
    for part in path.parts:
        safe = shown(part).replace("\\", "_")
        ending = f"~{_hash(part)}" if safe != part else ""
        parts.append(fitted(safe, LONGEST_STEM - len(ending)) + ending)
    if always_hashed:
        ending = f"~{_hash(path)}"
        parts[-1] = fitted(parts[-1], LONGEST_STEM - len(ending)) + ending
    return Path(*parts)


def _hash(name: str | Path) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def save_map(path: Path, anomaly_map: Float32[Tensor, "height width"], map_format: MapFormat) -> None:
    """Write a map of scores in [0, 1].

    Args:
        path: Without the suffix, which the format decides.
    """
    pixels = anomaly_map.cpu().numpy()
    if map_format is MapFormat.png:
        codes = np.empty(pixels.shape, np.uint16)
        for rows in bands(pixels.shape):
            codes[rows] = np.rint(pixels[rows] * np.float32(FULL_SCALE))
        _save_png(with_suffix(path, ".png"), codes)
        return
    save = partial(Image.fromarray(pixels).save, format="TIFF", compression="tiff_adobe_deflate")
    write_encoded(with_suffix(path, ".tiff"), save)


def save_mask(path: Path, mask: Bool[Tensor, "height width"]) -> None:
    """Write a mask as PNG with 0 and 255."""
    _save_png(path, mask.cpu().numpy().astype(np.uint8) * np.uint8(255))


def _save_png(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    write_encoded(path, partial(Image.fromarray(pixels).save, format="PNG", compress_level=1))
