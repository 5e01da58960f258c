import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError
from torch.testing import assert_close

from afr_clip.data.disk.decode import decode_image, decode_mask
from afr_clip.data.errors import DataError, MissingDataError

RNG_SHAPE = (20, 30)  # (height, width): not square, so a swap cannot hide


def colours(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*RNG_SHAPE, 3), dtype=np.uint8))


def pillow_rgb(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def png_bytes(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_lossless_modes_become_the_rgb_that_pillow_sees(tmp_path, mode, suffix):
    path = tmp_path / f"x.{suffix}"
    colours().convert(mode).save(path)
    decoded = decode_image(path)
    assert decoded.shape == (3, *RNG_SHAPE)
    assert_close(decoded, pillow_rgb(path), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_modes_become_the_rgb_that_pillow_sees(tmp_path, mode):
    path = tmp_path / "x.JPG"
    colours().convert(mode).save(path, "JPEG", quality=90)
    assert_close(decode_image(path), pillow_rgb(path), rtol=0, atol=0)


def test_content_decides_the_format_not_the_suffix(tmp_path):
    image = colours()
    image.save(tmp_path / "x.jpg", "PNG")
    assert_close(decode_image(tmp_path / "x.jpg"), torch.from_numpy(np.array(image)).permute(2, 0, 1))


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 128, 257], [300, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    expected = torch.tensor([[0, 0, 1], [1, 128, 255]], dtype=torch.uint8)
    assert_close(decode_image(tmp_path / "x.png"), expected.expand(3, 2, 3))


def test_16_bit_colour_is_scaled(tmp_path):
    (tmp_path / "x.png").write_bytes(png_bytes(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 65535, 32768, 255)))
    assert decode_image(tmp_path / "x.png").flatten().tolist() == [255, 128, 0]


def test_transparent_palettes_keep_their_colours(tmp_path):
    image = colours().convert("P")
    image.save(tmp_path / "x.png", transparency=bytes(range(256)))
    assert_close(decode_image(tmp_path / "x.png"), torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


@pytest.mark.parametrize("values", [np.full((2, 2), 0.5, np.float32), np.full((2, 2), 70000, np.int32)])
def test_pixels_without_a_known_range_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif is not a valid image file"):
        decode_image(tmp_path / "x.tif")


@pytest.mark.parametrize("decode", [decode_image, decode_mask])
class TestBadFiles:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
    def test_a_truncated_file_is_named(self, tmp_path, decode, kind):
        path = tmp_path / f"a b.{kind}"
        colours().save(path, kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(DataError, match=rf"a b\.{kind} is not a valid image file"):
            decode(path)

    def test_an_empty_file_is_named(self, tmp_path, decode):
        (tmp_path / "x.png").touch()
        with pytest.raises(DataError, match=r"x\.png is empty"):
            decode(tmp_path / "x.png")

    def test_text_is_no_image(self, tmp_path, decode):
        (tmp_path / "x.png").write_text("<html>404</html>")
        with pytest.raises(DataError, match=r"x\.png is not a valid image file \(its format is unknown"):
            decode(tmp_path / "x.png")

    def test_an_image_without_pixels_is_refused(self, tmp_path, decode):
        (tmp_path / "x.png").write_bytes(png_bytes(0, 5, 8, 0, b""))
        with pytest.raises(DataError, match=r"x\.png is not a valid image file"):
            decode(tmp_path / "x.png")

    @pytest.mark.parametrize("side", [10_000, 60_000])  # Pillow warns of the first and refuses the second
    def test_a_decompression_bomb_is_refused(self, tmp_path, decode, side):
        (tmp_path / "x.png").write_bytes(png_bytes(side, side, 8, 0, b""))
        with pytest.raises(DataError, match=r"x\.png has more than \d+ pixels"):
            decode(tmp_path / "x.png")

    def test_an_absent_file_is_named(self, tmp_path, decode):
        with pytest.raises(MissingDataError, match=r"x\.png does not exist"):
            decode(tmp_path / "x.png")

    def test_a_folder_is_no_file(self, tmp_path, decode):
        with pytest.raises(DataError, match="Cannot read "):
            decode(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's own words on damaged metadata
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP"]),
    position=st.floats(0, 0.999),
    value=st.integers(0, 255),
    is_cut=st.booleans(),
)
def test_damage_anywhere_gives_pixels_or_a_sentence(tmp_path, kind, position, value, is_cut):
    path = tmp_path / "x"
    colours().save(path, kind)
    content = bytearray(path.read_bytes())
    at = int(position * len(content))
    content[at] = value
    path.write_bytes(content[:at] if is_cut else content)
    for decode in (decode_image, decode_mask):
        try:
            decode(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017  # success is allowed too


def colours_tagged_as_grey(path: Path, **tags) -> np.ndarray:
    pixels = np.array(colours())
    options = {"photometric": "minisblack", "planarconfig": "contig", "rowsperstrip": 4, "metadata": None, **tags}
    tifffile.imwrite(path, pixels, **options)
    with pytest.raises(UnidentifiedImageError):
        Image.open(path)
    return pixels


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["x.tif", "x.png"])
def test_colours_that_a_tiff_calls_grey_are_read_in_their_order(tmp_path, name, order):
    pixels = colours_tagged_as_grey(tmp_path / name, byteorder=order)
    assert_close(decode_image(tmp_path / name), torch.from_numpy(pixels).permute(2, 0, 1), rtol=0, atol=0)
    assert_close(decode_mask(tmp_path / name, 128), torch.from_numpy(pixels.max(axis=2) >= 128))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's own words on damaged metadata
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])  # of a file whose tags come first
def test_such_a_tiff_cut_short_is_named_not_filled_with_black(tmp_path, kept):
    colours_tagged_as_grey(tmp_path / "x.tif")
    content = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"x\.tif is not a valid image file"):
        decode_image(tmp_path / "x.tif")


def test_other_tiffs_unknown_to_pillow_are_refused_not_guessed(tmp_path):
    colours_tagged_as_grey(tmp_path / "x.tif", compression="zlib")
    with pytest.raises(DataError, match=r"x\.tif is not a valid image file \(this kind of TIFF is not supported\)"):
        decode_image(tmp_path / "x.tif")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's own words on damaged metadata
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 320), value=st.integers(0, 255))
def test_damaged_tags_give_pixels_or_a_sentence(tmp_path, position, value):
    colours_tagged_as_grey(tmp_path / "x.tif")
    content = bytearray((tmp_path / "x.tif").read_bytes())
    content[position] = value
    (tmp_path / "x.tif").write_bytes(content)
    try:
        assert decode_image(tmp_path / "x.tif").dtype == torch.uint8
    except DataError as error:
        assert "x.tif" in str(error)  # noqa: PT017  # success is allowed too


