"""Three ways in which a dataset names its images: by its folders, by a CSV table, and by a ``meta.json``."""

import csv
import glob
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

from afr_clip.data.disk.decode import decode_mask
from afr_clip.data.disk.folders import IMAGE_SUFFIXES, is_hidden
from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.data.progress import tracked

GOOD, DEFECT = "good", "defect"
"""Defect types in layouts where only the masks tell normal from anomalous images."""

META_JSON = "meta.json"
META_JSON_KEYS = ("img_path", "mask_path", "cls_name", "specie_name", "anomaly")

FieldValues = tuple[tuple[str, str], ...]
"""The fields of a path template and their values in one path; usable as a key."""


@dataclass(frozen=True)
class Entry:
    """One listed image, before the listing is checked.

    Attributes:
        defect_type: Folder or label of the condition.
        mask: The mask that was found for it.
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
    """The contents of one split of a dataset.

    Attributes:
        entries: The images, in no particular order.
        has_masks: Whether the dataset comes with ground truth at all.
        masks: Every mask file of the split, paired with an image or not.
    """

    entries: tuple[Entry, ...]
    has_masks: bool
    masks: frozenset[Path] = frozenset()


class Truth(Enum):
    """What decides whether an image of a tree is anomalous."""

    TYPE = "its type"
    MASK_FILE = "whether it has a mask"
    MASK_PIXELS = "whether its mask marks a pixel"


@dataclass(frozen=True)
class TreeLayout:
    """A layout in which folders and file names say everything.

    Templates are paths below the root as ``match_files`` takes them. All have a ``{stem}``; other fields are
    ``category``, ``split``, ``type``, and any that images and masks share.

    Attributes:
        marker: Glob pattern that identifies this layout below a root.
        masks: Templates of the masks; the first one with a matching file wins. Empty means that there are no masks.
        normal_types: Types that are not anomalous, in lower case.
        types: The only types that are read; empty reads every folder.
        fixed: Values of fields that ``image`` lacks; ``{root}`` in them is replaced by the name of the root folder.
        truth: What decides whether an image is anomalous.
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
        """The path or pattern that names the images, for use in error messages."""
        return self.image

    @property
    def promises_masks(self) -> bool:
        """Whether ground truth belongs to this layout."""
        return bool(self.masks)

    def listing(self, root: Path, split: str) -> Listing:
        """List one split, with all categories; masks are paired with images by name.

        Raises:
            DataError: If two files differ only in their suffix, or a mask that decides the truth cannot be decoded.
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
        elif self.truth is Truth.MASK_FILE:
            is_anomalous = mask is not None
            defect_type = DEFECT if is_anomalous else GOOD
        else:
            # An image without its mask counts as anomalous, and is then refused because the mask is missing.
            is_anomalous = mask is None or bool(decode_mask(mask).any())
            defect_type = DEFECT if is_anomalous else GOOD
        return Entry(
            category=values["category"],
            defect_type=defect_type,
            is_anomalous=is_anomalous,
            image=image,
            mask=mask,
            mask_names=tuple(f"{split_suffix(template)[0].format(**values)}.*" for template in self.masks),
        )

    def _has_masks(self, root: Path) -> bool:
        """Whether any ground-truth folder exists, even an empty one."""
        folders = (re.sub(r"(/\{\w+\})+$", "", template.rpartition("/")[0]) for template in self.masks)
        patterns = (re.sub(r"\{\w+\}", "*", folder) for folder in folders)
        return any(path.is_dir() for pattern in patterns for path in (root.glob(pattern) if pattern else (root,)))


@dataclass(frozen=True)
class TableLayout:
    """A layout in which a CSV lists every image.

    ``image``, ``mask``, ``category``, ``split`` and ``type`` are templates over its columns.

    Attributes:
        normal_types: Types that are not anomalous, in lower case.
        mask: Path of the mask; empty for a table without masks.
        type_names: Names for the values of ``type``; other values are refused. Empty takes the values as they are.
        marker: Glob pattern that identifies this layout below a root; defaults to the table.
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
        """The path or pattern that names the images, for use in error messages."""
        return self.table

    @property
    def promises_masks(self) -> bool:
        """Whether the table names masks."""
        return bool(self.mask)

    def listing(self, root: Path, split: str) -> Listing:
        """List one split of the table; only masks are looked for on disk.

        Raises:
            MissingDataError: If there is no table.
            DataError: If the table lacks a column that a template names, or holds a type without a name.
        """
        rows = [row for row in self._rows(root / self.table) if self.split.format_map(row) == split]
        entries = []
        for row in rows:
            image, label = self.image.format_map(row), self.type.format_map(row)
            if self.type_names and label not in self.type_names:
                msg = (
                    f"{root / self.table} must label every image with one of {sorted(self.type_names)}, got {label!r} "
                    f"for {image}. Restore the original."
                )
                raise DataError(msg)
            label = self.type_names.get(label, label)
            category, is_anomalous = self.category.format_map(row), label.lower() not in self.normal_types
            entries.append(_named_entry(root, category, label, is_anomalous, image, self.mask.format_map(row)))
        return Listing(tuple(entries), has_masks=any(entry.mask_names for entry in entries))

    def _rows(self, path: Path) -> list[dict[str, str]]:
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                # Some headers have a space after each comma.
                rows = list(csv.DictReader(file, skipinitialspace=True, restval=""))
        except FileNotFoundError as error:
            msg = f"The table {path} is missing; it lists the images and their labels. Restore the original."
            raise MissingDataError(msg) from error
        templates = (self.image, self.mask, self.category, self.split, self.type)
        needed = {name for template in templates for name in field_names(template)}
        lacking = sorted(needed - set(rows[0] if rows else ()))
        if lacking:
            msg = f"{path} must have rows with the columns {sorted(needed)}, but lacks {lacking}. Restore the original."
            raise DataError(msg)
        return rows


