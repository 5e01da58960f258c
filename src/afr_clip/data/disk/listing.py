"""Two ways in which a dataset lists its images: by the names of files in folders, and by a table."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol, runtime_checkable

from afr_clip.data.disk.decode import decode_mask
from afr_clip.data.disk.templates import field_names, field_values, match_files, split_suffix
from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.data.progress import tracked

GOOD, DEFECT = "good", "defect"
"""Types of the images of a layout that tells them by their masks."""


@dataclass(frozen=True)
class Entry:
    """One listed image, before anybody asks whether the listing makes sense.

    Attributes:
        category: Object or texture kind.
        defect_type: Folder or label of the condition.
        is_anomalous: Image-level truth.
        image: Where the image should be.
        mask: The mask found for it, if any.
        mask_names: Where a mask was looked for, relative to the root.
    """

    category: str
    defect_type: str
    is_anomalous: bool
    image: Path
    mask: Path | None
    mask_names: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """What one split of a dataset holds.

    Attributes:
        entries: The images, in no promised order.
        has_masks: Whether the dataset comes with ground truth at all.
        masks: Every mask file that belongs to the listing, paired or not.
    """

    entries: tuple[Entry, ...]
    has_masks: bool
    masks: frozenset[Path] = frozenset()


@runtime_checkable
class Layout(Protocol):
    """A form in which a dataset is found on a disk."""

    @property
    def marker(self) -> str:
        """Glob pattern whose presence below a root tells this layout."""
        ...

    @property
    def where(self) -> str:
        """Where images are named, for errors."""
        ...

    @property
    def promises_masks(self) -> bool:
        """Whether ground truth belongs to this form."""
        ...

    def listing(self, root: Path, split: str) -> Listing:
        """List one split below a root."""
        ...


class Truth(Enum):
    """What tells whether an image of a tree is anomalous."""

    TYPE = "its type"
    MASK_FILE = "whether it has a mask"
    MASK_PIXELS = "whether its mask marks a pixel"


@dataclass(frozen=True)
class TreeLayout:
    """Folders and file names say everything.

    Templates are paths below the root as ``match_files`` takes them. A tree whose images have types tells them apart by
    ``{type}``, all have ``{stem}``; other fields are ``category``, ``split``, and whatever images and masks share.

    Attributes:
        marker: Glob pattern whose presence below a root tells this layout.
        image: Template of the images.
        masks: Templates of the masks; the first that a file answers to is taken. None means that there are no masks.
        normal_types: Types that are not anomalous, in lower case.
        types: The only types that count; empty lets every folder count.
        fixed: Values of fields that ``image`` lacks; ``{root}`` in them stands for the root folder's own name.
        truth: What tells whether an image is anomalous.
    """

    marker: str
    image: str
    masks: tuple[str, ...] = ()
    normal_types: tuple[str, ...] = ("good",)
    types: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    truth: Truth = Truth.TYPE

    @property
    def where(self) -> str:
        """The template of the images."""
        return self.image

    @property
    def promises_masks(self) -> bool:
        """Whether there are templates of masks."""
        return bool(self.masks)

    def listing(self, root: Path, split: str) -> Listing:
        """List one split below a root.

        Args:
            root: The dataset's folder.
            split: For example ``"test"``.

        Returns:
            All categories; masks paired with images by name.

        Raises:
            DataError: If two files differ only in their suffix, or a mask that must tell the truth cannot be decoded.
        """
        fixed = {name: value.format(root=root.resolve().name) for name, value in self.fixed.items()}
        if fixed.get("split", split) != split:
            return Listing((), has_masks=False)
        images = match_files(root, self.image, {"split": split})
        masks = [(split_suffix(template)[0], match_files(root, template, {"split": split})) for template in self.masks]
        entries = []
        for key, path in tracked(list(images.items()), "Listing images"):
            values = fixed | {"split": split} | dict(key)
            if not self.types or values["type"] in self.types:
                found = (files.get(field_values(template, values)) for template, files in masks)
                entries.append(self._entry(values, path, next(filter(None, found), None)))
        every_mask = frozenset(path for _, files in masks for path in files.values())
        return Listing(tuple(entries), has_masks=self._has_masks(root), masks=every_mask)

    def _entry(self, values: Mapping[str, str], image: Path, mask: Path | None) -> Entry:
        if self.truth is Truth.TYPE:
            defect_type = values["type"]
            is_anomalous = defect_type.lower() not in self.normal_types
        else:
            is_anomalous = self._is_marked(mask)
            defect_type = DEFECT if is_anomalous else GOOD
        return Entry(
            category=values["category"],
            defect_type=defect_type,
            is_anomalous=is_anomalous,
            image=image,
            mask=mask,
            mask_names=tuple(f"{split_suffix(template)[0].format(**values)}.*" for template in self.masks),
        )

    def _is_marked(self, mask: Path | None) -> bool:
        if self.truth is Truth.MASK_FILE:
            return mask is not None
        # Without its mask nothing is known of an image; as an anomalous one it is refused for lack of it.
        return mask is None or bool(decode_mask(mask).any())

    def _has_masks(self, root: Path) -> bool:
        """Tell whether any ground-truth folder exists, be it empty."""
        folders = (re.sub(r"(/\{\w+\})+$", "", template.rpartition("/")[0]) for template in self.masks)
        patterns = (re.sub(r"\{\w+\}", "*", folder) for folder in folders)
        return any(path.is_dir() for pattern in patterns for path in (root.glob(pattern) if pattern else (root,)))


@dataclass(frozen=True)
class TableLayout:
    """A CSV names every image.

    ``image``, ``mask``, ``category``, ``split`` and ``type`` are templates over its columns.

    Attributes:
        table: The CSV below the root.
        image: Path of the image.
        category: The category.
        split: The split.
        type: The condition.
        normal_types: Types that are not anomalous, in lower case.
        mask: Path of the mask; empty for a table without masks.
        type_names: What the values of ``type`` are called; then others are refused. Empty takes any value as it is.
        marker: Glob pattern whose presence below a root tells this layout; empty stands for the table.
    """

    table: str
    image: str
    category: str
    split: str
    type: str
    normal_types: tuple[str, ...]
    mask: str = ""
    type_names: Mapping[str, str] = field(default_factory=dict)
    marker: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "marker", self.marker or self.table)

    @property
    def where(self) -> str:
        """The table."""
        return self.table

    @property
    def promises_masks(self) -> bool:
        """Whether the table names masks."""
        return bool(self.mask)

    def listing(self, root: Path, split: str) -> Listing:
        """List one split of the table.

        Args:
            root: The dataset's folder.
            split: For example ``"test"``.

        Returns:
            All categories; whether the files exist is not looked at, except for masks.

        Raises:
            MissingDataError: If there is no table.
            DataError: If the table lacks a column that a template names, or holds a type that has no name.
        """
        rows = [row for row in self._rows(root / self.table) if self.split.format_map(row) == split]
        entries = tuple(self._entry(root, row) for row in rows)
        return Listing(entries, has_masks=any(any(entry.mask_names) for entry in entries))

    def _rows(self, path: Path) -> list[dict[str, str]]:
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                # Some headers have a space after each comma.
                rows = list(csv.DictReader(file, skipinitialspace=True, restval=""))
        except FileNotFoundError as error:
            msg = f"{path} must say what the images show, but there is no such file. Restore the original."
            raise MissingDataError(msg) from error
        templates = (self.image, self.mask, self.category, self.split, self.type)
        needed = {name for template in templates for name in field_names(template)}
        lacking = sorted(needed - set(rows[0] if rows else ()))
        if lacking:
            msg = f"{path} must have rows with the columns {sorted(needed)}, but lacks {lacking}. Restore the original."
            raise DataError(msg)
        return rows

    def _entry(self, root: Path, row: Mapping[str, str]) -> Entry:
        image, mask_name = self.image.format_map(row), self.mask.format_map(row)
        label, mask = self._label(root, row), root / mask_name
        return Entry(
            category=self.category.format_map(row),
            defect_type=label,
            is_anomalous=label.lower() not in self.normal_types,
            image=root / image,
            mask=mask if mask_name and mask.is_file() else None,
            mask_names=(mask_name,) if mask_name else (),
        )

    def _label(self, root: Path, row: Mapping[str, str]) -> str:
        value = self.type.format_map(row)
        if self.type_names and value not in self.type_names:
            msg = (
                f"{root / self.table} must label every image with one of {sorted(self.type_names)}, got {value!r} for "
                f"{self.image.format_map(row)}. Restore the original."
            )
            raise DataError(msg)
        return self.type_names.get(value, value)
