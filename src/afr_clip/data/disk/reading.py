"""From a dataset's name to the list of its samples."""

import difflib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from afr_clip.data.disk.layouts import dataset_row, prompt_name
from afr_clip.data.disk.listing import Entry, Layout, Listing
from afr_clip.data.disk.rows.row import DatasetRow
from afr_clip.data.disk.templates import IMAGE_SUFFIXES
from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.data.records import AnomalySample

logger = logging.getLogger(__name__)

NUM_SHOWN = 3
"""How many of many wrong files an error names."""


@dataclass(frozen=True)
class DatasetSpec:
    """Which images are wanted, and where they may be.

    Attributes:
        name: What results are reported under.
        layout: The row of ``afr_clip.data.disk.layouts`` that tells how the files lie.
        root: The dataset's folder; ``None`` looks for the row's public names below ``data_dir``.
        categories: The categories wanted; ``None`` for all.
        split: For example ``"test"``.
        data_dir: The folder that holds datasets; not needed where ``root`` is given.

    Raises:
        DataError: If ``categories`` is there but empty.
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
            object.__setattr__(self, "categories", tuple(self.categories))
            if not self.categories:
                msg = f"categories of dataset {self.name!r} must name at least one, got none. Leave them out for all."
                raise DataError(msg)


def find_root(spec: DatasetSpec) -> Path:
    """Find a dataset's folder.

    Args:
        spec: The dataset.

    Returns:
        ``spec.root``, or the first of the row's public folders that is there and looks right.

    Raises:
        MissingDataError: If there is no such folder; the message lists where it was looked for.
        DataError: If the layout is unknown.
    """
    row = dataset_row(spec.layout)
    candidates = _candidates(spec, row)
    for root in candidates:
        if layout_at(root, row) is not None:
            return root
    markers = " or ".join(dict.fromkeys(layout.marker for layout in row.layouts))
    looked_for = ", ".join(f"{root} ({_state(root)})" for root in candidates) or "nowhere: no folder was named"
    how = "dataset.root=DIR"
    if row.folders:
        how = f"data_dir=DIR or AFR_CLIP_DATA_DIR to the folder above {row.folders[0]}, or {how} to the dataset itself"
    msg = f"Dataset {spec.name!r} needs a folder with {markers} inside. Looked for {looked_for}. Set {how}."
    raise MissingDataError(msg)


def read_samples(spec: DatasetSpec) -> list[AnomalySample]:
    """List a dataset's samples, each anomalous one with its mask if the dataset has masks.

    Args:
        spec: The dataset.

    Returns:
        Samples ordered by category, defect type and file name.

    Raises:
        MissingDataError: If the root, a listed image or the mask of an anomalous image is missing, or if there are
            neither normal images nor masks.
        DataError: If there are no images, a category is unknown, or two images of a folder share a name.

    Example:
        >>> read_samples(DatasetSpec("mine", "folder", root=Path("nowhere")))
        Traceback (most recent call last):
        afr_clip.data.errors.MissingDataError: Dataset 'mine' needs a folder with ... Looked for nowhere (missing). ...
    """
    root = find_root(spec)
    listing, entries = list_entries(spec, root)
    _require_images(entries, spec)
    _check_masks(entries, listing, root)
    names = _names(entries, root)
    return sorted(
        (_sample(entry, spec, name) for entry, name in zip(entries, names, strict=True)),
        key=lambda sample: (sample.category, sample.defect_type, sample.image_path.name, sample.image_path),
    )


def list_entries(spec: DatasetSpec, root: Path) -> tuple[Listing, list[Entry]]:
    """List a dataset without asking whether its files are there and fit together.

    Args:
        spec: The dataset.
        root: Its folder, as ``find_root`` found it.

    Returns:
        The whole split, and those of its entries that belong to the wanted categories.

    Raises:
        MissingDataError: If the file that names the images is missing.
        DataError: If the listing makes no sense, is empty, lacks a wanted category, or leads out of ``root``.
    """
    layout = layout_at(root, dataset_row(spec.layout))
    assert layout is not None, "find_root returns only roots that hold a known layout"
    listing = layout.listing(root, spec.split)
    entries = _choose(listing.entries, spec, root, layout)
    _refuse_escapes(entries, spec, root)
    return listing, entries


def layout_at(root: Path, row: DatasetRow) -> Layout | None:
    """Tell in which of a row's forms a folder holds its dataset; ``None`` if in none."""
    return next((layout for layout in row.layouts if root.is_dir() and any(root.glob(layout.marker))), None)


