"""Ways in which a dataset names its images: by its folders, a CSV table, a ``meta.json``, or a JSON per category."""

import codecs
import csv
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

from afr_clip.data.disk.folders import IMAGE_SUFFIXES, is_hidden
from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.data.progress import tracked
from afr_clip.files import counted, first_few, shown

GOOD, DEFECT = "good", "defect"
"""Defect types in layouts where only the masks tell normal from anomalous images."""

MASK_NAME = re.compile(r"(?P<image>.+?)[ _.-](mask|masks|gt|label|seg|segmentation|ground[_-]?truth)", re.IGNORECASE)
"""Names of masks that lie next to their images."""

META_JSON = "meta.json"
META_JSON_KEYS = ("img_path", "mask_path", "cls_name", "specie_name", "anomaly")
CATEGORY_JSON_KEYS = ("category", "anomaly_class", "image_path", "mask_path")

FieldValues = tuple[tuple[str, str], ...]
"""The fields of a path template and their values in one path; usable as a key."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed image, before the listing is checked.

    Attributes:
        defect_type: Folder or label of the condition.
        mask: The mask that was found for it: a file, or a folder of masks that count together.
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
        normal_types: The types that count as normal, if it is the type that decides.
    """

    entries: tuple[Entry, ...]
    has_masks: bool
    masks: frozenset[Path] = frozenset()
    normal_types: tuple[str, ...] = ()


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
        train: Template of the images of the train split, where they lie differently.
        masks: Templates of the masks; the first one with a match wins. Empty means that there are no masks. One that
            ends with a slash matches folders, each with all the masks of an image.
        splits: Folder names of the splits that are not called by their own names.
        normal_types: Types that are not anomalous, in lower case.
        types: The only types that are read; empty reads every folder.
        fixed: Values of fields that ``image`` lacks; ``{root}`` in them is replaced by the name of the root folder.
        truth: What decides whether an image is anomalous.
    """

    marker: str
    image: str
    train: str = ""
    masks: tuple[str, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
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
            DataError: If a folder cannot be listed, two files differ only in their suffix, masks lie beside their
                images, or a mask that decides the truth cannot be decoded.
        """
        fixed = {name: composed(value.format(root=root.resolve().name)) for name, value in self.fixed.items()}
        if fixed.get("split", split) != split:
            return Listing((), has_masks=False)
        known = {"split": self.splits.get(split, split)}
        images = match_files(root, self.train if self.train and split == "train" else self.image, known)
        _refuse_masks_among(images.values(), root)
        masks = [(split_suffix(template)[0], match_files(root, template, known)) for template in self.masks]
        entries = []
        for key, path in tracked(list(images.items()), "Listing images"):
            values = fixed | known | dict(key)
            if not self.types or values["type"] in self.types:
                found = (files.get(field_values(template, values)) for template, files in masks)
                entries.append(self._entry(values, path, next(filter(None, found), None)))
        every_mask = frozenset(path for _, files in masks for path in files.values())
        normal = self.normal_types if self.truth is Truth.TYPE else ()
        return Listing(tuple(entries), self._has_masks(root), every_mask, normal)

    def _entry(self, values: Mapping[str, str], image: Path, mask: Path | None) -> Entry:
        if self.truth is Truth.TYPE:
            defect_type = values["type"]
            is_anomalous = defect_type.lower() not in self.normal_types
        elif self.truth is Truth.MASK_FILE:
            is_anomalous = mask is not None
            defect_type = DEFECT if is_anomalous else GOOD
        else:
            # An image without its mask counts as anomalous, and is then refused because the mask is missing.
            from afr_clip.data.disk.picture_files import read_mask  # noqa: PLC0415 - names need no OpenCV

            is_anomalous = mask is None or bool(read_mask(mask).any())
            defect_type = DEFECT if is_anomalous else GOOD
        return Entry(
            category=values["category"],
            defect_type=defect_type,
            is_anomalous=is_anomalous,
            image=image,
            mask=mask,
            mask_names=tuple(_mask_name(template, values) for template in self.masks) if mask is None else (),
        )

    def _has_masks(self, root: Path) -> bool:
        """Whether any ground-truth folder exists, even an empty one."""
        folders = (re.sub(r"(/\{\w+\})+$", "", template.rstrip("/").rpartition("/")[0]) for template in self.masks)
        patterns = (re.sub(r"\{\w+\}", "*", folder) for folder in folders)
        return any(path.is_dir() for pattern in patterns for path in (root.glob(pattern) if pattern else (root,)))


