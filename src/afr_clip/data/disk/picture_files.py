"""Image files of any common kind to RGB arrays and boolean masks; importing this module does not import torch."""

import io
import logging
import math
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from afr_clip.data.disk.folders import IMAGE_SUFFIXES, is_hidden
from afr_clip.data.disk.png import PNG_SIGNATURE, Png
from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.files import counted, shown

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
"""The only formats that Pillow may open; it knows others that start programs."""

MAX_PIXELS = 200_000_000
"""Default for the most pixels of an image."""

MOST_BYTES_PER_PIXEL = 16
"""Most bytes of a file for each pixel of ``max_pixels``; a larger file is not read into memory."""

JPEG_THRESHOLD = 128
"""JPEG masks have compression noise around their edges, so only the upper half of the range is anomalous."""

UNREADABLE = (
    *(OSError, RuntimeError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError),
    *(struct.error, zlib.error, cv2.error),
)
"""What Pillow and OpenCV raise on damaged files."""

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF in either byte order, and of its form for large files."""

FOREIGN = {
    b"%PDF": "a PDF",
    b"%!PS": "PostScript",
    b"GIF8": "a GIF",
    b"8BPS": "a Photoshop file",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull`",
}
"""First bytes of files that are often taken for images but not read."""

ORIENTATION = 0x0112
"""EXIF's tag."""

HELPERS = 0b101
"""Bits of a TIFF page's type: a thumbnail, or a mask of transparency."""

MOST_PAGES = 100
"""Pages of a TIFF that are counted; damaged tags may form an endless chain."""

COMPRESSIONS = (
    tifffile.COMPRESSION.NONE,
    tifffile.COMPRESSION.ADOBE_DEFLATE,
    tifffile.COMPRESSION.DEFLATE,
    tifffile.COMPRESSION.PACKBITS,
)
"""Compressions that tifffile reads without extra packages."""

PIECE = 1 << 20
"""Samples scaled, or pixels copied, at a time."""

# The error says what is wrong with a file; tifffile's own log lines do not even name it.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)

_ONE_AT_A_TIME = threading.Lock()
"""Warning filters and Pillow's limit are global to the process. Pixels are decoded outside the lock."""


class UnsupportedError(ValueError):
    """An intact file of a kind that is not read; the text is the reason.

    Args:
        cure: Advice, for the end of the error.
    """

    def __init__(self, reason: str, cure: str = "Save it as a PNG or TIFF of 8 or 16 bits.") -> None:
        super().__init__(reason)
        self.cure = cure


class TooManyPixelsError(UnsupportedError):
    """A file with more pixels than are allowed; none is decoded. Commands without a config have advice of their own."""


@dataclass(frozen=True)
class PicturePixels:
    """A decoded image.

    Attributes:
        rgb: As a viewer shows it: the EXIF orientation is applied.
        orientation: EXIF's number for how the file stores it; 1 is upright.
        num_bits: For 16-bit files, how many bits the brightest sample needs; otherwise 8.
        is_deep: Whether the file has 16 bits per sample.
    """

    rgb: UInt8[np.ndarray, "height width 3"]
    orientation: int
    num_bits: int = 8
    is_deep: bool = False


