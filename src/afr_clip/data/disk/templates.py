"""Paths with holes: find the image files below a folder whose paths follow a template."""

import glob
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from string import Formatter

from afr_clip.data.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

FieldValues = tuple[tuple[str, str], ...]
"""The fields of a template and what they stand for in one path; usable as a key."""


def match_files(root: Path, template: str, known: Mapping[str, str]) -> dict[FieldValues, Path]:
    """Find the image files below a root whose paths follow a template.

    Hidden files, ``__MACOSX`` folders and files without an image suffix are passed over.

    Args:
        root: Where the template starts.
        template: For example ``"{category}/{split}/{type}/{stem}"``. Without a suffix it stands for every kind of
            image, with one for that kind alone. ``{stem:[0-9]+}`` matches only names of the expression's form.
        known: Fields whose value is given; the others match any name.

    Returns:
        Each file under the values of the template's fields, in order of the paths.

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
                    f"Two images of one folder must not share a name, got {found[key]} and {path.name}. "
                    f"Masks are paired by name: rename or remove one of them."
                )
                raise DataError(msg)
            found[key] = path
    return found


def split_suffix(template: str) -> tuple[str, frozenset[str]]:
    """Part a template from the suffix it demands.

    Args:
        template: A path with holes.

    Returns:
        The template without suffix, and the suffix in lower case; none where it takes every kind of image.

    Example:
        >>> split_suffix("Imgs/{stem}.jpg"), split_suffix("Imgs/{stem}")
        (('Imgs/{stem}', frozenset({'.jpg'})), ('Imgs/{stem}', frozenset()))
    """
    suffix = PurePosixPath(template).suffix
    if suffix.lower() in IMAGE_SUFFIXES:
        return template.removesuffix(suffix), frozenset({suffix.lower()})
    return template, frozenset()


def field_names(template: str) -> tuple[str, ...]:
    """Name the holes of a template, in their order."""
    return tuple(name for _, name, _, _ in Formatter().parse(template) if name)


def field_values(template: str, values: Mapping[str, str]) -> FieldValues:
    """Choose the values that a template has holes for; usable as a key."""
    return tuple((name, values[name]) for name in field_names(template))


def _filled(
    template: str, known: Mapping[str, str], escape: Callable[[str], str], unknown: Callable[[str, str], str]
) -> str:
    """Write a pattern: literals and known fields escaped, each other field as ``unknown`` says from name and form."""
    parts = []
    for literal, name, form, _ in Formatter().parse(template):
        parts.append(escape(literal))
        if name:
            parts.append(escape(known[name]) if name in known else unknown(name, form or ""))
    return "".join(parts)


def is_image(path: Path, root: Path) -> bool:
    """Tell whether a file below a root counts as an image.

    Args:
        path: The file.
        root: What lies above it does not matter.

    Returns:
        Whether it has an image's suffix and neither it nor a folder of it is hidden or ``__MACOSX``.
    """
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts)
    return not hidden and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
