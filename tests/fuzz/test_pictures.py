import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from afr_clip.data.disk.decode import decode_image, decode_mask
from afr_clip.data.errors import DataError
from helpers.fuzzing import OutOfBoundsError, Refused, fuzzed, guarded, outcome
from helpers.mutations import damaged
from helpers.picture_files import PictureFile, picture_files


def decoded(folder, content):
    """RGB as ``(H, W, 3)``, or the sentence of the refusal."""
    path = folder / "picture"
    path.write_bytes(content)
    return outcome(folder, lambda: decode_image(path).permute(1, 2, 0).numpy(), DataError)


@fuzzed(3000)
@given(file=picture_files())
def test_valid_pictures_are_decoded_to_their_pixels(tmp_path, file: PictureFile):
    pixels = decoded(tmp_path, file.content)
    if isinstance(pixels, Refused):
        assert file.may_be_refused, f"{file.kind}: {pixels}"
        return
    assert pixels.shape == file.truth.shape, file.kind
    assert np.abs(pixels.astype(int) - file.truth).max() <= file.tolerance, file.kind


@fuzzed(4000)
@given(data=st.data(), file=picture_files())
def test_damaged_pictures_are_refused_or_still_an_image(tmp_path, data, file: PictureFile):
    content = data.draw(damaged(file.content))
    pixels = decoded(tmp_path, content)
    if isinstance(pixels, Refused):
        assert str(tmp_path / "picture") in pixels
    elif file.is_checked:  # what its checksums allow is the picture that was written
        assert np.array_equal(pixels, file.truth), file.kind


@fuzzed(2000)
@given(data=st.data(), file=picture_files())
def test_a_picture_that_was_cut_short_is_never_filled_up(tmp_path, data, file: PictureFile):
    cut = data.draw(st.integers(0, len(file.content) - 1))
    pixels = decoded(tmp_path, file.content[:cut])
    if not isinstance(pixels, Refused):  # what is missing held no pixels
        assert pixels.shape == file.truth.shape
        assert np.abs(pixels.astype(int) - file.truth).max() <= file.tolerance, file.kind


@fuzzed(1000)
@given(data=st.data(), file=picture_files())
def test_damaged_masks_are_refused_or_still_a_mask(tmp_path, data, file: PictureFile):
    path = tmp_path / "mask"
    path.write_bytes(data.draw(st.one_of(st.just(file.content), damaged(file.content))))
    mask = outcome(tmp_path, lambda: decode_mask(path), DataError)
    assert isinstance(mask, Refused) or mask.ndim == 2


def png(width: int, height: int, rows: int, colour: int = 0, depth: int = 8) -> bytes:
    """A PNG with sound checksums whose header may claim more than its data hold."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    row = b"\0" + bytes((width * samples * depth + 7) // 8)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    content = zlib.compress(row * rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@fuzzed(500)
@given(
    width=st.integers(1, 64),
    height=st.integers(2, 64),
    missing=st.integers(1, 63),
    colour=st.sampled_from((0, 2, 6)),
)
def test_a_png_with_missing_rows_is_refused(tmp_path, width, height, missing, colour):
    missing = min(missing, height)
    assert isinstance(decoded(tmp_path, png(width, height, height - missing, colour)), Refused)


def claiming(kind: str, width: int, height: int) -> bytes:
    """A small file whose header claims another size."""
    if kind == "PNG":
        content = png(16, 16, 16)[:16] + struct.pack(">II", width, height) + b"\x08\0\0\0\0"
        return content + struct.pack(">I", zlib.crc32(content[12:])) + png(16, 16, 16)[33:]
    buffer = io.BytesIO()
    if kind == "BMP":
        Image.new("RGB", (16, 16)).save(buffer, kind)
        return buffer.getvalue()[:18] + struct.pack("<ii", width, height) + buffer.getvalue()[26:]
    tifffile.imwrite(buffer, np.zeros((16, 16), np.uint8), photometric="minisblack")
    content = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        for name, value in (("ImageWidth", width), ("ImageLength", height), ("RowsPerStrip", height)):
            at = file.pages.first.tags[name].offset
            content[at + 2 : at + 12] = struct.pack("<HII", 4, 1, value)  # as one unsigned 32-bit number
    return bytes(content)


@fuzzed(300)
@given(
    side=st.sampled_from((2**14, 2**16, 2**20, 2**24, 2**31 - 1)),
    other=st.sampled_from((1, 3, 2**14, 2**16, 2**31 - 1)),
    kind=st.sampled_from(("PNG", "BMP", "TIFF")),
    is_turned=st.booleans(),
)
def test_a_size_that_only_the_header_has_is_refused(tmp_path, side, other, kind, is_turned):
    size = (other, side) if is_turned else (side, other)
    assert isinstance(decoded(tmp_path, claiming(kind, *size)), Refused)


def test_the_guard_notices_what_it_is_for(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises((OutOfBoundsError, AssertionError)), guarded(inside):
        (tmp_path / "outside").write_text("x")
    assert not (tmp_path / "outside").exists()
    with pytest.raises(MemoryError), guarded(inside):
        np.ones(5 * 2**30, dtype=np.uint8)
    with guarded(inside):
        (inside / "file").write_text("x")