def _candidates(spec: DatasetSpec, row: DatasetRow) -> list[Path]:
    if spec.root is not None:
        return [spec.root]
    return [spec.data_dir / folder for folder in row.folders] if spec.data_dir is not None else []


def _state(root: Path) -> str:
    return "present, but other files" if root.is_dir() else "missing"


def _choose(entries: Sequence[Entry], spec: DatasetSpec, root: Path, layout: Layout) -> list[Entry]:
    """Keep the wanted categories."""
    present = sorted({entry.category for entry in entries})
    if not present:
        msg = (
            f"Split {spec.split!r} of dataset {spec.name!r} must hold images, but {root} has none at {layout.where} "
            f"(suffixes {', '.join(sorted(IMAGE_SUFFIXES))}). Check the split and the folders."
        )
        raise DataError(msg)
    for wanted in spec.categories or ():
        if wanted not in present:
            nearest = difflib.get_close_matches(wanted, present, n=len(present), cutoff=0.0)
            msg = (
                f"Dataset {spec.name!r} has no category {wanted!r} in its {spec.split} split below {root}. "
                f"Choose from {', '.join(nearest)}."
            )
            raise DataError(msg)
    return [entry for entry in entries if spec.categories is None or entry.category in spec.categories]


def _require_images(entries: Sequence[Entry], spec: DatasetSpec) -> None:
    missing = [entry.image for entry in entries if not entry.image.is_file()]
    if missing:
        msg = (
            f"Every listed image of dataset {spec.name!r} must be on disk, but {len(missing)} of {len(entries)} are "
            f"missing; the first is {missing[0]}. Unpack the archive again, or choose categories that are there."
        )
        raise MissingDataError(msg)


def _check_masks(entries: Sequence[Entry], listing: Listing, root: Path) -> None:
    anomalous = [entry for entry in entries if entry.is_anomalous]
    if anomalous:
        _say_what_can_be_scored(root, has_normal=len(anomalous) < len(entries), has_masks=listing.has_masks)
    if not listing.has_masks:
        return
    bare = [entry for entry in anomalous if entry.mask is None]
    if bare:
        shown = "; ".join(f"{entry.image} (expected {' or '.join(entry.mask_names)})" for entry in bare[:NUM_SHOWN])
        msg = (
            f"Every anomalous image must have a mask of its own name below {root}, but {len(bare)} of {len(anomalous)} "
            f"have none: {shown}{'; ...' if len(bare) > NUM_SHOWN else ''}. Add the masks or remove the images."
        )
        raise MissingDataError(msg)
    stray = sorted(listing.masks - {entry.mask for entry in listing.entries})
    if stray and anomalous:
        logger.warning("%d masks below %s belong to no image; the first is %s.", len(stray), root, stray[0])


def _say_what_can_be_scored(root: Path, *, has_normal: bool, has_masks: bool) -> None:
    if not has_normal and not has_masks:
        msg = (
            f"A dataset must have normal images or masks to compare with, but {root} has only anomalous images and no "
            f"masks. Unpack the rest of it beside them."
        )
        raise MissingDataError(msg)
    if not has_masks:
        logger.warning("%s has no ground truth: only image-level results can be computed.", root)
    if not has_normal:
        logger.warning("%s has no normal images: only pixel-level results can be computed.", root)


def _refuse_escapes(entries: Sequence[Entry], spec: DatasetSpec, root: Path) -> None:
    """Refuse names that would lead out of a folder: results are written under them, and files are read by them."""
    for name in {spec.name, *(e.category for e in entries), *(e.defect_type for e in entries)}:
        if name in {"", ".", ".."} or "/" in name or "\\" in name:
            msg = f"Datasets, categories and defect types must be plain names, got {name!r} in {root}. Rename it."
            raise DataError(msg)
    for path in (path for entry in entries for path in (entry.image, entry.mask) if path is not None):
        if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root)):
            msg = f"Files of a dataset must lie below {root}, and {path} does not. Correct the table that names it."
            raise DataError(msg)


def _names(entries: Sequence[Entry], root: Path) -> list[str]:
    """Name what is written for each image: by the stem of its file, or by its whole path where others have the stem."""
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
                f"Images of one category and type must have names of their own, got {other} and {entry.image}. "
                f"Rename one of them."
            )
            raise DataError(msg)
    return names


def _sample(entry: Entry, spec: DatasetSpec, name: str) -> AnomalySample:
    return AnomalySample(
        dataset=spec.name,
        category=entry.category,
        defect_type=entry.defect_type,
        image_path=entry.image,
        mask_path=entry.mask if entry.is_anomalous else None,
        is_anomalous=entry.is_anomalous,
        prompt_name=prompt_name(spec.layout, entry.category),
        name=name,
    )
