"""Which part of a photograph counts: masks of the region of interest, and of what is to be ignored."""

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from afr_clip.data.disk.folders import IMAGE_SUFFIXES
from afr_clip.data.disk.picture_files import MAX_PIXELS, read_mask
from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.files import shown


def read_area(
    roi: Path | None,
    photograph: Path,
    size: tuple[int, int],
    *,
    ignore: Path | None = None,
    root: Path | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Bool[np.ndarray, "height width"]:
    """Return which pixels of a photograph count.

    Args:
        roi: A mask whose white pixels alone count, or a folder with such a mask for each photograph, under its name but
            for the suffix; ``None`` for the whole photograph.
        photograph: Only named; it is not read.
        size: Its width and height as a viewer shows it.
        ignore: Likewise, but white pixels do not count.
        root: The folder of the photographs. The mask of one in a folder below it lies in such a folder too.

    Raises:
        DataError: If a mask is missing, unreadable or of another size, or if no pixel counts.
    """
    width, height = size
    counts = np.ones((height, width), dtype=np.bool_)
    for role, masks in (("roi", roi), ("ignore", ignore)):
        if masks is None:
            continue
        path = _mask_of(role, masks, photograph, root)
        mask = _read(path, path.stat().st_mtime_ns, max_pixels)
        if mask.shape != counts.shape:
            msg = (
                f"A mask must have the size of its photograph, but {shown(path)} ({role}) has {mask.shape[1]} x "
                f"{mask.shape[0]} pixels and {shown(photograph)} has {width} x {height}. Draw the mask on the "
                f"photograph as a viewer shows it."
            )
            raise DataError(msg)
        counts &= mask if role == "roi" else ~mask
        if not counts.any():
            msg = (
                f"Nothing of {shown(photograph)} is left to inspect: {shown(path)} ({role}) excludes every pixel. "
                f"What is white in roi counts, and what is white in ignore does not."
            )
            raise DataError(msg)
    return counts


def _mask_of(role: str, masks: Path, photograph: Path, root: Path | None) -> Path:
    """Find the mask of a photograph: the one for all, or its own in a folder."""
    if os.path.isfile(masks):  # noqa: PTH113 - Path.is_file raises below a folder that may not be entered
        return masks
    if not os.path.isdir(masks):  # noqa: PTH112
        msg = f"{role} must name a mask or a folder of masks, but {shown(masks)} does not exist. Check the path."
        raise MissingDataError(msg)
    below = photograph.relative_to(root) if root and photograph.is_relative_to(root) else Path(photograph.name)
    place = masks / below
    lower = sorted(IMAGE_SUFFIXES)
    found = list[Path]()
    for path in map(place.with_suffix, (*lower, *map(str.upper, lower))):
        # A disk that ignores case has one file under both spellings.
        if os.path.isfile(path) and not any(os.path.samefile(path, one) for one in found):  # noqa: PTH113, PTH121
            found.append(path)
    if not found:
        msg = (
            f"{shown(photograph)} has no {role} mask: there is no {shown(place.with_suffix('.png'))}, nor one with the "
            f"suffix of another kind of image. Add it, or give {role} one mask for all photographs."
        )
        raise MissingDataError(msg)
    if len(found) > 1:
        msg = (
            f"A photograph must have one {role} mask, but {shown(photograph)} has {shown(found[0])} and "
            f"{shown(found[1])}. Remove one of them."
        )
        raise DataError(msg)
    return found[0]


@lru_cache(maxsize=2)
def _read(path: Path, changed: int, max_pixels: int) -> Bool[np.ndarray, "height width"]:
    """Read a mask; one that serves all photographs is read once, and again when it has changed."""
    mask = read_mask(path, max_pixels=max_pixels)
    mask.flags.writeable = False
    return mask