@dataclass(frozen=True)
class TableLayout:
    """A layout in which a CSV lists every image.

    ``image``, ``mask``, ``category``, ``split`` and ``type`` are templates over its columns.

    Attributes:
        table: Its path below the root; ``{split}`` in it is replaced by the split.
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
        object.__setattr__(self, "marker", self.marker or self.table.format(split="*"))

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
            DataError: If the table cannot be read, names an image twice, lacks a column that a template names, or
                holds a type without a name.
        """
        table = root / self.table.format(split=split)
        if "{split}" in self.table and not os.path.lexists(table):
            return Listing((), has_masks=False)
        rows = [row for row in self._rows(table) if self.split.format_map({"split": split, **row}) == split]
        entries = []
        for row in rows:
            image, label = self.image.format_map(row), self.type.format_map(row)
            if self.type_names and label not in self.type_names:
                msg = (
                    f"{table} must label every image with one of {sorted(self.type_names)}, got {label!r} "
                    f"for {image}. Restore the original."
                )
                raise DataError(msg)
            label = self.type_names.get(label, label)
            category, is_anomalous = self.category.format_map(row), label.lower() not in self.normal_types
            entries.append(_named_entry(root, category, label, is_anomalous, image, self.mask.format_map(row)))
        _refuse_repeated(entries, table)
        return Listing(tuple(entries), has_masks=any(entry.mask_names for entry in entries))

    def _rows(self, path: Path) -> list[dict[str, str]]:
        try:
            # Some headers have a space after each comma.
            lines = io.StringIO(read_text(path), newline="")
            rows = list(csv.DictReader(lines, skipinitialspace=True, restval=""))
        except csv.Error as error:
            msg = f"{shown(path)} is not a valid CSV table ({error}). Restore the original."
            raise DataError(msg) from error
        templates = (self.image, self.mask, self.category, self.split, self.type)
        needed = {name for template in templates for name in field_names(template)} - set(field_names(self.table))
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
        content = _json_object(path)
        same = [name for name in content if name.lower() == split]
        if len(same) > 1:
            msg = f"{shown(path)} must hold one split of a name, got {', '.join(map(repr, same))}. Generate it again."
            raise DataError(msg)
        categories: Any = content[same[0]] if same else {}
        entries = []
        for item in _meta_json_items(path, categories):
            is_anomalous = item["anomaly"] == 1
            label = item["specie_name"] or (DEFECT if is_anomalous else GOOD)
            entry = _named_entry(root, item["cls_name"], label, is_anomalous, item["img_path"], item["mask_path"])
            entries.append(entry)
        _refuse_repeated(entries, path)
        return Listing(tuple(entries), has_masks=any(entry.mask_names for entry in entries))


@dataclass(frozen=True)
class CategoryJsonLayout:
    """A layout in which a JSON file per category lists its images, as in Real-IAD; paths are relative to its folder.

    An image of a defective part that does not show the defect has no mask and is normal, as for the dataset's authors.

    .. code-block:: json

        {"test": [{"category": "audiojack", "anomaly_class": "AK", "image_path": "NG/AK/S0001/audiojack_C1.jpg",
                   "mask_path": "NG/AK/S0001/audiojack_C1.png"}]}

    Attributes:
        folder: Holds a folder of images for each category.
        tables: Glob patterns of the JSON files; the first one with a match is used.
        normal_class: The class of parts without a defect.
    """

    folder: str
    tables: tuple[str, ...]
    normal_class: str = "OK"

    @property
    def marker(self) -> str:
        """Glob pattern that identifies this layout below a root."""
        return f"{self.folder}/*"

    @property
    def where(self) -> str:
        """The paths or patterns that name the images, for use in error messages."""
        return f"{self.folder}, listed in {self.tables[0]}"

    @property
    def promises_masks(self) -> bool:
        """Whether it names masks."""
        return True

    def listing(self, root: Path, split: str) -> Listing:
        """List one split; only masks are looked for on disk.

        Raises:
            MissingDataError: If there are no JSON files.
            DataError: If one does not have the format above.
        """
        found = (sorted(root.glob(pattern)) for pattern in self.tables)
        tables = next(filter(None, found), None)
        if tables is None:
            msg = f"{shown(root)} must hold {' or '.join(self.tables)}, which list the images. Unpack them there."
            raise MissingDataError(msg)
        entries = []
        for table in tracked(tables, "Listing images"):
            for item in _category_json_items(table, split):
                is_anomalous = item["anomaly_class"] != self.normal_class and bool(item["mask_path"])
                label = item["anomaly_class"] if is_anomalous else self.normal_class
                folder = f"{self.folder}/{item['category']}"
                mask = f"{folder}/{item['mask_path']}" if item["mask_path"] else ""
                image = f"{folder}/{item['image_path']}"
                entries.append(_named_entry(root, item["category"], label, is_anomalous, image, mask))
        _refuse_repeated(entries, root / self.tables[0])
        return Listing(tuple(entries), has_masks=any(entry.is_anomalous for entry in entries))


