"""Resized pixels on disk: decoded once, then read as a memory map by every worker and every run.

One folder per dataset, size and content. It appears under its name only when it is complete.
"""

import hashlib
import json
import logging
import re
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import torch
import torchvision
from numpy.typing import DTypeLike, NDArray

from afr_clip.data.disk.digest import DatasetDigest
from afr_clip.data.disk.pixels import Pixels, SampleReader
from afr_clip.data.errors import DataError
from afr_clip.data.progress import tracked
from afr_clip.data.records import AnomalySample

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
IMAGES, MASKS, INDEX = "images.npy", "masks.npy", "index.json"
CHUNK = 1 << 24
"""Bytes read at a time while a file is checked."""


@dataclass(frozen=True)
class PixelCache:
    """A complete cache folder; each process maps its files when it first reads.

    Attributes:
        folder: Where the files are.
    """

    folder: Path

    def __getstate__(self) -> dict[str, Path]:
        return {"folder": self.folder}  # a pickled map would carry every pixel to the worker

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__dict__.update(state)

    @cached_property
    def _images(self) -> NDArray[np.uint8]:
        return np.load(self.folder / IMAGES, mmap_mode="r")

    @cached_property
    def _masks(self) -> NDArray[np.bool_]:
        return np.load(self.folder / MASKS, mmap_mode="r")

    def read(self, index: int) -> Pixels:
        """Read one sample.

        Args:
            index: Position in the list of samples that the cache was opened for.

        Returns:
            A copy of its pixels, equal to what ``SampleReader.read`` returns.
        """
        return Pixels(
            image=torch.from_numpy(np.array(self._images[index])),
            mask=torch.from_numpy(np.array(self._masks[index])),
        )


def open_cache(
    samples: Sequence[AnomalySample], reader: SampleReader, digest: DatasetDigest, directory: Path
) -> PixelCache:
    """Open the cache of a dataset; build it first if it is absent, damaged, or of other files.

    Args:
        samples: The dataset, in its order.
        reader: Decodes and resizes.
        digest: The content of the samples' files.
        directory: Where caches are kept; made if absent.

    Returns:
        The cache.

    Raises:
        DataError: If a sample cannot be decoded, or the cache cannot be written.
    """
    key = _key(reader, digest)
    height, width = reader.size
    dataset = re.sub(r"[^\w.-]", "_", samples[0].dataset)
    folder = directory / f"{dataset}-{height}x{width}-{key[:16]}"
    if not _is_intact(folder, key):
        logger.info("Building the image cache %s.", folder)
        _build(samples, reader, folder, key)
    return PixelCache(folder)


def _key(reader: SampleReader, digest: DatasetDigest) -> str:
    """Hash everything that decides a pixel: the files, the size, the threshold, and who decodes and resizes."""
    versions = (FORMAT_VERSION, torch.__version__, torchvision.__version__, PIL.__version__)
    parts = (*versions, *reader.size, reader.mask_threshold, digest.images, digest.masks)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _is_intact(folder: Path, key: str) -> bool:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return bool(index["key"] == key and index["crc32"] == _checksums(folder))
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _build(samples: Sequence[AnomalySample], reader: SampleReader, folder: Path, key: str) -> None:
    directory = folder.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=directory) as scratch:
            unfinished = Path(scratch) / folder.name
            unfinished.mkdir()
            _write_pixels(samples, reader, unfinished)
            index = {"key": key, "num_samples": len(samples), "crc32": _checksums(unfinished)}
            (unfinished / INDEX).write_text(json.dumps(index), encoding="utf-8")
            _install(unfinished, folder, key)
    except DataError:
        raise
    except OSError as error:
        need = len(samples) * 4 * reader.size[0] * reader.size[1] / 1e6
        msg = (
            f"The image cache needs {need:.1f} MB in {directory}, but writing it failed: {error}. "
            f"Free some space, set cache_dir=DIR, or run with data.cache=false."
        )
        raise DataError(msg) from error


def _install(unfinished: Path, folder: Path, key: str) -> None:
    """Give a finished cache its name, unless another process was faster."""
    if folder.exists() and not _is_intact(folder, key):
        shutil.rmtree(folder)
    try:
        unfinished.rename(folder)
    except OSError:
        if not _is_intact(folder, key):
            raise


def _write_pixels(samples: Sequence[AnomalySample], reader: SampleReader, folder: Path) -> None:
    # Plain writes, because a full disk under a writable memory map kills the process without a word.
    size = tuple(reader.size)
    with (folder / IMAGES).open("wb") as images, (folder / MASKS).open("wb") as masks:
        _write_header(images, np.uint8, (len(samples), 3, *size))
        _write_header(masks, np.bool_, (len(samples), *size))
        for sample in tracked(samples, "Caching images"):
            pixels = reader.read(sample)
            images.write(pixels.image.numpy().tobytes())
            masks.write(pixels.mask.numpy().tobytes())


def _write_header(file: BinaryIO, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def _checksums(folder: Path) -> dict[str, int]:
    return {name: _crc32(folder / name) for name in (IMAGES, MASKS)}


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
