import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from afr_clip.files import written_whole
from afr_clip.inspection import tiles
from afr_clip.reports.pictures.maps import FULL_SCALE, MapWriter, output_places, save_map, save_mask, with_suffix
from afr_clip.settings import MapFormat

HALF_A_CODE = 0.5 / 65535
FLOAT32_ROUNDING = 2**-24  # of a product below 65536, in units of the whole scale


def load_map(path: Path) -> np.ndarray:
    with Image.open(path, formats=["PNG", "TIFF"]) as image:
        return np.asarray(image, dtype=np.float64) / (1 if image.mode == "F" else FULL_SCALE)


def png_header(path: Path) -> tuple[int, int]:
    """Read bit depth and colour type from the file itself."""
    header = path.read_bytes()[:26]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return header[24], header[25]


def test_a_saved_map_is_within_half_a_code(tmp_path):
    generator = torch.Generator().manual_seed(0)
    anomaly_map = torch.rand(37, 53, generator=generator)
    save_map(tmp_path / "deep" / "a", anomaly_map, MapFormat.png)
    loaded = load_map(tmp_path / "deep" / "a.png")
    assert loaded.dtype == np.float64
    assert np.abs(loaded - anomaly_map.double().numpy()).max() <= HALF_A_CODE + FLOAT32_ROUNDING


def test_the_ends_and_the_middle_are_exact_codes(tmp_path):
    save_map(tmp_path / "a", torch.tensor([[0.0, 1.0], [0.25, 32768 / 65535]]), MapFormat.png)
    assert (load_map(tmp_path / "a.png") * 65535).tolist() == [[0, 65535], [16384, 32768]]


def test_every_code_comes_back(tmp_path):
    codes = torch.arange(65536).view(256, 256)
    save_map(tmp_path / "a", codes.float() / 65535, MapFormat.png)
    assert np.array_equal(np.rint(load_map(tmp_path / "a.png") * 65535), codes.numpy())


def test_a_map_written_in_bands_is_the_same_file(tmp_path, monkeypatch):
    anomaly_map = torch.rand(37, 53, generator=torch.Generator().manual_seed(0))
    save_map(tmp_path / "at_once", anomaly_map, MapFormat.png)
    monkeypatch.setattr(tiles, "BAND", 200)
    save_map(tmp_path / "in_bands", anomaly_map, MapFormat.png)
    assert (tmp_path / "in_bands.png").read_bytes() == (tmp_path / "at_once.png").read_bytes()


def test_maps_are_16_bit_grey_and_masks_8_bit_grey_pngs(tmp_path):
    save_map(tmp_path / "map", torch.rand(5, 7), MapFormat.png)
    save_mask(tmp_path / "mask.png", torch.eye(5, 7).bool())
    assert (png_header(tmp_path / "map.png"), png_header(tmp_path / "mask.png")) == ((16, 0), (8, 0))
    with Image.open(tmp_path / "map.png") as image:
        assert image.size == (7, 5)


def test_a_tiff_holds_every_value_as_it_is(tmp_path, scored):
    values = torch.tensor([[0.0, 1e-45, 2e-9], [0.3, 1 - 2**-24, 1.0]])
    save_map(tmp_path / "a.b", values, MapFormat.tiff)
    assert np.array_equal(load_map(tmp_path / "a.b.tiff"), values.double().numpy())
    batch, maps, scores = scored([0.1, 0.9], [False, True])
    MapWriter(tmp_path, batch.samples, MapFormat.tiff)(batch, maps, scores)
    for place, anomaly_map in zip(["good/0.tiff", "bad/1.tiff"], maps, strict=True):
        assert np.array_equal(load_map(tmp_path / "maps/noise/metal_nut" / place), anomaly_map.double().numpy())


def test_a_mask_is_0_and_255(tmp_path):
    save_mask(tmp_path / "a.png", torch.tensor([[True, False, True], [False, False, True]]))
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image).tolist() == [[255, 0, 255], [0, 0, 255]]


def test_a_batch_is_written_by_dataset_category_type_and_stem(tmp_path, scored):
    batch, maps, scores = scored([0.1, 0.9, 0.5], [False, True, False])
    batch = replace(batch, has_mask=torch.tensor([True, True, False]))
    MapWriter(tmp_path, batch.samples, MapFormat.png)(batch, maps, scores)
    places = ["noise/metal_nut/good/0.png", "noise/metal_nut/bad/1.png", "noise/metal_nut/good/2.png"]
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {*(f"maps/{place}" for place in places), *(f"masks/{place}" for place in places[:2])}
    for place, anomaly_map in zip(places, maps, strict=True):
        assert np.allclose(load_map(tmp_path / "maps" / place), anomaly_map, atol=HALF_A_CODE + FLOAT32_ROUNDING)
    for place, mask in zip(places[:2], batch.mask[:2], strict=True):
        with Image.open(tmp_path / "masks" / place) as image:
            assert np.array_equal(np.asarray(image) == 255, mask.numpy())


NASTY = [
    *("a.jpg", "a.png", "a.jpg.png", "A.JPG", "a.jpeg", "b/a.jpg", "B/A.JPG", "b.png/a.jpg", "b.png"),
    *(
        "c.jpg",
        "c .jpg",
        "c..jpg",
        "..jpg",
        "d\ne.png",
        "d\\ne.png",
        os.fsdecode(b"f\xff.png"),
        os.fsdecode(b"f\xfe.png"),
    ),
    *(
        "u\u0308.png",
        "\u00fc.png",
        "g" * 250 + ".png",
        "g" * 250 + ".jpg",
        "\u00e4" * 120 + ".png",
        "x" * 300 + "/h.png",
    ),
]


def test_every_photograph_gets_a_place_of_its_own_on_any_file_system(tmp_path):
    images = [Path(name) for name in NASTY]
    places = output_places([image.with_suffix("") if image.stem.strip(".") else image for image in images], images)
    files = [with_suffix(place, suffix) for place in places for suffix in (".png", ".tiff", ".jpg")]
    assert len({str(file).casefold() for file in files}) == 3 * len(NASTY)
    parts = {part for file in files for part in file.parts}
    assert max(len(os.fsencode(part)) for part in parts) <= 255
    assert all(part.isprintable() and "\\" not in part for part in parts)
    for file in files:
        with written_whole(tmp_path / file) as unfinished:
            unfinished.write_text("x")
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 3 * len(NASTY)


def test_places_are_plain_where_they_can_be_and_kept_where_they_were(tmp_path):
    images = [Path("000.png"), Path("a.b.JPG"), Path("deep/x y.jpeg"), Path("two.png"), Path("two.jpg")]
    short = [image.with_suffix("") for image in images]
    expected = ["000", "a.b", "deep/x y", "two.png", "two.jpg"]
    assert [str(place) for place in output_places(short, images)] == expected
    # A photograph that came later gives way to one that has its place already.
    assert output_places([Path("000")], [Path("000.jpg")], [Path("000")]) == [Path("000.jpg")]
