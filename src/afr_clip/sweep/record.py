"""What a sweep writes down: its cells and their states, for itself and for the report."""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afr_clip.reports.record.run_folder import write_json
from afr_clip.sweep.cell import state_of
from afr_clip.sweep.job import Cell, SweepJob


class SweepFolderError(ValueError):
    """A sweep's folder cannot be used as asked."""


def record_path(job: SweepJob) -> Path:
    """Return the file that names the cells of an experiment; a search has a fixed one."""
    return job.folder / f"{'search' if job.space else job.experiment}.json"


def read_record(job: SweepJob) -> dict[str, Any]:
    """Read what an earlier call of the same sweep wrote.

    Args:
        job: What is to be run now.

    Returns:
        The record; an empty one where there is none.

    Raises:
        SweepFolderError: If it was made with other overrides or other axes.
    """
    path = record_path(job)
    if not path.exists():
        return {}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    now = {"experiment": job.experiment, "decisive": list(job.decisive), "axes": dict(job.axes)}
    for key, value in now.items():
        if record[key] != value:
            what = "overrides" if key == "decisive" else key
            msg = (
                f"A sweep must go on with the {what} it was started with, {record[key]} in {path}, got {value}. Type "
                f"the same, or choose another sweep_dir."
            )
            raise SweepFolderError(msg)
    return record


def write_record(job: SweepJob, cells: Sequence[Cell], reference: str | None) -> None:
    """Write the cells of an experiment with their states; those of earlier calls, with other seeds, stay.

    Args:
        job: What is run.
        cells: Of this call.
        reference: The setting that the others are compared with.
    """
    earlier = read_record(job)
    folders = {(c["setting"], c["seed"]): c["folder"] for c in earlier.get("cells", [])}
    folders |= {(cell.setting, cell.seed): str(cell.folder.relative_to(job.folder)) for cell in cells}
    entries = []
    for (setting, seed), folder in folders.items():
        state = state_of(job.folder / folder)
        entry = {"setting": setting, "seed": seed, "folder": folder, "state": state.name, "error": state.error}
        entries.append(entry)
    known = reference or earlier.get("reference")
    write_json(record_path(job), _head(job) | {"reference": known or entries[0]["setting"], "cells": entries})


def write_search(job: SweepJob, objective: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> None:
    """Write the trials of a search.

    Args:
        job: What is run.
        objective: What is looked for.
        trials: What was tried and what came out.
    """
    content = {
        "objective": dict(objective),
        "space": {key: vars(interval) for key, interval in job.space.items()},
        "trials": list(trials),
    }
    write_json(record_path(job), _head(job) | content)


def _head(job: SweepJob) -> dict[str, Any]:
    return {
        "experiment": job.experiment,
        "axes": dict(job.axes),
        "overrides": list(job.overrides),
        "decisive": list(job.decisive),
    }


@contextmanager
def only_sweep_in(folder: Path) -> Iterator[None]:
    """Keep other sweeps out of a folder, for as long as this one lives.

    Args:
        folder: The sweep's folder; made if absent.

    Yields:
        Nothing.

    Raises:
        SweepFolderError: If another sweep is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            msg = (
                f"One sweep at a time may work in {folder}, and another does. Wait for it, or choose another sweep_dir."
            )
            raise SweepFolderError(msg) from None
        yield
