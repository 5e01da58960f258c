"""The folder of one run: which process writes into it, and what may be written. Files are replaced atomically.

What is on disk at any moment:

* ``.lock`` is held by the one process that writes, and the system releases it when that process ends.
* ``manifest.json`` has ``finished: null`` until everything else is written, then the time.
* A training can lose nothing once it has ``checkpoints``: it is resumed, and repeats what came after them.
* A prediction can lose nothing once it has ``scores.csv``, where each score stands before its map is written.
* An evaluation that is not finished is repeated; what it left is removed first.
"""

import csv
import errno
import io
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from afr_clip.files import LogFile, as_cell, is_running, remove_abandoned, written_whole
from afr_clip.reports.record.identity import WITHOUT_INFLUENCE, differing_keys, flat
from afr_clip.reports.record.schema import Setup, read_record

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"

LOCK, HOLDER = ".lock", ".lock.json"
"""The lock of a folder, and the process that took it last."""

ORPHANS_END_WITHIN = 10.0
"""Seconds for which the loading processes of a killed run may keep its lock."""


class RunFolderError(ValueError):
    """A run folder that cannot be used as requested."""


_held: dict[Path, FileLock] = {}
"""The locks of this process, by folder."""


def hold(folder: Path, command: str) -> None:
    """Make this process the only one that writes into a folder until it ends; the folder is made if it is absent.

    Args:
        command: What this process does, in a word, for the error of a second process.

    Raises:
        RunFolderError: If another process holds the folder, or nothing can be written there.
    """
    key = folder.resolve()
    if key in _held and (folder / LOCK).exists():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        holder = _read_json(folder / HOLDER)
        process = holder.get("process")
        has_ended = holder.get("machine") == platform.node() and isinstance(process, int) and not is_running(process)
        lock.acquire(timeout=ORPHANS_END_WITHIN if has_ended else 0)
        me = {"command": command, "process": os.getpid(), "machine": platform.node(), "since": time.strftime("%c")}
        write_json(folder / HOLDER, me)
    except Timeout:
        _leave_log_alone(key)
        by = (
            f"{holder['command']} (process {holder['process']} on {holder['machine']})" if holder else "another command"
        )
        msg = f"{folder} is in use by {by}. Wait for it to end, or choose another folder, for example with run_dir=DIR."
        raise RunFolderError(msg) from None
    except NotImplementedError:
        logger.warning("%s is on a disk without locks. Do not start a second command in it.", folder)
        return
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        advice = "Choose" if error.errno == errno.EROFS else "Change its permissions, or choose"
        msg = (
            f"Nothing can be written to {folder}: {error.strerror or error}. {advice} another folder, for example with "
            f"run_dir=DIR."
        )
        raise RunFolderError(msg) from error
    _held[key] = lock


def require_held(folder: Path) -> None:
    """Check that the folder that this process holds was not removed or replaced meanwhile.

    Raises:
        RunFolderError: If it was.
    """
    if folder.resolve() in _held and not (folder / LOCK).exists():
        msg = f"{folder} was removed while a run wrote into it. Restore it and resume the run, or start again."
        raise RunFolderError(msg)


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or nothing from a file that is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _leave_log_alone(folder: Path) -> None:
    """Write no log into a folder that another process holds."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, LogFile) and Path(handler.baseFilename).parent.resolve() == folder:
            root.removeHandler(handler)


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    with written_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically; it cannot hold NaN."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Replace a CSV file atomically; see `csv_text`."""
    write_text(path, csv_text((header, *rows)))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return the lines of a CSV file; text that a spreadsheet would take for a formula is quoted, see `as_cell`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in rows:
        writer.writerow([as_cell(value) if isinstance(value, str) else value for value in row])
    return buffer.getvalue()


def open_run(folder: Path, *, resume: bool, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Make sure a run may write into a folder, and tidy up after a run that was killed there.

    Args:
        resume: Whether to continue an earlier run in it.
        config: The resolved config of this run.

    Returns:
        The manifest of the run to continue; ``None`` if there is none.

    Raises:
        RunFolderError: If another process writes into the folder, if it contains another run that is not to be
            continued, or one with another config.
    """
    hold(folder, str(config.get("task_name", "a run")))
    held = _kept(folder)
    if held and not resume:
        advice = ", or continue that run with resume=true" if "resume" in config else ""
        msg = f"run_dir must be new, but {folder} contains {held[0]} of a run. Choose another run_dir{advice}."
        raise RunFolderError(msg)
    remove_abandoned(folder)
    path = folder / MANIFEST
    if not held:
        _remove_leftovers(folder)
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
    return bool(_kept(folder))


def is_finished(manifest: Mapping[str, Any]) -> bool:
    """Whether a run wrote everything. Manifests of older versions do not tell and count as finished."""
    return manifest.get("finished", "unknown") is not None


def holds_finished_prediction(folder: Path) -> bool:
    """Whether a folder contains a prediction that wrote everything it was asked for."""
    manifest = _read_json(folder / MANIFEST)
    return manifest.get("command") == "predict" and is_finished(manifest)


def _kept(folder: Path) -> list[str]:
    """Name the files that must not be lost. A folder without any may be used for another run."""
    kept = [
        name for name in ("checkpoints", "results.csv", "scores.csv", "calibration.json") if (folder / name).exists()
    ]
    manifest = _read_json(folder / MANIFEST)
    if manifest.get("command") == "evaluate" and not is_finished(manifest):
        return []  # an evaluation has one dataset, which is scored again
    return kept


def _remove_leftovers(folder: Path) -> None:
    """Remove what an unfinished run wrote, so that it is not taken for part of the next one."""
    if is_finished(_read_json(folder / MANIFEST)):
        return  # not known to be a run: these files may be the user's own
    for path in (*(folder / name for name in WRITTEN_BY_RUNS), *folder.glob("inspected.*.jsonl")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


SKIPPED = "skipped.csv"
"""Photographs that could not be read, and why."""

WRITTEN_BY_RUNS = (
    *("results.json", "results.csv", "epochs.json", "thresholds.csv", "scores.csv", "metrics.csv", "report.html"),
    *("photographs.csv", SKIPPED, "regions.json", "inspection.html", "scores.xlsx"),
    *("annotations", "figures", "heat_maps", "maps", "masks", "overlays", "thumbnails"),
)
"""Files, and then folders, that an unfinished run may have left."""

_MAY_CHANGE_BELOW = ("protocol.roots.", "logger.")
"""Nodes whose keys may change when a run is resumed."""
