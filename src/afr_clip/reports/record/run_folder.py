"""The folder of one run: what may be written into it. Files are replaced atomically."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from afr_clip.files import as_cell, remove_abandoned, written_whole
from afr_clip.reports.record.identity import WITHOUT_INFLUENCE, differing_keys, flat
from afr_clip.reports.record.schema import Setup, read_record

MANIFEST = "manifest.json"


class RunFolderError(ValueError):
    """A run folder that cannot be used as requested."""


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    with written_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically; it cannot hold NaN."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Replace a CSV file atomically; text that a spreadsheet would take for a formula is quoted, see `as_cell`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow([as_cell(value) if isinstance(value, str) else value for value in row])
    write_text(path, buffer.getvalue())


def open_run(folder: Path, *, resume: bool, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Make sure a run may write into a folder, and tidy up after a run that was killed there.

    Args:
        resume: Whether to continue an earlier run in it.
        config: The resolved config of this run.

    Returns:
        The manifest of the run to continue; ``None`` if there is none.

    Raises:
        RunFolderError: If the folder contains another run that is not to be continued, or one with another config.
    """
    held = [name for name in _NEVER_OVERWRITTEN if (folder / name).exists()]
    if held and not resume:
        advice = ", or continue a training with resume=true" if "resume" in config else ""
        msg = f"run_dir must be new, but {folder} contains {held[0]} of a run. Choose another run_dir{advice}."
        raise RunFolderError(msg)
    remove_abandoned(folder)
    path = folder / MANIFEST
    if not (resume and path.exists()):
        return None
    earlier = read_record(path, Setup)
    changed = [
        key
        for key in differing_keys(earlier["config"], config)
        if key not in WITHOUT_INFLUENCE and not key.startswith(_MAY_CHANGE_BELOW)
    ]
    if changed:
        old, new = flat(earlier["config"]), flat(config)
        values = "; ".join(f"{key} was {old.get(key)} and is {new.get(key)}" for key in changed)
        msg = (
            f"A resumed run must keep its config, but {', '.join(changed)} changed since {path} was written: {values}. "
            f"Run the same command, with the earlier values if the defaults have changed, or choose another run_dir."
        )
        raise RunFolderError(msg)
    return earlier


def holds_run(folder: Path) -> bool:
    """Whether a folder contains files that must not be lost, so that only the same run may continue in it."""
    return any((folder / name).exists() for name in _NEVER_OVERWRITTEN)


_NEVER_OVERWRITTEN = ("checkpoints", "results.csv", "scores.csv")
"""What a run cannot lose; a folder in which a run failed before that may be used again."""

_MAY_CHANGE_BELOW = ("protocol.roots.", "logger.")
"""Nodes whose keys may change when a run is resumed."""
