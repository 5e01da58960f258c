"""The folder of one run: what may be written into it, and how it stays whole."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from afr_clip.files import remove_abandoned, written_whole
from afr_clip.reports.record.identity import WITHOUT_INFLUENCE, differing_keys

MANIFEST = "manifest.json"


class RunFolderError(ValueError):
    """A run folder that cannot be used as asked."""


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with written_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole; NaN must have become ``null`` before."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table whole."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def open_run(folder: Path, *, resume: bool, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Make sure a run may write into a folder, and tidy up after one that was killed there.

    Args:
        folder: The run folder.
        resume: Whether an earlier run there is to be continued.
        config: The resolved config of this run.

    Returns:
        The manifest of the run that is continued; ``None`` where there is none.

    Raises:
        RunFolderError: If the folder holds another run that is not continued, or one with another config.
    """
    held = _held(folder)
    if held and not resume:
        can_go_on = "resume" in config
        advice = "Choose another, or continue a training with resume=true." if can_go_on else "Choose another."
        msg = f"run_dir must be new, got {folder}, which holds {held[0]} of a run. {advice}"
        raise RunFolderError(msg)
    remove_abandoned(folder)
    path = folder / MANIFEST
    if not (resume and path.exists()):
        return None
    earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    changed = [
        key
        for key in differing_keys(earlier["config"], config)
        if key not in WITHOUT_INFLUENCE and not key.startswith(_MAY_CHANGE_BELOW)
    ]
    if changed:
        msg = (
            f"A resumed run must have the config it was started with, got another {', '.join(changed)} than in "
            f"{path}. Run the same command, or choose another run_dir."
        )
        raise RunFolderError(msg)
    return earlier


def holds_run(folder: Path) -> bool:
    """Whether a folder holds what a run cannot lose, so that only the same run may go on in it."""
    return bool(_held(folder))


_NEVER_OVERWRITTEN = ("checkpoints", "results.csv", "scores.csv")
"""What a run cannot lose; a folder in which a run failed before that may be used again."""

_MAY_CHANGE_BELOW = ("protocol.roots.", "logger.")
"""Nodes whose keys may change when a run is resumed."""


def _held(folder: Path) -> list[str]:
    return [name for name in _NEVER_OVERWRITTEN if (folder / name).exists()]
