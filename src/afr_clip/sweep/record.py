"""What a sweep writes down: its cells and their states, for itself and for the report."""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afr_clip.config.validate import ConfigError
from afr_clip.reports.record.run_folder import write_json
from afr_clip.sweep.cell import state_of
from afr_clip.sweep.plan import Cell, Plan


class SweepFolderError(ValueError):
    """A sweep's folder cannot be used as asked."""


def record_path(plan: Plan) -> Path:
    """Return the file that names the cells of an experiment; a search has a fixed one."""
    return plan.folder / f"{'search' if plan.axes.space else plan.experiment}.json"


def read_record(plan: Plan) -> dict[str, Any]:
    """Read what an earlier call of the same sweep wrote.

    Args:
        plan: What is to be run now.

    Returns:
        The record; an empty one where there is none.

    Raises:
        ConfigError: If it was made with other overrides or other axes.
    """
    path = record_path(plan)
    if not path.exists():
        return {}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    now = {"experiment": plan.experiment, "decisive": plan.decisive_overrides, "axes": plan.axes.as_plain()}
    for key, value in now.items():
        if record[key] != value:
            what = "overrides" if key == "decisive" else key
            msg = (
                f"A sweep must go on with the {what} it was started with, {record[key]} in {path}, got {value}. Type "
                f"the same, or choose another sweep_dir."
            )
            raise ConfigError(msg)
    return record


def write_record(plan: Plan, cells: Sequence[Cell], reference: str | None) -> None:
    """Write the cells of an experiment with their states; those of earlier calls, with other seeds, stay.

    Args:
        plan: What is run.
        cells: Of this call.
        reference: The setting that the others are compared with.
    """
    earlier = read_record(plan)
    folders = {(c["setting"], c["seed"]): c["folder"] for c in earlier.get("cells", [])}
    folders |= {(cell.setting, cell.seed): str(cell.folder.relative_to(plan.folder)) for cell in cells}
    entries = []
    for (setting, seed), folder in folders.items():
        state = state_of(plan.folder / folder)
        entry = {"setting": setting, "seed": seed, "folder": folder, "state": state.name, "error": state.error}
        entries.append(entry)
    known = reference or earlier.get("reference")
    write_json(record_path(plan), _head(plan) | {"reference": known or entries[0]["setting"], "cells": entries})


def write_search(plan: Plan, objective: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> None:
    """Write the trials of a search.

    Args:
        plan: What is run.
        objective: What is looked for.
        trials: What was tried and what came out.
    """
    content = {"objective": dict(objective), "space": plan.axes.plain_space(), "trials": list(trials)}
    write_json(record_path(plan), _head(plan) | content)


def _head(plan: Plan) -> dict[str, Any]:
    return {
        "experiment": plan.experiment,
        "axes": plan.axes.as_plain(),
        "overrides": list(plan.overrides),
        "decisive": plan.decisive_overrides,
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
