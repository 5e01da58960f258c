"""Valid picture files of many kinds, each with the RGB pixels that it must be decoded to."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tifffile
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PictureFile:
    """A file's content.

    Attributes:
        truth: RGB ``(H, W, 3)``.
        tolerance: Grey levels by which a decoder may differ.
        may_be_refused: Whether a sentence instead of pixels is right, too.
        is_checked: Whether the format holds checksums, so that a flipped bit must be found.
    """

    kind: str
    content: bytes
    truth: Pixels
    tolerance: int = 0
    may_be_refused: bool = False
    is_checked: bool = False


def _pillow(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _tiff(values: NDArray[np.generic], **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def _rgb(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def _grey(rgb: Pixels) -> Pixels:
    return np.ascontiguousarray(rgb[..., 0])


def _three(grey: Pixels) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=2)


def _wide(values: Pixels) -> NDArray[np.uint16]:
    return values.astype(np.uint16) * 257


def _lossy(rgb: Pixels, kind: str) -> PictureFile:
    content = _pillow(Image.fromarray(rgb), kind)
    return PictureFile(kind, content, _rgb(Image.open(io.BytesIO(content))))


def _turned(rgb: Pixels, kind: str, orientation: int) -> PictureFile:
    exif = Image.Exif()
    exif[274] = orientation
    content = _pillow(Image.fromarray(rgb), kind, exif=exif.tobytes())
    return PictureFile(
        f"{kind} turned {orientation}", content, _rgb(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    )


def _palette(rgb: Pixels) -> PictureFile:
    image = Image.fromarray(rgb).quantize(8)
    return PictureFile("palette", _pillow(image, "PNG"), _rgb(image), is_checked=True)


def _bilevel(rgb: Pixels) -> PictureFile:
    bits = _grey(rgb) > 127
    return PictureFile(
        "1 bit", _pillow(Image.fromarray(bits), "PNG"), _three(bits.astype(np.uint8) * 255), is_checked=True
    )


_KINDS: tuple[Callable[[Pixels], PictureFile], ...] = (
    lambda rgb: PictureFile("PNG", _pillow(Image.fromarray(rgb), "PNG"), rgb, is_checked=True),
    lambda rgb: PictureFile(
        "grey PNG", _pillow(Image.fromarray(_grey(rgb)), "PNG"), _three(_grey(rgb)), is_checked=True
    ),
    lambda rgb: PictureFile(
        "16-bit PNG", _pillow(Image.fromarray(_wide(_grey(rgb))), "PNG"), _three(_grey(rgb)), is_checked=True
    ),
    lambda rgb: PictureFile(
        "PNG with alpha",
        _pillow(Image.fromarray(np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])), "PNG"),
        rgb,
        is_checked=True,
    ),
    _palette,
    _bilevel,
    lambda rgb: PictureFile("BMP", _pillow(Image.fromarray(rgb), "BMP"), rgb),
    lambda rgb: PictureFile("WebP", _pillow(Image.fromarray(rgb), "WEBP", lossless=True), rgb),
    lambda rgb: _lossy(rgb, "JPEG"),
    lambda rgb: _lossy(rgb, "WEBP"),
    lambda rgb: PictureFile("TIFF", _pillow(Image.fromarray(rgb), "TIFF"), rgb),
    lambda rgb: PictureFile("TIFF, LZW", _pillow(Image.fromarray(rgb), "TIFF", compression="tiff_lzw"), rgb),
    lambda rgb: PictureFile(
        "TIFF, deflate", _pillow(Image.fromarray(rgb), "TIFF", compression="tiff_adobe_deflate"), rgb
    ),
    lambda rgb: PictureFile(
        "planar TIFF", _tiff(np.moveaxis(rgb, -1, 0), photometric="rgb", planarconfig="separate"), rgb
    ),
    lambda rgb: PictureFile("16-bit TIFF", _tiff(_wide(rgb), photometric="rgb"), rgb),
    lambda rgb: PictureFile(
        "planar 16-bit TIFF", _tiff(np.moveaxis(_wide(rgb), -1, 0), photometric="rgb", planarconfig="separate"), rgb
    ),
    lambda rgb: PictureFile("big-endian TIFF", _tiff(_wide(_grey(rgb)), byteorder=">"), _three(_grey(rgb))),
    lambda rgb: PictureFile(
        "white-is-zero TIFF", _tiff(255 - _grey(rgb), photometric="miniswhite"), _three(_grey(rgb)), may_be_refused=True
    ),
    lambda rgb: PictureFile(
        "16-bit white-is-zero TIFF",
        _tiff(65535 - _wide(_grey(rgb)), photometric="miniswhite"),
        _three(_grey(rgb)),
        may_be_refused=True,
    ),
    lambda rgb: PictureFile("tiled TIFF", _tiff(rgb, photometric="rgb", tile=(16, 16)), rgb),
    lambda rgb: PictureFile("BigTIFF", _tiff(rgb, photometric="rgb", bigtiff=True), rgb, may_be_refused=True),
)


@st.composite
def picture_files(draw: st.DrawFn) -> PictureFile:
    """A small picture with smooth or noisy content in one of the kinds above, or with an EXIF orientation."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rgb = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if draw(st.booleans()):
        rgb = np.linspace(0, 255, rgb.size).astype(np.uint8).reshape(rgb.shape)
    kind = draw(st.integers(0, len(_KINDS) + 3))
    if kind < len(_KINDS):
        return _KINDS[kind](rgb)
    return _turned(rgb, ("PNG", "JPEG", "WEBP", "TIFF")[kind - len(_KINDS)], draw(st.integers(1, 8)))


def one_of_each() -> list[PictureFile]:
    """The same 12 x 10 picture in every kind."""
    rgb = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    return [*(kind(rgb) for kind in _KINDS), *(_turned(rgb, kind, 6) for kind in ("PNG", "JPEG", "WEBP", "TIFF"))]