@dataclass(frozen=True)
class _Stored:
    """What a file stores: a Pillow image, or samples of more than 8 bits as ``(height, width, channels)``.

    Attributes:
        is_turned: Whether the orientation was already applied.
    """

    image: Image.Image | None
    deep: NDArray[Any] | None
    orientation: int
    is_jpeg: bool = False
    is_turned: bool = False

    def upright(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return pixels of the file as a viewer shows them."""
        return np.ascontiguousarray(pixels) if self.is_turned else turned(pixels, self.orientation)


def read_picture(path: Path, *, max_pixels: int = MAX_PIXELS) -> PicturePixels:
    """Decode an image file to RGB.

    The content decides the format, not the suffix. Grey values are repeated, transparency is dropped, 16 bits are
    scaled to 8. A TIFF with three samples per pixel that are tagged as grey is read as RGB. Of a JPEG with several
    pictures, as phones write them, the first is the photograph.

    Raises:
        DataError: If the file is missing, empty, damaged, not an image, an animation, of several pages, or has more
            than ``max_pixels``.
    """
    return decode_picture(_content(path, max_pixels), shown(path), max_pixels=max_pixels)


def decode_picture(content: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> PicturePixels:
    """Decode the content of an image file, as `read_picture` does.

    Args:
        name: What errors call it.

    Raises:
        DataError: As `read_picture`; the number of pixels is checked before any is decoded.
    """
    with _opened(_not_empty(content, name), name, max_pixels) as (stored, png):
        num_bits = 8
        if stored.deep is not None:
            deep = stored.deep if stored.deep.shape[2] in (1, 3) else stored.deep[..., :-1]
            low, high = int(deep.min()), int(deep.max())
            if low < 0 or high > 65535:
                msg = f"its values span {low}..{high}, beyond 16 bits"
                raise UnsupportedError(msg)
            num_bits = high.bit_length()
            rgb = np.repeat(_to_8_bits(deep), 3 // deep.shape[2], axis=2)
        else:
            assert stored.image is not None, "a file has either"
            rgb = _rgb(stored.image)
            stored.image.close()  # its memory is free before the pixels are turned
        # Pillow leaves missing rows black; those of a palette are of one colour too.
        if png is not None and (png.is_interlaced or (rgb[-1] == rgb[-1, 0]).all()):
            png.require_every_row()
        return PicturePixels(stored.upright(rgb), stored.orientation, num_bits, is_deep=stored.deep is not None)


def read_mask(
    path: Path, threshold: int | None = None, *, max_pixels: int = MAX_PIXELS
) -> Bool[np.ndarray, "height width"]:
    """Decode a ground-truth mask; its own EXIF orientation is applied.

    Class ids (1, 2, ...) are as anomalous as 255. The brightest colour channel counts, because a weighted grey rounds
    dark colours to 0. A mask of one colour all over whose alpha channel is not is a layer of a paint program: its
    opaque pixels are anomalous.

    Args:
        path: A file, or a folder of masks of one image: a pixel that any of them marks is anomalous.
        threshold: Lowest 8-bit value that is anomalous; ``None`` takes any value but 0, or 128 and above in a JPEG.

    Returns:
        ``True`` where the pixel is anomalous.

    Raises:
        DataError: As `read_picture`, if the alpha channel contradicts the colours, or if masks of a folder differ in
            size or there are none.
    """
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir may raise
        return _any_of([read_mask(part, threshold, max_pixels=max_pixels) for part in mask_files(path)], path)
    with _opened(_content(path, max_pixels), shown(path), max_pixels) as (stored, png):
        if png is not None:
            png.require_every_row()
        values, alpha = _mask_values(stored)
        if threshold is None and stored.is_jpeg:
            threshold = JPEG_THRESHOLD
        unit = 1.0  # what one step of 255 is in the file
        if stored.deep is not None:
            unit = 65535 / 255
        elif stored.image is not None and stored.image.mode == "1":
            unit = 1 / 255

        def marks(values: NDArray[Any]) -> NDArray[np.bool_]:
            return np.asarray(values > 0 if threshold is None else values >= threshold * unit)

        marked = marks(values)
        if alpha is not None and alpha.min() != alpha.max():
            if values.min() == values.max():
                marked = marks(alpha)
            elif (marked & (alpha == 0)).any():
                msg = "its colours mark pixels that its alpha channel makes invisible"
                raise UnsupportedError(msg, "Save the mask without an alpha channel: white on black.")
        return stored.upright(marked)


def read_region(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[Bool[np.ndarray, "height width"], int]:
    """Decode the mask of a single region, and the grey value that marks it; its own EXIF orientation is applied.

    Raises:
        DataError: As `read_picture`, or if it does not mark pixels with one value.
    """
    with _opened(_content(path, max_pixels), shown(path), max_pixels) as (stored, png):
        if png is not None:
            png.require_every_row()
        values, _ = _mask_values(stored)
        value, marked = int(values.max()), values > 0
        if value == 0 or (values[marked] != value).any():
            msg = "it must mark the pixels of one region with one grey value above 0"
            raise UnsupportedError(msg, "Restore the original.")
        return stored.upright(marked), value


def _any_of(masks: list[Bool[np.ndarray, "height width"]], folder: Path) -> Bool[np.ndarray, "height width"]:
    sizes = {mask.shape for mask in masks}
    if len(sizes) != 1:
        msg = (
            f"{shown(folder)} must hold masks of one size, got {counted(len(masks), 'mask')} of "
            f"{counted(len(sizes), 'size')}. Restore the original."
        )
        raise DataError(msg)
    return np.logical_or.reduce(masks)


def mask_files(path: Path) -> list[Path]:
    """Return the files of a mask, which is a file or a folder of them.

    Raises:
        DataError: If the folder cannot be listed.
    """
    if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir may raise
        return [path]
    try:
        names = sorted(os.listdir(path))  # noqa: PTH208 - names are enough
    except OSError as error:
        msg = f"Cannot list the folder {shown(path)}: {error.strerror}. Check its permissions."
        raise DataError(msg) from error
    return [path / name for name in names if not is_hidden(name) and Path(name).suffix.lower() in IMAGE_SUFFIXES]


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn ``(height, width, ...)`` as stored into what a viewer shows, by EXIF's number of the orientation.

    Example:
        >>> turned(np.array([[1, 2], [3, 4]]), 6).tolist()
        [[3, 1], [4, 2]]
    """
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    # A flipped row of one pixel counts as contiguous, and PyTorch refuses it all the same.
    return np.ascontiguousarray(pixels) if orientation == 1 else np.array(pixels, order="C")


def has_16_bits(path: Path) -> bool:
    """Tell by its first bytes whether a file is a PNG of 16 bits per sample, or a TIFF, which may be."""
    try:
        with path.open("rb") as file:
            start = file.read(25)
    except OSError:
        return False
    return start.startswith(TIFF_SIGNATURES) or (start.startswith(PNG_SIGNATURE) and start[24:] == b"\x10")


def _content(path: Path, max_pixels: int) -> bytes:
    try:
        size, most = path.stat().st_size, max_pixels * MOST_BYTES_PER_PIXEL
        if size > most:
            msg = f"{shown(path)} has {size} bytes, more than {max_pixels} pixels need. Is it an image?"
            raise DataError(msg)
        content = path.read_bytes()
    except FileNotFoundError as error:
        msg = f"{shown(path)} does not exist. Was it moved after the run began?"
        raise MissingDataError(msg) from error
    except OSError as error:
        msg = f"Cannot read {shown(path)}: {error.strerror}. Check its permissions and the disk."
        raise DataError(msg) from error
    return _not_empty(content, shown(path))


def _not_empty(content: bytes, name: str) -> bytes:
    if not content:
        msg = f"{name} is empty. Copy it again from its source."
        raise DataError(msg)
    return content


@contextmanager
def _opened(content: bytes, name: str, max_pixels: int) -> Iterator[tuple[_Stored, Png | None]]:
    """Open an image, and turn errors inside the block into sentences that name the file."""
    try:
        png = Png(content) if content.startswith(PNG_SIGNATURE) else None
        if png is not None:
            _require_few_pixels(png.width, png.height, max_pixels)
            if png.num_frames > 1:
                msg = f"it is an animation of {png.num_frames} frames"
                raise UnsupportedError(msg, "Save each as a file of its own.")
        if png is not None and png.depth == 16 and png.has_colour_or_alpha:
            stored = _deep_png(png)
        elif content.startswith(TIFF_SIGNATURES):
            stored = _tiff(content, max_pixels)
        else:
            stored = _pillow(content, max_pixels) if png is None else _pillow(png.plain(), max_pixels, png.exif)
        yield stored, png
    except MemoryError as error:
        msg = f"{name} cannot be read: it takes more memory than there is, or a row is too long. Scale it down."
        raise DataError(msg) from error
    except UnsupportedError as error:
        msg = f"{name} cannot be read: {error}. {error.cure}"
        raise DataError(msg) from error
    except UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, UnidentifiedImageError):
            reason = _foreign(content) or "its format is unknown"
        msg = f"{name} is not a valid image file ({reason}). Copy it again from its source."
        raise DataError(msg) from error