MASK = np.array([[0, 1, 2], [0, 255, 0]], dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_class_ids_count_as_anomalous(tmp_path, suffix):
    Image.fromarray(MASK).save(tmp_path / f"m.{suffix}")
    mask = decode_mask(tmp_path / f"m.{suffix}")
    assert mask.dtype == torch.bool
    assert_close(mask, torch.from_numpy(MASK > 0))


def test_16_bit_class_ids_are_not_scaled_away(tmp_path):
    Image.fromarray(MASK.astype(np.uint16)).save(tmp_path / "m.png")
    assert_close(decode_mask(tmp_path / "m.png"), torch.from_numpy(MASK > 0))


def test_palette_masks_count_by_colour(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 0, 0, 1, 128, 0, 0])
    image.save(tmp_path / "m.png")
    assert decode_mask(tmp_path / "m.png").tolist() == [[False, True, True]]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_opaque_pixels_are_not_anomalous_for_being_opaque(tmp_path, mode):
    Image.fromarray(MASK).convert(mode).save(tmp_path / "m.png")
    assert_close(decode_mask(tmp_path / "m.png"), torch.from_numpy(MASK > 0))


def test_dark_colours_are_not_rounded_to_background(tmp_path):
    Image.fromarray(np.array([[[0, 0, 1], [0, 0, 0]]], dtype=np.uint8)).save(tmp_path / "m.png")
    assert decode_mask(tmp_path / "m.png").tolist() == [[True, False]]


def test_jpeg_noise_is_not_a_defect(tmp_path):
    truth = np.zeros((32, 48), dtype=np.uint8)
    truth[5:21, 13:29] = 255
    Image.fromarray(truth).save(tmp_path / "m.png", "JPEG", quality=75)  # the content is JPEG, whatever the name
    with Image.open(tmp_path / "m.png") as image:
        assert ((np.array(image) > 0) != (truth > 0)).any()
    assert_close(decode_mask(tmp_path / "m.png"), torch.from_numpy(truth > 0))


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_a_threshold_is_the_least_8_bit_value_that_counts(tmp_path, dtype, top):
    values = np.array([[0, 127, 128, 255]]) * (top // 255)
    Image.fromarray(values.astype(dtype)).save(tmp_path / "m.png")
    assert decode_mask(tmp_path / "m.png", 128).tolist() == [[False, False, True, True]]


def test_one_bit_masks_pass_any_threshold(tmp_path):
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "m.png")
    for threshold in (None, 1, 128, 255):
        assert decode_mask(tmp_path / "m.png", threshold).tolist() == [[False, True]]
