import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from afr_clip.inspection.calibration import Decision, calibrate
from afr_clip.inspection.colours import laid_over
from afr_clip.inspection.record import Inspected
from afr_clip.reports.pictures import overlays
from afr_clip.reports.pictures.overlays import draw_overlay

LARGEST = overlays.LARGEST_SIDE


def inspected(width, height):
    return Inspected("photo", width, height, "nut", 0.5, None, None, None, ())


@pytest.mark.parametrize("size", [(200, 100), (50, 150), (1500, 1000), (30, 30)])
def test_a_photograph_and_its_overlay_stand_side_by_side_at_its_own_proportions(tmp_path, size):
    photograph = torch.full((3, size[1], size[0]), 60, dtype=torch.uint8)
    draw_overlay(tmp_path / "out" / "a.jpg", "photo", photograph, np.ones((16, 16), np.float32), inspected(*size))
    page = np.asarray(Image.open(tmp_path / "out" / "a.jpg")).astype(int)
    scale = min(1.0, LARGEST / max(size))
    width, height = round(size[0] * scale), round(size[1] * scale)
    top, left = overlays.LINE + overlays.MARGIN, overlays.MARGIN
    second = max(width, overlays.NARROWEST) + 2 * overlays.MARGIN
    red = laid_over(np.full((1, 1, 3), 60, dtype=np.uint8), np.ones((1, 1), dtype=np.float32))[0, 0]
    inside = slice(top + 8, top + height - 8)  # a JPEG's blocks of 8 pixels blur what lies across an edge
    assert np.abs(page[inside, left + 8 : left + width - 8] - 60).max() <= 2
    assert np.abs(page[inside, second + 8 : second + width - 8] - red).max() <= 2
    assert (page[top + height + 8 : top + height + 10, left : left + width] > 245).all()
    assert page.shape[1] == second + max(width, overlays.NARROWEST) + overlays.MARGIN


def test_the_colour_of_a_probability_does_not_depend_on_the_photograph():
    grey = np.zeros((1, 3, 3), dtype=np.uint8)
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    expected = [
        [round(0.5 * channel) for channel in colormaps["turbo"](step, bytes=True)[:3]] for step in (0, 128, 255)
    ]
    assert np.abs(laid_over(grey, values)[0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("is_calibrated", [False, True])
def test_the_middle_of_the_scale_is_the_threshold_with_a_calibration(tmp_path, is_calibrated):
    scores = np.linspace(0.1, 0.3, 40)
    calibration = calibrate(scores, scores, 0.05, {"category": "nut"}) if is_calibrated else None
    decided = (0.3, Decision.anomalous, 0.6) if is_calibrated else (None, None, None)
    found = Inspected("photo", 400, 200, "nut", 0.5, *decided, ())
    at_threshold = np.full((4, 4), calibration.map_high if calibration else 0.5, dtype=np.float32)
    draw_overlay(
        tmp_path / "a.jpg", "", torch.zeros((3, 200, 400), dtype=torch.uint8), at_threshold, found, calibration
    )
    page = np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)
    left = 400 + 2 * overlays.MARGIN
    bar = page[page.shape[0] - overlays.LINE - overlays.BAR - overlays.MARGIN // 2 - 2, left : left + 400].mean(axis=1)
    dark = np.flatnonzero(bar < 128)  # just above the scale, where all else is white
    assert (abs(dark.mean() - 200) <= 2) if is_calibrated else dark.size == 0
    middle = laid_over(np.zeros((1, 1, 3), dtype=np.uint8), np.full((1, 1), 0.5, dtype=np.float32))[0, 0]
    assert np.abs(page[60, left + 200] - middle).max() <= 3


def test_words_too_long_for_their_column_are_cut_in_the_middle(tmp_path):
    black = torch.zeros((3, 40, 40), dtype=torch.uint8)
    draw_overlay(tmp_path / "a.jpg", "x" * 300, black, np.zeros((4, 4), np.float32), inspected(40, 40))
    page = np.asarray(Image.open(tmp_path / "a.jpg"))
    gap = page[: overlays.LINE, overlays.NARROWEST + overlays.MARGIN : overlays.NARROWEST + 2 * overlays.MARGIN]
    assert (gap > 200).all()
