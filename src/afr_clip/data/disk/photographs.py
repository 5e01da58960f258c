"""Plain photographs of one category, without any truth."""

from pathlib import Path

from afr_clip.data.disk.digest import content_digest
from afr_clip.data.disk.loaded import LoadedDataset
from afr_clip.data.disk.reading import DatasetSpec
from afr_clip.data.disk.templates import is_image
from afr_clip.data.errors import MissingDataError
from afr_clip.data.records import AnomalySample

NAME = "photographs"
UNKNOWN = "unknown"
"""The defect type of a photograph whose condition nobody has judged."""


def list_photographs(images: Path, category: str) -> LoadedDataset:
    """List photographs for prediction.

    Args:
        images: One file, or a folder searched with all its sub-folders.
        category: What they show, in words.

    Returns:
        The photographs, sorted by path; their image-level truth means nothing.

    Raises:
        MissingDataError: If there is no such file or folder, or no image in it.
    """
    if images.is_file():
        paths = [images]
    else:
        paths = sorted(path for path in images.rglob("*") if path.is_file() and is_image(path, images))
    if not paths:
        state = "holds none" if images.is_dir() else "does not exist"
        msg = f"images must be an image file or a folder with images (png, jpg, bmp, tif, webp), but {images} {state}."
        raise MissingDataError(msg)
    samples = tuple(AnomalySample(NAME, category, UNKNOWN, path, None, False, category) for path in paths)
    return LoadedDataset(DatasetSpec(NAME, "folder"), images, samples, content_digest(samples))
