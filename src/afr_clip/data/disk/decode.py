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
"""JPEG masks have compression noise around their edges, so only the upper half of the range is anomalous."""

UNREADABLE = (
    *(OSError, RuntimeError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError),
    *(struct.error, zlib.error),
)
"""What Pillow raises on damaged files."""

TIFF_SIGNATURES = (b"II*\0", b"MM\0*")
"""First bytes of a TIFF in either byte order."""

_ONE_AT_A_TIME = threading.Lock()
"""Warning filters are global to the process. Only headers are read under the lock; pixels are decoded outside it."""


def decode_image(path: Path) -> UInt8[Tensor, "3 height width"]:
    """Decode an image file to RGB.

    The content decides the format, not the suffix. Grey values are repeated, transparency is dropped, 16-bit grey is
    scaled to 8 bits. A TIFF with three samples per pixel that are tagged as grey is read as RGB. EXIF orientation is
    not applied, because masks are drawn on the stored pixels.

    Raises:
        DataError: If the file is missing, empty, damaged, not an image, or larger than Pillow's limit for safe images.
    """
    with _opened(path, _content(path)) as image:
        # Left in Pillow's memory order: resizing reads (H, W, 3) faster than (3, H, W).
        return torch.from_numpy(_rgb(image)).permute(2, 0, 1)


def decode_mask(path: Path, threshold: int | None = None) -> Bool[Tensor, "height width"]:
    """Decode a ground-truth mask.

    Class ids (1, 2, ...) are as anomalous as 255. The brightest colour channel counts, because a weighted grey rounds
    dark colours to 0; transparency is ignored.

    Args:
        threshold: Lowest 8-bit value that is anomalous; ``None`` takes any value but 0, or 128 and above in a JPEG.

    Returns:
        ``True`` where the pixel is anomalous.
    """
    with _opened(path, _content(path)) as image:
        values = _mask_values(image)
        scale = 255 / 65535 if image.mode.startswith("I") else 255.0 if image.mode == "1" else 1.0
        if threshold is None and image.format == "JPEG":
            threshold = JPEG_THRESHOLD
        if threshold is None:
            return torch.from_numpy(values > 0)
        return torch.from_numpy(values * scale >= threshold)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        msg = f"{path} does not exist. Was it moved after the run began?"
        raise MissingDataError(msg) from error
    except OSError as error:
        msg = f"Cannot read {path}: {error}. Check its permissions and the disk."
        raise DataError(msg) from error
    if not content:
        msg = f"{path} is empty. Copy it again from its source."
        raise DataError(msg)
    return content


@contextmanager
def _opened(path: Path, content: bytes) -> Iterator[Image.Image]:
    """Open an image, and turn errors inside the block into sentences that name the file."""
    try:
        with _ONE_AT_A_TIME, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", "Corrupt EXIF data")  # EXIF data are not used
            try:
                image: Image.Image = Image.open(io.BytesIO(content))
            except UnidentifiedImageError:
                if not content.startswith(TIFF_SIGNATURES):
                    raise
                image = _colours_tagged_as_grey(content)
        yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        msg = (
            f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels, the limit for safe images. "
            f"Scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file."
        )
        raise DataError(msg) from error
    except UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, UnidentifiedImageError):
            reason = "its format is unknown"
        msg = f"{path} is not a valid image file ({reason}). Copy it again from its source."
        raise DataError(msg) from error


def _colours_tagged_as_grey(content: bytes) -> Image.Image:
    """Read a TIFF with three plain samples per pixel that is tagged as grey, like CVC-ClinicDB's images.

    Pillow does not open these. Other TIFFs that Pillow rejects are refused, because they may be damaged.
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
                msg = "this kind of TIFF is not supported"
                raise ValueError(msg)
            if max(num_bytes, *ends) > len(content):
                msg = "it ends before its last pixel"
                raise ValueError(msg)
            return Image.fromarray(page.asarray())
    except (tifffile.TiffFileError, AttributeError, TypeError, AssertionError) as error:  # tifffile on invalid tags
        msg = "its TIFF tags are invalid"
        raise ValueError(msg) from error


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            msg = f"its grey values span {grey.min()}..{grey.max()}, beyond 16 bits"
            raise ValueError(msg)
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        msg = "its pixels are floating-point numbers of unknown range"
        raise ValueError(msg)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _mask_values(image: Image.Image) -> NDArray[np.float32]:
    """Return one value per pixel, in the file's range."""
    if image.mode in {"P", "PA"}:
        image = image.convert("RGBA")
    elif image.mode in {"CMYK", "YCbCr", "LAB", "HSV"}:
        image = image.convert("RGB")
    values = np.array(image, dtype=np.float32)
    if image.mode in {"LA", "La", "RGBA", "RGBa"}:
        values = values[..., :-1]
    return values.max(axis=2) if values.ndim == 3 else values
