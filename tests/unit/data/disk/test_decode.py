import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch.testing import assert_close

from afr_clip.data.disk import picture_files as decoding
from afr_clip.data.disk.decode import decode_image, decode_mask, decode_picture
from afr_clip.data.errors import DataError, MissingDataError
from helpers.picture_files import one_of_each

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
    assert decode_image(tmp_path / "x.png").flatten().tolist() == [255, 128, 1]  # as in grey
    assert decode_mask(tmp_path / "x.png").item()


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bit_png_with_colours_or_alpha_keep_every_bit(tmp_path, colour_type, channels):
    values = np.random.default_rng(0).integers(0, 256, (*RNG_SHAPE, channels), dtype=np.uint16)
    values[values < 128] = 0
    for scale, expected in ((257, values), (1, np.zeros_like(values))):
        rows = b"".join(b"\0" + row.tobytes() for row in (values * scale).astype(">u2"))
        (tmp_path / "x.png").write_bytes(png_bytes(*RNG_SHAPE[::-1], 16, colour_type, rows))
        colour = expected[..., : 3 if channels > 2 else 1].astype(np.uint8).repeat(1 if channels > 2 else 3, axis=2)
        difference = decode_image(tmp_path / "x.png").permute(1, 2, 0).numpy().astype(int) - colour
        assert difference.min() >= 0
        assert difference.max() <= (0 if scale == 257 else 1)  # 255 of 65535 is 1 of 255
    if channels == 3:  # class ids, which 8 bits would not hold
        assert_close(decode_mask(tmp_path / "x.png"), torch.from_numpy((values > 0).any(axis=2)))


