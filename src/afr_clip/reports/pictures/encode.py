"""Pictures of a run folder, made small enough to be part of a page."""

import base64
import io
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from afr_clip.files import shown

SHEETS = {
    "highest": "The images with the highest scores of all",
    "lowest": "The images with the lowest scores of all",
    "worst_ranked": "The worst-ranked images: normal ones that scored highest, then anomalous ones that scored lowest",
}
"""What each sheet of a dataset shows, by the name of its file."""

LARGEST_SIZE = (1400, 16383)
"""Pictures are embedded no wider and no taller than this; a WebP cannot be taller."""

MOST_PIXELS = 100_000_000
"""Of a picture that is read; a sheet of a hundred images has 28 million."""

QUALITY = 80

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedPicture:
    """A picture as it is embedded: ``source`` is a data URI, ``size`` the width and height in pixels."""

    caption: str
    alt: str
    source: str
    size: tuple[int, int]


PictureGroup = tuple[str, list[EmbeddedPicture]]
"""Pictures under a common heading."""


def shrunk(photograph: UInt8[ndarray, "height width 3"], largest: int) -> Image.Image:
    """Shrink a photograph whose longer side exceeds ``largest`` pixels.

    OpenCV does it without a copy; Pillow's ``thumbnail`` first copies the photograph at 4 bytes per pixel.
    """
    height, width = photograph.shape[:2]
    scale = largest / max(height, width)
    if scale >= 1:
        return Image.fromarray(photograph)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA))


def read_pictures(heading: str, folder: Path, captions: Mapping[str, str]) -> PictureGroup:
    """Read the files that exist in a folder, each with its caption, as a group that may be empty.

    A file that lies elsewhere or is no picture of ours is left out with a warning.

    Args:
        captions: By the path of each file below the folder.
    """

    def read(name: str, caption: str) -> EmbeddedPicture | None:
        path = folder / name
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                logger.warning("%s lies outside %s and is left out of the page.", shown(name), shown(folder))
            elif path.is_file():
                return EmbeddedPicture(caption, f"{heading}: {caption}", *_embedded(path))
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three for a damaged file
            logger.warning("%s is left out of the page, because it cannot be read: %s", shown(path), error)
        return None

    # Encoding a picture leaves the interpreter to another; a picture of `MOST_PIXELS` takes 0.8 GB while it is read.
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = pool.map(read, captions, captions.values())
        return heading, [picture for picture in found if picture is not None]


def _embedded(path: Path) -> tuple[str, tuple[int, int]]:
    """Make a picture small enough to embed: as the data URI of a WebP no larger than `LARGEST_SIZE`, and its size."""
    with Image.open(path, formats=("PNG", "JPEG")) as image:
        if image.width * image.height > MOST_PIXELS:
            msg = f"it has {image.width} x {image.height} pixels, and {MOST_PIXELS:,} are the most."
            raise ValueError(msg)
        picture = image.convert("RGB")
    picture.thumbnail(LARGEST_SIZE)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", picture.size
