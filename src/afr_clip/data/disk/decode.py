"""Image files of any common kind to RGB tensors and boolean masks."""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
import torch
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from afr_clip.data.errors import DataError, MissingDataError

JPEG_THRESHOLD = 128
"""JPEG masks carry compression noise around their edges, so a mask value counts from half of the range."""

UNREADABLE = (
    *(OSError, RuntimeError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError),
    *(struct.error, zlib.error),
)
"""What Pillow raises on damaged files."""

TIFF_SIGNATURES = (b"II*\0", b"MM\0*")
"""First bytes of a TIFF in either byte order."""

_ONE_AT_A_TIME = threading.Lock()
"""Filters of warnings belong to the whole process. Under the lock only headers are read; pixels are decoded outside."""


def decode_image(path: Path) -> UInt8[Tensor, "3 height width"]:
    """Decode an image file to RGB.

    The content decides the format, not the suffix. Grey values are repeated, transparency is dropped, 16-bit grey is
    scaled to 8 bits. A TIFF whose three samples a pixel are tagged as grey is taken for RGB. An EXIF orientation is not
    applied, because masks are drawn on the stored pixels.

    Args:
        path: The file.

    Returns:
        The pixels as stored, 0..255.

    Raises:
        DataError: If the file is missing, empty, damaged, not an image, or larger than Pillow's limit for safe images.
    """
    with _opened(path, _content(path)) as image:
        # Left in Pillow's memory order: resizing reads (H, W, 3) faster than (3, H, W).
        return torch.from_numpy(_rgb(image)).permute(2, 0, 1)


def decode_mask(path: Path, threshold: int | None = None) -> Bool[Tensor, "height width"]:
    """Decode a ground-truth mask.

    Class ids (1, 2, ...) count as anomalous as 255 does. Of colours and palettes the brightest channel counts, because
    a weighted grey rounds dark colours to 0; transparency never does.

    Args:
        path: The file.
        threshold: Least 8-bit value that is anomalous; ``None`` takes any value but 0, and from 128 in a JPEG.

    Returns:
        ``True`` where the pixel is anomalous.

    Raises:
        DataError: As for ``decode_image``.
    """
    with _opened(path, _content(path)) as image:
        values = _mask_values(image)
        if threshold is None and image.format == "JPEG":
            threshold = JPEG_THRESHOLD
        if threshold is None:
            return torch.from_numpy(values > 0)
        return torch.from_numpy(values * _eight_bit_scale(image.mode) >= threshold)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        msg = f"{path} must exist, but there is no such file. Was it moved since the run began?"
        raise MissingDataError(msg) from error
    except OSError as error:
        msg = f"{path} must be readable, but reading it failed: {error}. Check its permissions and the disk."
        raise DataError(msg) from error
    if not content:
        msg = f"{path} must hold an image, but the file is empty. Copy it again from its source."
        raise DataError(msg)
    return content


@contextmanager
def _opened(path: Path, content: bytes) -> Iterator[Image.Image]:
    """Open an image and turn whatever goes wrong inside the block into a sentence that names the file."""
    try:
        with _ONE_AT_A_TIME, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", "Corrupt EXIF data")  # which nothing here reads
            image = _open(content)
        yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        msg = (
            f"{path} must have at most {Image.MAX_IMAGE_PIXELS} pixels to be opened safely, but is larger. "
            f"Store it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file."
        )
        raise DataError(msg) from error
    except UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, UnidentifiedImageError):
            reason = "its content is of no known format"
        msg = f"{path} must be an intact image file, but cannot be decoded ({reason}). Copy it again from its source."
        raise DataError(msg) from error


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        if not content.startswith(TIFF_SIGNATURES):
            raise
        return _colours_tagged_as_grey(content)


def _colours_tagged_as_grey(content: bytes) -> Image.Image:
    """Read a TIFF of three plain samples a pixel that claims to be grey, as CVC-ClinicDB's images do.

    Pillow knows no such kind. Whatever else Pillow does not know is refused, because it may be damage as well.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages.first
            num_bytes = page.imagewidth * page.imagelength * 3
            is_plain = page.compression == tifffile.COMPRESSION.NONE and page.dtype == np.uint8 and page.axes == "YXS"
            is_grey = page.photometric == tifffile.PHOTOMETRIC.MINISBLACK
            is_complete = page.samplesperpixel == 3 and sum(page.databytecounts) == num_bytes
            ends = (start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True))
            if not (is_plain and is_grey and is_complete):
                msg = "its kind of TIFF is not known"
                raise ValueError(msg)
            if max(num_bytes, *ends) > len(content):
                msg = "it ends before its last pixel"
                raise ValueError(msg)
            return Image.fromarray(page.asarray())
    except (tifffile.TiffFileError, AttributeError, TypeError, AssertionError) as error:  # tifffile on senseless tags
        msg = "its TIFF tags make no sense"
        raise ValueError(msg) from error


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        grey = _grey16(image)
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        msg = "pixels are floating-point numbers of unknown range"
        raise ValueError(msg)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey16(image: Image.Image) -> NDArray[np.int64]:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        msg = f"grey values span {values.min()}..{values.max()}, beyond 16 bits"
        raise ValueError(msg)
    return values


def _mask_values(image: Image.Image) -> NDArray[np.float32]:
    """Return one value per pixel in the file's own range."""
    if image.mode in {"P", "PA"}:
        image = image.convert("RGBA")
    elif image.mode in {"CMYK", "YCbCr", "LAB", "HSV"}:
        image = image.convert("RGB")
    values = np.array(image, dtype=np.float32)
    if image.mode in {"LA", "La", "RGBA", "RGBa"}:
        values = values[..., :-1]
    return values.max(axis=2) if values.ndim == 3 else values


def _eight_bit_scale(mode: str) -> float:
    if mode.startswith("I"):
        return 255 / 65535
    return 255.0 if mode == "1" else 1.0
