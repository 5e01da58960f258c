"""Find the files below folders, and what cannot be read there."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp"})

JUNK = frozenset(
    {
        "__MACOSX",
        "Thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "@eaDir",
        "lost+found",
        "$RECYCLE.BIN",
        "System Volume Information",
    }
)
"""What operating systems leave in folders, apart from hidden files."""

OUTPUT_FOLDERS = frozenset(
    {
        *("maps", "masks", "overlays", "thumbnails", "annotations", "figures", "heat_maps"),
        *("mlflow", "tensorboard", "wandb"),
    }
)
"""Folders of a run that hold pictures."""


@dataclass
class Found:
    """What was found below some folders.

    Attributes:
        files: Every file that is neither hidden nor junk, once even if several links lead to it.
        unreadable: Folders that cannot be listed.
        broken: Links that lead nowhere.
        outputs: Folders that a run wrote pictures to; they are not entered.
    """

    files: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)
    broken: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)


def walk(places: list[Path]) -> Found:
    """Find the files below folders, following links, and among the given files.

    Hidden files and folders are only found if they are given themselves.
    """
    found = Found()
    seen: set[str] = set()
    waiting, links = list(reversed(places)), list[Path]()
    around = {str(above) for place in places for above in Path(os.path.realpath(place)).parents}
    while waiting or links:
        # Links come last: what they lead to may also be found under its own name.
        is_link = not waiting
        place = links.pop() if is_link else waiting.pop()
        real = os.path.realpath(place)
        if real in seen or (is_link and real in around):
            continue
        seen.add(real)
        try:
            if any(map(is_output, (place, Path(real)))):
                found.outputs.append(place)
            elif place.is_file():
                found.files.append(place)
            elif place.is_dir():
                for entry in sorted(os.scandir(place), key=lambda entry: entry.name, reverse=True):
                    if not is_hidden(entry.name):
                        (links if entry.is_symlink() else waiting).append(Path(entry.path))
            elif place.is_symlink():
                found.broken.append(place)
        except OSError:
            # If a folder can be listed but not entered, name it instead of everything in it.
            closed = place if os.path.isdir(place) else place.parent  # noqa: PTH112 - Path.is_dir raises too
            found.unreadable += [closed] if closed not in found.unreadable else []
    return found


def is_hidden(name: str) -> bool:
    """Tell whether a name is hidden or that of an operating system's file."""
    return name.startswith(".") or name in JUNK


def is_output(place: Path) -> bool:
    """Tell whether a file or folder lies where a run writes pictures."""
    return any(path.name in OUTPUT_FOLDERS and _is_run(path.parent) for path in (place, *place.parents))


def _is_run(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"command", "overrides", "config"} <= manifest.keys()