Layout = TreeLayout | TableLayout | MetaJsonLayout | CategoryJsonLayout
"""How a dataset lies on disk."""


def _json_object(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"{shown(path)} is not valid JSON ({error}). Generate it again."
        raise DataError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} must hold an object with one key per split, got a {type(content).__name__}. Generate it again."
        raise DataError(msg)
    return content


def _category_json_items(path: Path, split: str) -> Iterator[Mapping[str, Any]]:
    items = _json_object(path).get(split, [])
    for item in items if isinstance(items, list) else [items]:
        is_item = isinstance(item, dict) and all(isinstance(item.get(key), str) for key in CATEGORY_JSON_KEYS[:3])
        if not is_item or not isinstance(item.get("mask_path", 0), str | None):
            msg = (
                f"Every image in {shown(path)} must have the keys {', '.join(CATEGORY_JSON_KEYS)}, where mask_path may "
                f"be null and the others are strings, got {json.dumps(item)[:200]}. Restore the original."
            )
            raise DataError(msg)
        yield item


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


def _mask_name(template: str, values: Mapping[str, str]) -> str:
    name = split_suffix(template)[0].format(**values)
    return name if name.endswith("/") else f"{name}.*"


def _named_entry(root: Path, category: str, label: str, is_anomalous: bool, image: str, mask_name: str) -> Entry:
    mask = on_disk(root, mask_name)
    return Entry(
        category=composed(category),
        defect_type=composed(label),
        is_anomalous=is_anomalous,
        image=on_disk(root, image),
        mask=mask if mask_name and os.path.isfile(mask) else None,  # noqa: PTH113 - Path.is_file may raise
        mask_names=(mask_name,) if mask_name else (),
    )


def _refuse_repeated(entries: Sequence[Entry], table: Path) -> None:
    counts = Counter(entry.image for entry in entries)
    image, number = counts.most_common(1)[0] if counts else (table, 1)
    if number > 1:
        msg = f"{shown(table)} must name each image once, but names {shown(image)} {number} times. Remove the others."
        raise DataError(msg)


def composed(name: str) -> str:
    """Return a name with composed letters: macOS stores the two dots of an umlaut apart, and keyboards do not."""
    return unicodedata.normalize("NFC", name)


