"""Pictures of a run folder, made small enough to be part of a page."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

SHEETS = {
    "highest": "The images with the highest scores of all",
    "lowest": "The images with the lowest scores of all",
    "worst_ranked": "The worst-ranked images: normal ones that scored highest, then anomalous ones that scored lowest",
}
"""What each sheet of a dataset shows, by the name of its file."""

LARGEST_SIZE = (1400, 16383)
"""Pictures are embedded no wider and no taller than this; a WebP cannot be taller."""

QUALITY = 80


@dataclass(frozen=True)
class EmbeddedPicture:
    """A picture as it is embedded: ``source`` is a data URI, ``size`` the width and height in pixels."""

    caption: str
    alt: str
    source: str
    size: tuple[int, int]


PictureGroup = tuple[str, list[EmbeddedPicture]]
"""Pictures under a common heading."""


def read_pictures(heading: str, captions: Mapping[Path, str]) -> PictureGroup:
    """Read the files that exist, each with its caption, as a group that may be empty."""
    found = {path: caption for path, caption in captions.items() if path.exists()}
    return heading, [read_picture(path, caption, f"{heading}: {caption}") for path, caption in found.items()]


def read_picture(path: Path, caption: str, alt: str) -> EmbeddedPicture:
    """Read a picture and make it small enough to embed: as WebP, no larger than `LARGEST_SIZE`."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail(LARGEST_SIZE)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=QUALITY)
    source = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return EmbeddedPicture(caption, alt, source, picture.size)
