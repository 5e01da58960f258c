"""From a dataset's name to the list of its samples."""

import difflib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from afr_clip.data.disk.folders import IMAGE_SUFFIXES
from afr_clip.data.disk.layouts import dataset_row, prompt_name
from afr_clip.data.disk.listing import Entry, Layout, Listing, composed
from afr_clip.data.disk.rows.row import DatasetRow
from afr_clip.data.errors import DataError, EmptySplitError, MissingDataError
from afr_clip.data.records import AnomalySample
from afr_clip.files import counted, shown

logger = logging.getLogger(__name__)

NUM_SHOWN = 3
"""Number of files that an error names at most."""


@dataclass(frozen=True)
class DatasetSpec:
    """Which images to read, and where they may be.

    Attributes:
        name: The name that results are reported under.
        layout: The row of ``afr_clip.data.disk.layouts`` that describes the files.
        root: The dataset's folder; ``None`` looks for the row's public folder names below ``data_dir``.
        categories: The categories to read; ``None`` for all.
        split: For example ``"test"``.
        data_dir: The folder that holds datasets; not needed if ``root`` is given.
    """

    name: str
    layout: str
    root: Path | None = None
    categories: tuple[str, ...] | None = None
    split: str = "test"
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        for folder in ("root", "data_dir"):
            if getattr(self, folder) is not None:
                object.__setattr__(self, folder, Path(getattr(self, folder)))
        if self.categories is not None:
            object.__setattr__(self, "categories", tuple(map(composed, self.categories)))
            if not self.categories:
                msg = (
                    f"categories of dataset {self.name!r} must not be empty. Leave the key out to read all categories."
                )
                raise DataError(msg)


def find_root(spec: DatasetSpec) -> Path:
    """Find a dataset's folder: ``spec.root``, or the first of the row's public folders that fits.

    Raises:
        MissingDataError: If there is no such folder; the message lists the places that were searched.
        DataError: If the layout is unknown.
    """
    row = dataset_row(spec.layout)
    candidates = [spec.root] if spec.root is not None else []
    if spec.root is None and spec.data_dir is not None:
        candidates = [spec.data_dir / folder for folder in row.folders]
    for root in candidates:
        if layout_at(root, row) is not None:
            return root
        if os.path.isdir(root) and not os.access(root, os.R_OK | os.X_OK):  # noqa: PTH112 - Path.is_dir may raise
            msg = f"Cannot list the folder {shown(root)} of dataset {spec.name!r}. Check its permissions."
            raise DataError(msg)
    markers = " or ".join(dict.fromkeys(layout.marker for layout in row.layouts))
    states = (f"{shown(root)} ({_state(root)})" for root in candidates)
    searched = f"Searched {', '.join(states)}." if candidates else "No folder was given."
    how = "dataset.root=DIR"
    if row.folders:
        how = f"data_dir=DIR or AFR_CLIP_DATA_DIR to the folder above {row.folders[0]}, or {how} to the dataset itself"
    msg = f"Dataset {spec.name!r} needs a folder that contains {markers}. {searched} Set {how}."
    raise MissingDataError(msg)


def _state(root: Path) -> str:
    if os.path.isdir(root):  # noqa: PTH112 - Path.is_dir may raise
        return "exists, but holds other files"
    return "a file" if os.path.isfile(root) else "missing"  # noqa: PTH113


def layout_at(root: Path, row: DatasetRow) -> Layout | None:
    """Return the first of a row's layouts that matches a folder, or ``None``."""
    if not os.path.isdir(root):  # noqa: PTH112 - Path.is_dir may raise
        return None
    return next((layout for layout in row.layouts if any(root.glob(layout.marker))), None)


def read_samples(spec: DatasetSpec) -> list[AnomalySample]:
    """List a dataset's samples, ordered by category, defect type and file name.

    Raises:
        MissingDataError: If the root, a listed image or the mask of an anomalous image is missing, or if there are
            neither normal images nor masks.
        DataError: If there are no images, a category is unknown, or two images of a folder share a name.

    Example:
        >>> read_samples(DatasetSpec("mine", "folder", root=Path("nowhere")))
        Traceback (most recent call last):
        afr_clip.data.errors.MissingDataError: Dataset 'mine' needs a folder ... Searched nowhere (missing). ...
    """
    root = find_root(spec)
    listing, entries = list_entries(spec, root)
    missing = [entry.image for entry in entries if not os.path.isfile(entry.image)]  # noqa: PTH113 - may raise
    if missing:
        msg = (
            f"Every listed image of dataset {spec.name!r} must be on disk, but {len(missing)} of {len(entries)} are "
            f"missing; the first is {shown(missing[0])}. Unpack the archive again, or choose other categories."
        )
        raise MissingDataError(msg)
    _check_masks(entries, listing, root)
    samples = [
        AnomalySample(
            dataset=spec.name,
            category=entry.category,
            defect_type=entry.defect_type,
            image_path=entry.image,
            mask_path=entry.mask if entry.is_anomalous else None,
            is_anomalous=entry.is_anomalous,
            prompt_name=prompt_name(spec.layout, entry.category),
            name=name,
        )
        for entry, name in zip(entries, _names(entries, root), strict=True)
    ]
    return sorted(samples, key=lambda one: (one.category, one.defect_type, one.image_path.name, one.image_path))