def _require_few_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        reason = f"it has {width} x {height} pixels, more than {max_pixels}"
        cure = f"If there are 15 bytes of memory for each, set data.max_pixels={width * height}; or scale it down."
        raise TooManyPixelsError(reason, cure)


def _pillow(content: bytes, max_pixels: int, exif: bytes = b"") -> _Stored:
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
        orientation = _orientation(image.info.get("exif", exif))
    _require_few_pixels(*image.size, max_pixels)
    if image.format == "WEBP" and getattr(image, "n_frames", 1) > 1:
        msg = f"it is an animation of {image.n_frames} frames"  # type: ignore[attr-defined]
        raise UnsupportedError(msg, "Save each as a file of its own.")
    if image.format == "TIFF":  # Pillow reads its tags again here, and warns of them
        with _ONE_AT_A_TIME, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    image.load()
    if image.mode == "F":
        msg = "its pixels are floating-point numbers of unknown range"
        raise UnsupportedError(msg)
    if image.mode.startswith("I"):
        return _Stored(None, np.asarray(image)[..., None], orientation)
    return _Stored(image, None, orientation, is_jpeg=image.format in {"JPEG", "MPO"})


def _orientation(exif: bytes) -> int:
    """Read the orientation from EXIF data; damaged data have none."""
    tags = Image.Exif()
    try:
        tags.load(exif)
        orientation = tags.get(ORIENTATION)
    except UNREADABLE:
        return 1
    return orientation if isinstance(orientation, int) and orientation in range(1, 9) else 1