@dataclass(frozen=True)
class MetaJsonLayout:
    """A layout in which one ``meta.json`` lists every image, as in AnomalyCLIP; paths are relative to its folder.

    .. code-block:: json

        {"test": {"bottle": [{"img_path": "bottle/test/broken/000.png", "cls_name": "bottle", "specie_name": "broken",
                              "mask_path": "bottle/ground_truth/broken/000.png", "anomaly": 1}]}}
    """

    marker: str = META_JSON

    @property
    def where(self) -> str:
        """The path or pattern that names the images, for use in error messages."""
        return self.marker

    @property
    def promises_masks(self) -> bool:
        """Whether it may name masks."""
        return True

    def listing(self, root: Path, split: str) -> Listing:
        """List one split; only masks are looked for on disk.

        Upper and lower case of the split do not matter, because some generators write ``Test``.

        Raises:
            MissingDataError: If there is no such file.
            DataError: If the file does not have the format above.
        """
        path = root / self.marker
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            msg = f"{path} is missing; it lists the images and their labels. Set dataset.root=DIR to its folder."
            raise MissingDataError(msg) from error
        except ValueError as error:
            msg = f"{path} is not valid JSON ({error}). Generate it again."
            raise DataError(msg) from error
        if not isinstance(content, dict):
            msg = (
                f"{path} must hold an object with one key per split, got a {type(content).__name__}. Generate it again."
            )
            raise DataError(msg)
        categories: Any = next((found for name, found in content.items() if name.lower() == split), {})
        entries = []
        for item in _meta_json_items(path, categories):
            is_anomalous = item["anomaly"] == 1
            label = item["specie_name"] or (DEFECT if is_anomalous else GOOD)
            entry = _named_entry(root, item["cls_name"], label, is_anomalous, item["img_path"], item["mask_path"])
            entries.append(entry)
        return Listing(tuple(entries), has_masks=any(entry.mask_names for entry in entries))


Layout = TreeLayout | TableLayout | MetaJsonLayout
"""How a dataset lies on disk."""