def list_entries(spec: DatasetSpec, root: Path) -> tuple[Listing, list[Entry]]:
    """List a dataset without checking that its files exist and fit together.

    Args:
        root: Its folder, as ``find_root`` found it.

    Returns:
        The whole split, and its entries in the chosen categories.

    Raises:
        MissingDataError: If the file that names the images is missing.
        EmptySplitError: If the split has no images.
        DataError: If the listing is malformed, lacks a chosen category, or points outside ``root``.
    """
    layout = layout_at(root, dataset_row(spec.layout))
    assert layout is not None, "find_root returns only roots with a known layout"
    listing = layout.listing(root, spec.split)
    present = sorted({entry.category for entry in listing.entries})
    if not present:
        msg = (
            f"Split {spec.split!r} of dataset {spec.name!r} must hold images, but {root} has none at {layout.where} "
            f"(suffixes {', '.join(sorted(IMAGE_SUFFIXES))}). Check the split and the folders."
        )
        raise EmptySplitError(msg)
    for wanted in spec.categories or ():
        if wanted not in present:
            nearest = difflib.get_close_matches(wanted, present, n=len(present), cutoff=0.0)
            msg = (
                f"Dataset {spec.name!r} has no category {wanted!r} in its {spec.split} split below {root}. "
                f"Choose from {', '.join(nearest)}."
            )
            raise DataError(msg)
    entries = [one for one in listing.entries if spec.categories is None or one.category in spec.categories]
    _refuse_escapes(entries, spec, root)
    return listing, entries


def _check_masks(entries: Sequence[Entry], listing: Listing, root: Path) -> None:
    anomalous = [entry for entry in entries if entry.is_anomalous]
    has_normal = len(anomalous) < len(entries)
    if anomalous and not has_normal and not listing.has_masks:
        rest = "Unpack the rest of the dataset into the same folder."
        if listing.normal_types:
            found = ", ".join(shown(name) for name in sorted({entry.defect_type for entry in entries})[:NUM_SHOWN])
            rest = (
                f"Only images of the type {' or '.join(listing.normal_types)} count as normal; here are {found}. {rest}"
            )
        msg = (
            f"A dataset needs normal images or masks, but {shown(root)} has only anomalous images and no masks. {rest}"
        )
        raise MissingDataError(msg)
    if anomalous and not listing.has_masks:
        logger.warning("%s has no ground truth: only image-level results can be computed.", root)
    if anomalous and not has_normal:
        logger.warning("%s has no normal images: only pixel-level results can be computed.", root)
    if not listing.has_masks:
        return
    bare = [entry for entry in anomalous if entry.mask is None]
    if bare:
        names = (f"{shown(one.image)} (expected {shown(' or '.join(one.mask_names))})" for one in bare[:NUM_SHOWN])
        msg = (
            f"Every anomalous image must have a mask below {shown(root)}, but {len(bare)} of {len(anomalous)} "
            f"have none: {'; '.join(names)}{'; ...' if len(bare) > NUM_SHOWN else ''}. Add the masks or remove the "
            f"images."
        )
        raise MissingDataError(msg)
    stray = sorted(listing.masks - {entry.mask for entry in listing.entries})
    if stray and anomalous:
        belong = counted(len(stray), "mask belongs", "masks belong")
        logger.warning("%s to no image below %s; the first is %s.", belong, root, stray[0])


def _refuse_escapes(entries: Sequence[Entry], spec: DatasetSpec, root: Path) -> None:
    # Results are written to folders of these names, and files are read from these paths.
    for name in {spec.name, *(e.category for e in entries), *(e.defect_type for e in entries)}:
        if name in {"", ".", ".."} or "/" in name or "\\" in name:
            msg = (
                f"Names of datasets, categories and defect types must not be paths, got {name!r} in {root}. Rename it."
            )
            raise DataError(msg)
    for path in (path for entry in entries for path in (entry.image, entry.mask) if path is not None):
        if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root)):  # noqa: PTH100 - links may lead out
            msg = (
                f"Files of a dataset must lie below {shown(root)}, but {shown(path)} does not. Correct the table that "
                f"names it."
            )
            raise DataError(msg)


def _names(entries: Sequence[Entry], root: Path) -> list[str]:
    """Name each image's output files: by its stem, or by its path if other images of its category have that stem."""
    keys = [(entry.category, entry.defect_type, entry.image.stem) for entry in entries]
    num_alike = Counter(keys)
    names = [
        "_".join(entry.image.relative_to(root).with_suffix("").parts) if num_alike[key] > 1 else entry.image.stem
        for key, entry in zip(keys, entries, strict=True)
    ]
    taken: dict[tuple[str, str, str], Path] = {}
    for (category, defect_type, _), name, entry in zip(keys, names, entries, strict=True):
        other = taken.setdefault((category, defect_type, name), entry.image)
        if other != entry.image:
            msg = (
                f"Images of one category and type must have different names, got {shown(other)} and "
                f"{shown(entry.image)}. Rename one of them."
            )
            raise DataError(msg)
    return names