def read_text(path: Path) -> str:
    """Read a file that names images, in UTF-8 or in UTF-16 with a byte order mark.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it cannot be read, or is in another encoding.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        msg = f"{shown(path)} is missing; it lists the images and their labels. Set dataset.root=DIR to its folder."
        raise MissingDataError(msg) from error
    except OSError as error:
        msg = f"Cannot read {shown(path)}: {error.strerror}. Check its permissions and the disk."
        raise DataError(msg) from error
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        msg = f"{shown(path)} must be UTF-8, but byte {error.start} is not. Save it as UTF-8."
        raise DataError(msg) from error


def on_disk(root: Path, name: str) -> Path:
    """Return the path below a root that a table means by a name, as it is spelt on the disk.

    Tables may come from Windows, with backslashes, or macOS, with decomposed letters, and may hold absolute paths.

    Raises:
        DataError: If the name cannot be a path here.
    """
    if "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
        msg = f"The table in {shown(root)} must name files, got {shown(name)!r}. Generate it again."
        raise DataError(msg)
    if re.match(r"[A-Za-z]:[\\/]|\\\\", name):
        msg = (
            f"The table in {shown(root)} must name files relative to its folder, got {name!r}, which is an absolute "
            f"path of Windows. Generate it again with relative paths."
        )
        raise DataError(msg)
    if "\\" in name and not os.path.lexists(root / name):
        name = name.replace("\\", "/")
    path = root / name
    for base in (os.path.abspath(root), os.path.realpath(root)):  # noqa: PTH100 - links stay as they are
        if path.is_absolute() and path.is_relative_to(base):
            path = root / path.relative_to(base)
    if name.isascii() or os.path.lexists(path) or not path.is_relative_to(root):
        return path
    spelt = root
    for part in path.relative_to(root).parts:
        names = os.listdir(spelt) if os.path.isdir(spelt) else []  # noqa: PTH112, PTH208 - Path.is_dir may raise
        spelt /= next((other for other in names if composed(other) == composed(part)), part)
    return spelt


def match_files(root: Path, template: str, known: Mapping[str, str]) -> dict[FieldValues, Path]:
    """Find the image files below a root whose paths follow a template.

    Hidden files, junk and files without an image suffix are skipped; links are followed, and one that leads nowhere
    is found as well.

    Args:
        template: For example ``"{category}/{split}/{type}/{stem}"``. Without a suffix it matches every kind of image,
            with a slash at its end folders. ``{stem:[0-9]+}`` matches only names that fit the regular expression.
        known: Fields whose value is given; the others match any name.

    Returns:
        The files by the values of the template's fields, in composed letters, ordered by path.

    Raises:
        DataError: If two files differ only in their suffix, or a folder cannot be listed.
    """
    stem, suffix = split_suffix(template)
    *folders, name = (
        re.compile(_filled(part, known, lambda field, form: f"(?P<{field}>{form or '.+'})"), re.DOTALL)
        for part in stem.rstrip("/").split("/")
    )
    wants_folders = stem.endswith("/")
    places: list[tuple[Path, dict[str, str]]] = [(root, {})]
    for shape in folders:
        places = [
            (Path(entry.path), {**values, **match.groupdict()})
            for folder, values in places
            for entry in _entries(folder)
            if entry.is_dir() and (match := shape.fullmatch(composed(entry.name)))
        ]
    found: dict[FieldValues, Path] = {}
    for folder, values in tracked(places, "Listing folders"):
        for entry in _entries(folder):
            path = Path(entry.path)
            match = name.fullmatch(composed(path.name if wants_folders else path.stem))
            is_right = wants_folders or path.suffix.lower() in (suffix or IMAGE_SUFFIXES)
            if match and is_right and entry.is_dir() == wants_folders:
                key = field_values(stem, {**known, **values, **match.groupdict()})
                if key in found:
                    msg = (
                        f"Two images in one folder must not share a name, got {shown(found[key])} and "
                        f"{shown(path.name)}. Masks are paired by name, so rename or remove one of them."
                    )
                    raise DataError(msg)
                found[key] = path
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder by name, without hidden files. Skipping an unreadable one silently would make numbers wrong."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        msg = f"Cannot list the folder {shown(folder)}: {error.strerror}. Check its permissions."
        raise DataError(msg) from error
    if entries and not os.access(folder, os.X_OK):
        msg = f"The folder {shown(folder)} can be listed, but not entered. Check its permissions."
        raise DataError(msg)
    return [entry for entry in entries if not is_hidden(entry.name)]


def _refuse_masks_among(images: Iterable[Path], root: Path) -> None:
    """Refuse masks that lie next to their images, because they would count as images themselves."""
    places = set(images)
    names = {path.with_suffix("") for path in places}
    masks = sorted(path for path in places if (image := image_of_mask(path)) is not None and image in names)
    if masks:
        msg = (
            f"Masks next to their images would count as images, and {shown(root)} seems to hold "
            f"{counted(len(masks), 'such file')}: {first_few([shown(path.relative_to(root)) for path in masks])}. "
            f"Move masks to a folder of their own (ground_truth/TYPE), or rename what is no mask."
        )
        raise DataError(msg)


def image_of_mask(path: Path) -> Path | None:
    """Return which image, without its suffix, a file would be the mask of by its name; ``None`` for other names.

    Example:
        >>> image_of_mask(Path("crack/000_mask.png"))
        PosixPath('crack/000')
    """
    match = MASK_NAME.fullmatch(path.stem)
    return None if match is None else path.with_name(match["image"])


@cache
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


@cache
def field_names(template: str) -> tuple[str, ...]:
    """Return the fields of a template, in order."""
    return tuple(name for _, name, _, _ in Formatter().parse(template) if name)


def field_values(template: str, values: Mapping[str, str]) -> FieldValues:
    """Return the values of a template's fields, as a key."""
    return tuple((name, values[name]) for name in field_names(template))


def _filled(template: str, known: Mapping[str, str], unknown: Callable[[str, str], str]) -> str:
    """Turn a template into a regular expression; ``unknown`` makes that of a field from its name and format."""
    parts = []
    for literal, name, form, _ in Formatter().parse(template):
        parts.append(re.escape(literal))
        if name:
            parts.append(re.escape(known[name]) if name in known else unknown(name, form or ""))
    return "".join(parts)
