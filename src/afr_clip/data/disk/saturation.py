"""How much of each annotated region has to be found, where a dataset states it, and the regions themselves."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from afr_clip.data.disk.listing import read_text
from afr_clip.data.disk.picture_files import MAX_PIXELS, mask_files, read_region
from afr_clip.data.disk.pixels import resize_mask
from afr_clip.data.disk.rows.row import DatasetRow
from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.data.records import AnomalySample
from afr_clip.files import shown

KEYS = ("pixel_value", "saturation_threshold", "relative_saturation")
"""Keys of an entry in ``defects_config.json`` that are read."""

Entries = Mapping[int, "Saturation"]
"""One per kind of defect, by the grey value that marks it."""


@dataclass(frozen=True)
class Saturation:
    """At how many of its pixels a region counts as found.

    The rules of MVTec LOCO AD's own evaluation code: a relative threshold is a share of the region and is rounded down
    to whole pixels; an absolute one is a number of pixels, at most the region's.

    Example:
        >>> Saturation(0.5, is_relative=True).share(5), Saturation(3.0, is_relative=False).share(2)
        (0.4, 1.0)
    """

    threshold: float
    is_relative: bool

    def share(self, num_pixels: int) -> float:
        """Return the share of a region of so many pixels, at the photograph's size, that has to be found."""
        wanted = int(self.threshold * num_pixels) if self.is_relative else min(self.threshold, num_pixels)
        return max(wanted, 1) / num_pixels


class Region(NamedTuple):
    """An annotated region.

    Attributes:
        share: How much of it has to be found.
    """

    mask: Bool[Tensor, "height width"]
    share: float


def read_saturations(row: DatasetRow, root: Path, samples: Sequence[AnomalySample]) -> dict[str, Entries]:
    """Read the saturations of each category; empty if the dataset has none.

    Raises:
        MissingDataError: If a file is missing, or an anomaly is of a type that the published dataset does not have.
        DataError: If a file is damaged.
    """
    if not row.saturations:
        return {}
    files = {one.category: root / row.saturations.format(category=one.category) for one in samples}
    missing = [path for path in files.values() if not os.path.isfile(path)]  # noqa: PTH113 - Path.is_file may raise
    if missing:
        msg = f"{shown(missing[0])}, which states how much of each defect has to be found, is missing. Unpack it again."
        raise MissingDataError(msg)
    strange = [
        shown(one.image_path) for one in samples if one.is_anomalous and one.defect_type not in row.saturated_types
    ]
    if strange:
        types = " and ".join(row.saturated_types)
        msg = f"{row.title} has the defect types {types}, but {strange[0]} is in another folder. Unpack it again."
        raise MissingDataError(msg)
    return {category: _entries(path) for category, path in files.items()}


def _entries(path: Path) -> Entries:
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"{shown(path)} is not valid JSON ({error}). Restore the original."
        raise DataError(msg) from error
    for entry in content if isinstance(content, list) else [content]:
        if not isinstance(content, list) or not isinstance(entry, dict) or not _is_sound(entry):
            msg = (
                f"{shown(path)} must be a list of entries with {', '.join(KEYS)}: a grey value of 1 to 255, a share "
                f"above 0 up to 1 if the next is true and otherwise a number of pixels, and true or false; got "
                f"{json.dumps(entry)[:200]}. Restore the original."
            )
            raise DataError(msg)
    return {
        one["pixel_value"]: Saturation(float(one["saturation_threshold"]), one["relative_saturation"])
        for one in content
    }


def _is_sound(entry: Mapping[str, Any]) -> bool:
    value, threshold, is_relative = (entry.get(key) for key in KEYS)
    if type(value) is not int or not 1 <= value <= 255 or type(is_relative) is not bool:  # True is an int
        return False
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        return False
    return 0 < threshold <= 1 if is_relative else 1 <= threshold < 2**53


def read_regions(
    sample: AnomalySample, entries: Entries, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS
) -> list[Region]:
    """Read the regions of an image, each a file of its mask's folder, at the model's input size.

    The share of a region that has to be found is that of the photograph, so that resizing changes only which pixels
    stand for the region. One that has no pixel left does not count, as in PRO.

    Raises:
        DataError: If a file cannot be decoded, or its grey value has no entry.
    """
    assert sample.mask_path is not None, "a dataset with saturations has masks"
    regions = []
    for path in mask_files(sample.mask_path):
        mask, value = read_region(path, max_pixels=max_pixels)
        if value not in entries:
            known = ", ".join(map(str, sorted(entries)))
            msg = (
                f"{shown(path)} has the grey value {value}, but the category's file of saturations describes {known}. "
                f"Unpack the archive again."
            )
            raise DataError(msg)
        regions.append(Region(resize_mask(torch.from_numpy(mask), size), entries[value].share(int(mask.sum()))))
    return regions