def _meta_json_items(path: Path, categories: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401 - any JSON
    groups = categories.values() if isinstance(categories, dict) else [categories]
    for item in (item for group in groups for item in (group if isinstance(group, list) else [group])):
        has_keys = isinstance(item, dict) and set(META_JSON_KEYS) <= item.keys() and item["anomaly"] in (0, 1)
        if not has_keys or not all(isinstance(item[key], str) for key in META_JSON_KEYS[:4]):
            msg = (
                f"Every image in {path} must have the keys {', '.join(META_JSON_KEYS)}, where anomaly is 0 or 1 and "
                f"the others are strings, got {json.dumps(item)[:200]}. Generate the file again."
            )
            raise DataError(msg)
        yield item


def _named_entry(root: Path, category: str, label: str, is_anomalous: bool, image: str, mask_name: str) -> Entry:
    mask = root / mask_name
    return Entry(
        category=category,
        defect_type=label,
        is_anomalous=is_anomalous,
        image=root / image,
        mask=mask if mask_name and mask.is_file() else None,
        mask_names=(mask_name,) if mask_name else (),
    )


def match_files(root: Path, template: str, known: Mapping[str, str]) -> dict[FieldValues, Path]:
    """Find the image files below a root whose paths follow a template.

    Hidden files, ``__MACOSX`` folders and files without an image suffix are skipped.

    Args:
        template: For example ``"{category}/{split}/{type}/{stem}"``. Without a suffix it matches every kind of image.
            ``{stem:[0-9]+}`` matches only names that fit the regular expression.
        known: Fields whose value is given; the others match any name.

    Returns:
        The files by the values of the template's fields, ordered by path.

    Raises:
        DataError: If two files differ only in their suffix.
    """
    stem, suffix = split_suffix(template)
    shape = re.compile(_filled(stem, known, re.escape, lambda name, form: f"(?P<{name}>{form or '[^/]+'})"))
    pattern = _filled(stem, known, glob.escape, lambda name, form: "*")
    found: dict[FieldValues, Path] = {}
    for path in sorted(root.glob(f"{pattern}.*")):
        match = shape.fullmatch(path.relative_to(root).with_suffix("").as_posix())
        if match and is_image(path, root) and path.suffix.lower() in (suffix or IMAGE_SUFFIXES):
            key = field_values(stem, {**known, **match.groupdict()})
            if key in found:
                msg = (
                    f"Two images in one folder must not share a name, got {found[key]} and {path.name}. "
                    f"Masks are paired by name, so rename or remove one of them."
                )
                raise DataError(msg)
            found[key] = path
    return found


def split_suffix(template: str) -> tuple[str, frozenset[str]]:
    """Split a template into its stem and the image suffixes it asks for, in lower case; none means any.

    Example:
        >>> split_suffix("Imgs/{stem}.jpg"), split_suffix("Imgs/{stem}")
        (('Imgs/{stem}', frozenset({'.jpg'})), ('Imgs/{stem}', frozenset()))
    """
    suffix = PurePosixPath(template).suffix
    if suffix.lower() in IMAGE_SUFFIXES:
        return template.removesuffix(suffix), frozenset({suffix.lower()})
    return template, frozenset()


def field_names(template: str) -> tuple[str, ...]:
    """Return the fields of a template, in order."""
    return tuple(name for _, name, _, _ in Formatter().parse(template) if name)


def field_values(template: str, values: Mapping[str, str]) -> FieldValues:
    """Return the values of a template's fields, as a key."""
    return tuple((name, values[name]) for name in field_names(template))


def _filled(
    template: str, known: Mapping[str, str], escape: Callable[[str], str], unknown: Callable[[str, str], str]
) -> str:
    """Turn a template into a pattern; ``unknown`` makes the pattern of a field from its name and format."""
    parts = []
    for literal, name, form, _ in Formatter().parse(template):
        parts.append(escape(literal))
        if name:
            parts.append(escape(known[name]) if name in known else unknown(name, form or ""))
    return "".join(parts)


def is_image(path: Path, root: Path) -> bool:
    """Tell whether a file has an image suffix, and no part of its path below the root is hidden or junk."""
    hidden = any(is_hidden(part) for part in path.relative_to(root).parts)
    return not hidden and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
