import os
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.inspection.areas import read_area

SIZE = (30, 20)
PHOTOGRAPH_NAME = "Nüsse, Los 7.jpg"


def left_half(value=255):
    mask = np.zeros((20, 30), np.uint8)
    mask[:, :15] = value
    return mask


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_roi_keeps_what_is_white_and_ignore_drops_it(tmp_path):
    mask, photograph = save(tmp_path / "mask.png", left_half()), tmp_path / PHOTOGRAPH_NAME
    is_left = np.arange(30)[None].repeat(20, axis=0) < 15
    np.testing.assert_array_equal(read_area(mask, photograph, SIZE), is_left)
    np.testing.assert_array_equal(read_area(None, photograph, SIZE, ignore=mask), ~is_left)
    assert read_area(None, photograph, SIZE).all()
    top = np.zeros((20, 30), np.uint8)
    top[:5] = 1  # a class id counts as white, as in every mask
    both = read_area(mask, photograph, SIZE, ignore=save(tmp_path / "top.png", top))
    assert both.sum() == 15 * 15
    assert not both[:5].any()


def test_a_mask_is_turned_by_its_own_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    stored = np.rot90(left_half())
    mask = save(tmp_path / "mask.png", np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(read_area(mask, tmp_path / "a.jpg", SIZE), left_half() > 0)


def test_a_folder_has_a_mask_of_the_same_name_for_each(tmp_path):
    photographs, masks = tmp_path / "photographs", tmp_path / "masks"
    for place in ("a.png", "b.TIF", "good/a.v2.png", os.fsdecode(b"Gr\xfc\xdfe.png")):
        rows = np.zeros((20, 30), np.uint8)
        rows[: len(place)] = 255
        save(masks / place, rows)
        photograph = (photographs / place).with_suffix(".jpg")
        assert read_area(masks, photograph, SIZE, root=photographs).sum() == 30 * len(place)
    assert read_area(masks, photographs / "somewhere" / "a.jpg", SIZE).sum() == 30 * len("a.png")


def test_one_file_under_two_spellings_of_its_suffix_is_one_mask(tmp_path):
    mask = save(tmp_path / "masks" / "a.png", left_half())
    with suppress(FileExistsError):  # on a disk that ignores case
        os.link(mask, mask.with_suffix(".PNG"))
    assert read_area(tmp_path / "masks", tmp_path / "a.jpg", SIZE).sum() == 300


def test_a_mask_that_has_changed_is_read_again(tmp_path):
    mask = save(tmp_path / "mask.png", left_half())
    assert read_area(mask, tmp_path / "a.jpg", SIZE).sum() == 300
    save(mask, np.full((20, 30), 255, np.uint8))
    os.utime(mask, (1, 1))
    assert read_area(mask, tmp_path / "a.jpg", SIZE).all()


def test_what_cannot_be_used_is_refused_with_a_sentence(tmp_path):
    photograph, masks = tmp_path / "a\nb.jpg", tmp_path / "masks"
    other_size = save(tmp_path / "small.png", left_half()[:, :20])
    black = save(tmp_path / "black.png", left_half(0))
    (tmp_path / "text.png").write_text("no picture")
    save(masks / "c.png", left_half())
    save(masks / "c.bmp", left_half())
    os.mkfifo(tmp_path / "pipe")
    for roi, name, kind, sentence in (
        (
            other_size,
            "a\nb.jpg",
            DataError,
            r"small\.png \(roi\) has 20 x 20 pixels and .*a\\nb\.jpg has 30 x 20\. Draw",
        ),
        (black, "a\nb.jpg", DataError, r"Nothing of .*a\\nb\.jpg is left to inspect: .*black\.png \(roi\) excludes"),
        (tmp_path / "text.png", "a.jpg", DataError, r"text\.png is not a valid image file"),
        (tmp_path / "nowhere", "a.jpg", MissingDataError, "nowhere does not exist"),
        (tmp_path / "pipe", "a.jpg", MissingDataError, "pipe does not exist"),
        (masks, "a.jpg", MissingDataError, r"a\.jpg has no roi mask: there is no .*masks/a\.png"),
        (masks, "c.jpg", DataError, r"one roi mask, but .*c\.jpg has .*c\.bmp and .*c\.png\. Remove"),
    ):
        with pytest.raises(kind, match=sentence):
            read_area(roi, photograph.with_name(name), SIZE)
    white = save(tmp_path / "white.png", np.full((20, 30), 255, np.uint8))
    with pytest.raises(DataError, match=r"white\.png \(ignore\) excludes every pixel"):
        read_area(None, photograph, SIZE, ignore=white)