def _deep_png(png: Png) -> _Stored:
    """Read a PNG with several samples of 16 bits per pixel; Pillow would keep only 8 bits of each."""
    png.require_every_row()
    values = cv2.imdecode(np.frombuffer(png.plain(with_transparency=False), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape[:2] != (png.height, png.width):
        msg = "its pixels cannot be decoded"
        raise ValueError(msg)
    order = [2, 1, 0, 3][: values.shape[2]]  # OpenCV's is blue, green, red
    return _Stored(None, values[..., order], _orientation(png.exif))


def _tiff(content: bytes, max_pixels: int) -> _Stored:
    """Read a TIFF with Pillow, or with tifffile if Pillow would refuse it or read wrong values."""
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages.first
            _require_few_pixels(page.imagewidth, page.imagelength, max_pixels)
            num_pages = sum(not int(other.subfiletype) & HELPERS for other in islice(file.pages, MOST_PAGES))
            if num_pages > 1:
                more = " or more" if num_pages == MOST_PAGES else ""
                msg = f"it has {num_pages}{more} pages, and one file must hold one image"
                raise UnsupportedError(msg, "Save each page as a file of its own.")
            kind = f"{page.samplesperpixel} x {page.bitspersample} bits, {page.photometric.name}"
            tag = page.tags.get("Orientation")
            orientation = tag.value if tag is not None and tag.value in range(1, 9) else 1
            num_chunks = math.prod(page.chunked)
            if len(page.dataoffsets) < num_chunks or not all(page.dataoffsets) or not all(page.databytecounts):
                msg = "rows are missing"
                raise ValueError(msg)
            values = _tiff_samples(page, len(content))
    except (tifffile.TiffFileError, AttributeError, TypeError, AssertionError, KeyError) as error:
        msg = "its TIFF tags are invalid"  # tifffile raises any of these
        raise ValueError(msg) from error
    if values is not None and values.dtype != np.uint8:
        return _Stored(None, values, orientation)
    if values is not None:
        return _Stored(Image.fromarray(values), None, orientation)
    try:
        stored = _pillow(content, max_pixels)
    except UnidentifiedImageError as error:
        msg = f"TIFFs of this kind ({kind}) are not supported"
        raise UnsupportedError(msg) from error
    # Pillow turns a TIFF itself, and then forgets that it had an orientation.
    return replace(stored, is_turned=True, orientation=orientation)


def _tiff_samples(page: Any, num_bytes: int) -> NDArray[Any] | None:  # noqa: ANN401 - tifffile has no types
    """Read the samples that Pillow refuses or reads wrong; ``None`` for what it reads correctly.

    Pillow knows no samples of 16 bits with 0 as white, keeps 8 bits of those in colour and mixes up their planes, and
    refuses colours that are tagged as grey, like CVC-ClinicDB's images.
    """
    bits, samples, photometric = page.bitspersample, page.samplesperpixel, page.photometric
    grey_or_rgb = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.RGB)
    is_inverted = photometric == tifffile.PHOTOMETRIC.MINISWHITE
    is_tagged_as_grey = photometric == tifffile.PHOTOMETRIC.MINISBLACK and samples == 3
    if page.sampleformat in (tifffile.SAMPLEFORMAT.IEEEFP, tifffile.SAMPLEFORMAT.COMPLEXIEEEFP):
        msg = "its pixels are floating-point numbers of unknown range"
        raise UnsupportedError(msg)
    if bits == 8 and page.sampleformat == tifffile.SAMPLEFORMAT.INT:
        msg = "its pixels are signed numbers"
        raise UnsupportedError(msg)
    if not is_tagged_as_grey and bits in range(1, 17) and (bits <= 8 or (samples == 1 and not is_inverted)):
        return None
    name = f"{samples} x {bits} bits, {photometric.name}"
    if bits not in (8, 16, 32) or photometric not in grey_or_rgb or page.axes not in ("YX", "YXS", "SYX"):
        msg = f"TIFFs of this kind ({name}) are not supported"
        raise UnsupportedError(msg)
    if samples > 4 or (samples == 4 and photometric != tifffile.PHOTOMETRIC.RGB):
        msg = f"it has {samples} channels"
        raise UnsupportedError(msg)
    if page.compression not in COMPRESSIONS:
        msg = f"TIFFs of this kind ({name}) compressed with {page.compression.name} are not supported"
        raise UnsupportedError(msg)
    if max(start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)) > num_bytes:
        msg = "it ends before its last pixel"
        raise ValueError(msg)
    values = page.asarray(maxworkers=1)
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    if is_inverted:
        values = np.iinfo(values.dtype).max - values
    return np.ascontiguousarray(values.reshape(page.imagelength, page.imagewidth, -1))


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Convert and copy pixels some rows at a time, because Pillow hands them to NumPy through two more copies."""
    width, height = image.size
    if width > PIECE:  # Pillow refuses to cut out a row that is very long
        return _array(image)
    rgb = np.empty((height, width, 3), np.uint8)
    rows = PIECE // width
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        rgb[top:bottom] = _array(image.crop((0, top, width, bottom)))
    return rgb


def _array(image: Image.Image) -> NDArray[np.uint8]:
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _to_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale 0..65535 to 0..255, a piece at a time, because the product needs more bits."""
    flat, scaled = values.reshape(-1), np.empty(values.size, np.uint8)
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE].astype(np.uint32)
        scaled[start : start + PIECE] = (piece * 255 + 32767) // 65535
    return scaled.reshape(values.shape)


def _mask_values(stored: _Stored) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the brightest colour of each pixel in the file's range, and the alpha channel if there is one."""
    image = stored.image
    if image is None:
        assert stored.deep is not None, "a file has either"
        samples = stored.deep
    else:
        if "transparency" in image.info or image.mode in {"P", "PA"}:
            image = image.convert("RGBA")
        elif image.mode in {"CMYK", "YCbCr", "LAB", "HSV"}:
            image = image.convert("RGB")
        samples = np.asarray(image)
        samples = samples.reshape(*samples.shape[:2], -1)
    num_colours = 3 if samples.shape[2] > 2 else 1
    alpha = samples[..., num_colours] if samples.shape[2] > num_colours else None
    return samples[..., :num_colours].max(axis=2), alpha


def _foreign(content: bytes) -> str:
    """Name what a file is that has the name of an image, if it is something common."""
    if content[4:8] == b"ftyp":
        return "it is a HEIC, AVIF or video file, whatever its name says"
    return next((f"it is {what}" for start, what in FOREIGN.items() if content.startswith(start)), "")
