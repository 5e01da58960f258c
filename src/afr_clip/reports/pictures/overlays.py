"""A photograph next to its overlay with the anomaly map, as predict writes it."""

from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from afr_clip.files import write_encoded
from afr_clip.inspection.calibration import Calibration
from afr_clip.inspection.colours import draw_outlines, laid_over, palette
from afr_clip.inspection.record import Inspected
from afr_clip.reports.pictures.encode import shrunk
from afr_clip.settings import DecideBy

LARGEST_SIDE = 640
"""Photographs are drawn no larger than this many pixels a side."""

QUALITY = 92
"""Of the JPEG. The picture is looked at, not measured, and a PNG takes longer to write than the photograph to score."""

LINE, MARGIN, BAR = 18, 8, 10
"""Height of a line of text, space around things, and height of the colour scale, in pixels."""

MAP_THRESHOLD = "map threshold"

NARROWEST = 160
"""A photograph narrower than this leaves no room for words; its column is this wide."""


FONT = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
"""Pillow's own font has no size before version 10.1, and fewer letters."""


def draw_overlay(
    path: Path,
    title: str,
    photograph: UInt8[Tensor, "3 rows columns"],
    anomaly_map: Float32[np.ndarray, "height width"],
    inspected: Inspected,
    calibration: Calibration | None = None,
) -> None:
    """Draw a photograph next to its overlay as JPEG, at its own proportions, with the outlines of its regions.

    All photographs share one colour scale, so that they can be compared: from 0 to 1, or, with a calibration, that of
    calibrated scores, whose middle is the threshold.
    """
    image = shrunk(photograph.permute(1, 2, 0).numpy(), LARGEST_SIDE)
    size = (image.height, image.width)
    whole = torch.from_numpy(anomaly_map)[None, None].float()
    values = functional.interpolate(whole, size=size, mode="bilinear")[0, 0].numpy()
    score = f"image score {inspected.image_score:.3f}"
    if calibration is not None and inspected.decision is not None:
        values = calibration.calibrated_map(values).astype(np.float32)
        if calibration.decide_by is DecideBy.region:
            score = f"map maximum {anomaly_map.max():.3f}"
        score = f"{inspected.decision.value}, {score}, threshold {inspected.threshold:.3f}"
    column = max(image.width, NARROWEST)
    page = Image.new("RGB", (2 * column + 3 * MARGIN, image.height + 2 * LINE + BAR + 4 * MARGIN), "white")
    page.paste(image, (MARGIN, LINE + MARGIN))
    over = Image.fromarray(laid_over(np.asarray(image), values))
    draw_outlines(over, inspected.regions, image.width / inspected.width)
    page.paste(over, (column + 2 * MARGIN, LINE + MARGIN))
    _write_words(page, title, score, column, "anomaly score" if calibration is None else MAP_THRESHOLD)
    write_encoded(path, partial(page.save, format="JPEG", quality=QUALITY, subsampling=0))


def _write_words(page: Image.Image, title: str, score: str, column: int, middle: str) -> None:
    draw = ImageDraw.Draw(page)
    font = ImageFont.truetype(FONT, 12)
    for left, words in ((MARGIN, title), (column + 2 * MARGIN, score)):
        draw.text((left, MARGIN // 2), shortened(draw, words, font, column), fill="black", font=font)
    top, left = page.height - LINE - BAR - MARGIN // 2, column + 2 * MARGIN
    scale = Image.fromarray(np.repeat(palette()[None], BAR, axis=0)).resize((column, BAR))
    page.paste(scale, (left, top))
    if middle == MAP_THRESHOLD:
        mark = left + column // 2
        draw.line([(mark, top - 3), (mark, top + BAR + 2)], fill="black", width=2)
    for share, words, anchor in ((0.0, "0", "la"), (0.5, middle, "ma"), (1.0, "1", "ra")):
        draw.text((left + share * column, top + BAR + 1), words, fill="black", font=font, anchor=anchor)


def shortened(draw: ImageDraw.ImageDraw, words: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Shorten text in the middle until it fits."""
    kept = len(words)
    short = words
    while kept > 2 and draw.textlength(short, font=font) > width:
        kept -= 2
        short = f"{words[: kept // 2]}...{words[len(words) - kept // 2 :]}"
    return short