def test_transparent_palettes_keep_their_colours(tmp_path):
    image = colours().convert("P")
    image.save(tmp_path / "x.png", transparency=bytes(range(256)))
    assert_close(decode_image(tmp_path / "x.png"), torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


@pytest.mark.parametrize("values", [np.full((2, 2), 0.5, np.float32), np.full((2, 2), 70000, np.int32)])
def test_pixels_without_a_known_range_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif cannot be read: its (pixels are floating|values span 70000)"):
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

    @pytest.mark.parametrize("side", [15_000, 60_000])
    def test_a_decompression_bomb_is_refused(self, tmp_path, decode, side):
        (tmp_path / "x.png").write_bytes(png_bytes(side, side, 8, 0, b""))
        with pytest.raises(DataError, match=r"x\.png cannot .* set data\.max_pixels="):
            decode(tmp_path / "x.png")

    def test_an_absent_file_is_named(self, tmp_path, decode):
        with pytest.raises(MissingDataError, match=r"x\.png does not exist"):
            decode(tmp_path / "x.png")

    def test_a_folder_is_no_file(self, tmp_path, decode):
        with pytest.raises(DataError, match=r"Cannot read |must hold masks of one size, got 0 masks"):
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


def test_such_a_tiff_may_be_compressed(tmp_path):
    pixels = colours_tagged_as_grey(tmp_path / "x.tif", compression="zlib")
    assert_close(decode_image(tmp_path / "x.tif"), torch.from_numpy(pixels).permute(2, 0, 1), rtol=0, atol=0)


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


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize(("channels", "order", "packed"), [(3, "<", None), (4, ">", "zlib"), (3, ">", None)])
def test_deep_colours_of_a_tiff_are_those_of_its_8_bit_twin(tmp_path, planar, tile, channels, order, packed):
    pixels = np.random.default_rng(0).integers(0, 256, (*RNG_SHAPE, channels), dtype=np.uint8)
    for scale in (1, 257):
        deep = pixels if scale == 1 else pixels.astype(np.uint16) * np.uint16(257)
        stored = np.moveaxis(deep, -1, 0) if planar == "separate" else deep
        tags = {"photometric": "rgb", "planarconfig": planar, "byteorder": order, "tile": tile, "compression": packed}
        tifffile.imwrite(tmp_path / "x.tif", stored, **tags, extrasamples=["unassalpha"] if channels == 4 else None)
        decoded = decode_image(tmp_path / "x.tif").permute(1, 2, 0)
        assert_close(decoded, torch.from_numpy(pixels[..., :3]), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_may_say_that_0_is_white(tmp_path, dtype):
    grey = np.random.default_rng(0).integers(0, 256, RNG_SHAPE, dtype=np.uint8)
    stored = ((255 - grey).astype(dtype) * dtype(257 if dtype == np.uint16 else 1)).astype(dtype)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="miniswhite")
    assert_close(decode_image(tmp_path / "x.tif"), torch.from_numpy(grey).expand(3, *RNG_SHAPE), rtol=0, atol=0)
    assert_close(decode_mask(tmp_path / "x.tif", 128), torch.from_numpy(grey >= 128))


def test_how_many_bits_are_used_is_known(tmp_path):
    for top, num_bits in ((4095, 12), (4096, 13), (65535, 16)):
        Image.fromarray(np.full((2, 3), top, np.uint16)).save(tmp_path / "x.png")
        picture = decode_picture(tmp_path / "x.png")
        assert (picture.is_deep, picture.num_bits) == (True, num_bits)
    colours().save(tmp_path / "x.png")
    assert not decode_picture(tmp_path / "x.png").is_deep


PAGES = np.zeros((3, *RNG_SHAPE, 3), np.uint8)


@pytest.mark.parametrize(
    ("pixels", "tags", "reason"),
    [
        (PAGES, {"photometric": "rgb"}, "it has 3 pages"),
        (PAGES[0, ..., 0].astype(np.float16), {}, "floating-point"),
        (PAGES[0, ..., 0].astype(np.int8), {}, "signed"),
        (PAGES[:1].repeat(5, axis=0)[..., 0], {"photometric": "minisblack", "planarconfig": "separate"}, "5 x 8 bits"),
        (PAGES.repeat(2, axis=0)[:4, ..., 0].astype(np.uint16), {"photometric": "separated"}, "4 x 16 bits, SEPARATED"),
    ],
)
@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_tiffs_that_are_not_read_are_not_called_damaged(tmp_path, pixels, tags, reason, decode):
    tifffile.imwrite(tmp_path / "x.tif", pixels, **tags)
    with pytest.raises(DataError, match=rf"x\.tif cannot be read: .*{reason}.* Save "):
        decode(tmp_path / "x.tif")


def test_an_endless_chain_of_pages_ends(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", PAGES[0], photometric="rgb", metadata=None)
    content = bytearray((tmp_path / "x.tif").read_bytes())
    (num_tags,) = struct.unpack_from("<H", content, 8)
    struct.pack_into("<I", content, 8 + 2 + 12 * num_tags, 8)  # the next page is the first again
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(DataError, match="it has 100 or more pages"):
        decode_image(tmp_path / "x.tif")


def test_a_thumbnail_is_no_page(tmp_path):
    pixels = np.array(colours())
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(pixels, photometric="rgb")
        file.write(pixels[::4, ::4], photometric="rgb", subfiletype=1)
    assert_close(decode_image(tmp_path / "x.tif"), torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(tmp_path, kind):
    colours().save(tmp_path / "x.png", kind, save_all=True, append_images=[colours(1), colours(2)])
    with pytest.raises(DataError, match=r"x\.png cannot be read: it is an animation of 3 frames"):
        decode_image(tmp_path / "x.png")


def test_the_first_picture_of_a_phones_jpeg_is_the_photograph(tmp_path):
    colours().save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[colours(1)], quality=95)
    colours().save(tmp_path / "y.jpg", quality=95)
    assert_close(decode_image(tmp_path / "x.jpg"), pillow_rgb(tmp_path / "y.jpg"), rtol=0, atol=0)


@pytest.mark.parametrize("colour_type", [0, 2, 6])
@pytest.mark.parametrize("num_rows", [0, 1, 19])
@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_a_png_whose_rows_are_missing_is_refused(tmp_path, colour_type, num_rows, decode):
    row = b"\0" + b"\x7f" * 30 * {0: 1, 2: 3, 6: 4}[colour_type]
    (tmp_path / "x.png").write_bytes(png_bytes(30, 20, 8, colour_type, row * num_rows))
    with pytest.raises(DataError, match=r"rows are missing|is truncated"):
        decode(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes(png_bytes(30, 20, 8, colour_type, row * 20) + b"trailing bytes")
    assert decode(tmp_path / "x.png").shape[-2:] == (20, 30)


def test_rows_of_black_are_not_missing(tmp_path):
    for interlaced in (0, 1):
        Image.new("RGB", (31, 17)).save(tmp_path / "x.png", interlace=interlaced)
        assert not decode_image(tmp_path / "x.png").any()
        assert not decode_mask(tmp_path / "x.png").any()


def test_a_wrong_checksum_is_found(tmp_path):
    content = bytearray(png_bytes(3, 2, 8, 0, bytes(8)))
    content[-13] ^= 1  # the last byte of the data's checksum
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match="the checksum of its IDAT chunk is wrong"):
        decode_image(tmp_path / "x.png")


def test_text_in_a_png_may_be_as_long_as_it_likes(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * (2 << 20), zip=True)
    for index in range(70):
        text.add_text(f"part {index}", "y" * (1 << 20), zip=True)
    colours().save(tmp_path / "x.png", pnginfo=text)
    assert_close(decode_image(tmp_path / "x.png"), torch.from_numpy(np.array(colours())).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n", "PostScript"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"GIF89a", "GIF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    ],
)
@pytest.mark.parametrize("decode", [decode_image, decode_mask])
def test_only_the_five_formats_are_opened(tmp_path, content, what, decode):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.png is not a valid image file \(.*{what}"):
        decode(tmp_path / "x.png")


def test_formats_that_pillow_also_knows_are_not_opened(tmp_path):
    for kind in ("EPS", "GIF", "PPM", "TGA", "ICO", "PCX"):
        colours().save(tmp_path / "x.png", kind)
        with pytest.raises(DataError, match="is not a valid image file"):
            decode_image(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "TIFF16", "PNG16"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_viewers_turn_them(tmp_path, kind, orientation):
    exif, path = Image.Exif(), tmp_path / "x"
    exif[0x0112] = orientation
    image = colours()
    upright = np.array(ImageOps.exif_transpose(with_exif(image, exif)))
    deep = np.array(image).astype(np.uint16) * np.uint16(257)
    if kind == "TIFF16":
        tifffile.imwrite(path, deep, photometric="rgb", extratags=[(0x0112, "H", 1, orientation, True)])
    elif kind == "PNG16":
        rows = b"".join(b"\0" + row.tobytes() for row in deep.astype(">u2"))
        content, data = png_bytes(30, 20, 16, 2, rows), exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
        path.write_bytes(content[:33] + chunk + content[33:])
    else:
        image.save(path, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    picture = decode_picture(path)
    assert picture.orientation == orientation
    assert_close(picture.rgb.permute(1, 2, 0), torch.from_numpy(upright), rtol=0, atol=0)
    assert_close(decode_mask(path), torch.from_numpy((upright > 0).any(axis=2)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_smallest_pictures_are_turned_too(tmp_path, shape, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.full(shape, 7, np.uint8)).save(tmp_path / "x.png", exif=exif)
    height, width = shape if orientation < 5 else shape[::-1]
    assert decode_image(tmp_path / "x.png").shape == (3, height, width)
    assert decode_mask(tmp_path / "x.png").all()


@pytest.mark.parametrize("piece", [1, 10, 35])  # less than a row; one row; three rows of 12
def test_pixels_copied_in_pieces_are_those_of_the_file(tmp_path, monkeypatch, piece):
    files = [file for file in one_of_each() if not file.may_be_refused]
    transparent = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10), dtype=np.uint8))
    monkeypatch.setattr(decoding, "PIECE", piece)
    for file in files:
        (tmp_path / "x").write_bytes(file.content)
        np.testing.assert_array_equal(decode_image(tmp_path / "x").permute(1, 2, 0).numpy(), file.truth, file.kind)
    transparent.save(tmp_path / "x.png", transparency=7)
    assert_close(decode_image(tmp_path / "x.png"), pillow_rgb(tmp_path / "x.png"), rtol=0, atol=0)


def with_exif(image: Image.Image, exif: Image.Exif) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return Image.open(buffer)


def test_damaged_exif_data_turn_nothing(tmp_path):
    colours().save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03")
    assert decode_picture(tmp_path / "x.jpg").orientation == 1


def test_the_limit_of_pixels_is_read_from_the_header(tmp_path):
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP"):
        colours().save(tmp_path / "x", kind)
        assert decode_image(tmp_path / "x", max_pixels=600).shape == (3, *RNG_SHAPE)
        for decode in (decode_image, decode_mask):
            with pytest.raises(DataError, match=r"30 x 20 pixels, more than 599\. .* data\.max_pixels=600; or"):
                decode(tmp_path / "x", max_pixels=599)


def layer(alpha: np.ndarray, colour: int) -> Image.Image:
    """A layer of a paint program: one colour all over, the drawing in the alpha channel."""
    return Image.fromarray(np.dstack([np.full((*alpha.shape, 3), colour, np.uint8), alpha]))


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_drawing_in_the_alpha_channel_is_the_mask(tmp_path, colour, mode):
    layer(MASK, colour).convert(mode).save(tmp_path / "m.png")
    assert_close(decode_mask(tmp_path / "m.png"), torch.from_numpy(MASK > 0))
    layer(np.full_like(MASK, 255), colour).save(tmp_path / "m.png")  # opaque all over: the colour decides
    assert (decode_mask(tmp_path / "m.png") == (colour > 0)).all()


def test_an_alpha_channel_that_hides_what_is_marked_is_refused(tmp_path):
    pixels = np.dstack([np.stack([MASK] * 3, axis=2), 255 - MASK])
    Image.fromarray(pixels).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png cannot be read: .* alpha channel"):
        decode_mask(tmp_path / "m.png")


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


def test_a_folder_of_masks_marks_what_any_of_them_marks(tmp_path):
    first, second = np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint8)
    first[0, 0], second[1, 2] = 237, 255
    for name, values in (("000.png", first), ("001.png", second)):
        Image.fromarray(values).save(tmp_path / name)
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    assert decode_mask(tmp_path).tolist() == [[True, False, False], [False, False, True]]
    assert decode_mask(tmp_path, 240).tolist() == [[False] * 3, [False, False, True]]


def test_a_folder_without_masks_or_with_masks_of_several_sizes_is_refused(tmp_path):
    with pytest.raises(DataError, match="must hold masks of one size, got 0 masks of 0 sizes"):
        decode_mask(tmp_path)
    for side in (2, 3):
        Image.new("L", (side, side)).save(tmp_path / f"{side}.png")
    with pytest.raises(DataError, match="must hold masks of one size, got 2 masks of 2 sizes"):
        decode_mask(tmp_path)
