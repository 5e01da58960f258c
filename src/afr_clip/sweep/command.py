"""A sweep from its job to its report."""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from afr_clip.files import counted, shown
from afr_clip.reports.compare.report import FIGURES, report_on, write_reports
from afr_clip.reports.compare.values import ComparisonError
from afr_clip.reports.record.run_folder import write_json
from afr_clip.reports.record.schema import RecordError, SweepHead
from afr_clip.reports.record.schema import read_record as read_checked
from afr_clip.sweep.cells import state_of
from afr_clip.sweep.cost import duration, find_faults, is_absent, print_cost
from afr_clip.sweep.figures import draw_figures
from afr_clip.sweep.job import Cell, SweepJob, describe_faults
from afr_clip.sweep.launch import HERE, run_cells
from afr_clip.sweep.search import check_search, run_search

logger = logging.getLogger(__name__)


class SweepFolderError(ValueError):
    """A sweep's folder that cannot be used as requested."""


class UnfinishedSweepError(ValueError):
    """Some cells of a sweep are not done."""


def sweep(jobs: Sequence[SweepJob]) -> None:
    """Run every cell that is not done, or the trials of a search.

    Args:
        jobs: The experiments, all in one folder; a search stands alone.

    Raises:
        SweepFolderError: If the folder holds another sweep, or another process is at work there.
        UnfinishedSweepError: If a cell failed twice, or was stopped.
        ValueError: If cells cannot run, all of which are named, or the search or its launcher is not as it must be.
    """
    first = jobs[0]
    for job in jobs:
        if not job.space:
            _log_cells(job)
        read_record(job)
    # A launcher's jobs may see other disks than this machine.
    is_here = first.launcher == HERE
    done = {cell.folder for job in jobs for cell in job.cells if state_of(cell.folder).name == "done"}
    cells = [
        cell
        for job in jobs
        for cell in job.cells
        if first.dry_run or cell.folder in done or not (is_here and is_absent(cell))
    ]
    todo = [cell for cell in cells if cell.folder not in done]  # finished cells no longer need data
    faults = find_faults(todo, with_data=is_here, may_lack=first.dry_run)
    if faults:
        raise ValueError(describe_faults(faults))
    first.folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(first.folder / ".lock", timeout=0).acquire()
    except Timeout:
        msg = (
            f"Only one sweep may run in {first.folder} at a time, and another is running. Wait for it, or choose "
            f"another sweep_dir."
        )
        raise SweepFolderError(msg) from None
    with lock:
        for job in jobs:
            read_record(job)
        if first.space:
            check_search(first)
        if first.dry_run:
            print_cost(jobs)
        elif first.space:
            trials = {cell.folder: f"trial {number}" for number, cell in run_search(first).items()}
            again = "The same command resumes stopped trials, and does not repeat one that failed twice"
            _report(jobs, trials, again)
        else:
            _run(jobs, cells)
            named = {cell.folder: f"{cell.setting} with seed {cell.seed}" for cell in cells}
            _report(jobs, named, "The same command runs only these cells again")


def _log_cells(job: SweepJob) -> None:
    folders = {cell.folder for cell in job.cells}  # two settings may be the same training
    done = sum(state_of(folder).name == "done" for folder in folders)
    settings, seeds = (len({getattr(cell, key) for cell in job.cells}) for key in ("setting", "seed"))
    logger.info(
        "%s of %s in %s (settings: %d, seeds: %d; done: %d).",
        *(counted(len(folders), "cell"), shown(job.experiment), shown(job.folder), settings, seeds, done),
    )


def _run(jobs: Sequence[SweepJob], cells: Sequence[Cell]) -> None:
    for job in jobs:
        for cell in job.cells:
            if cell not in cells:
                logger.warning("%s is left out, because its dataset is not on disk.", shown(cell.setting))
        write_record(job)
    run_cells(jobs[0], cells, _Progress(jobs, cells))
    for job in jobs:
        write_record(job)


class _Progress:
    """Writes the records after each cell, and logs how many are done and how long the others may take."""

    def __init__(self, jobs: Sequence[SweepJob], cells: Sequence[Cell]) -> None:
        self._jobs = jobs
        self._folders = {cell.folder for cell in cells}
        self._started = time.monotonic()
        self._before = self._num_done()

    def __call__(self) -> None:
        for job in self._jobs:
            write_record(job)
        num, whole = self._num_done(), len(self._folders)
        left = ""
        if num > self._before:  # the time that cells take, with their starts, however many run at once
            seconds = (time.monotonic() - self._started) / (num - self._before) * (whole - num)
            left = f", about {duration(seconds)} left" if num < whole else ""
        logger.info("%d of %d cells done%s.", num, whole, left)

    def _num_done(self) -> int:
        return sum(state_of(folder).name == "done" for folder in self._folders)


def _report(jobs: Sequence[SweepJob], cells: Mapping[Path, str], again: str) -> None:
    folder, faults = jobs[0].folder, list[str]()
    try:
        if any(job.compares_methods for job in jobs):
            faults += draw_figures(jobs, folder / "report" / FIGURES)
        reports = report_on([folder])
        pages = write_reports(reports, folder / "report")
        faults += dict.fromkeys(fault for report in reports for fault in report.faults)
        sys.stdout.write("".join(f"report: {page}\n" for page in pages))
    except (ComparisonError, RecordError, OSError) as error:  # what failed is reported all the same
        faults.append(str(error))
    sys.stdout.write(f"sweep: {folder}\n")
    states = {folder: state_of(folder) for folder in cells}
    failed = [f"{cells[folder]}: {state.error}" for folder, state in states.items() if state.name == "failed"]
    stopped = sum(state.name == "waiting" for state in states.values())
    if failed or stopped:
        head = f"Of {counted(len(states), 'cell')}, {len(failed)} failed and {stopped} stopped."
        faults = [head, *failed, f"{again}. Each cell's log is its cell.log.", *faults]
    if faults:
        raise UnfinishedSweepError("\n".join(faults))


def read_record(job: SweepJob) -> dict[str, Any]:
    """Read what an earlier call of the same sweep wrote; empty if there is nothing.

    Raises:
        SweepFolderError: If it was made with other overrides or other axes.
    """
    path = job.record_path
    if not path.exists():
        return {}
    record = read_checked(path, SweepHead)
    for key, name in (("experiment", "experiment"), ("decisive", "overrides"), ("axes", "axes")):
        now = job.record_head[key]
        if record[key] != now:
            msg = (
                f"A sweep must continue with the {name} it was started with, {record[key]} in {path}, got {now}. Use "
                f"the same, or choose another sweep_dir."
            )
            raise SweepFolderError(msg)
    return record


def write_record(job: SweepJob) -> None:
    """Write the cells of an experiment with their states; those of earlier calls with other seeds stay."""
    earlier = read_record(job)
    folders = {(cell["setting"], cell["seed"]): cell["folder"] for cell in earlier.get("cells", [])}
    folders |= {(cell.setting, cell.seed): str(cell.folder.relative_to(job.folder)) for cell in job.cells}
    entries = []
    for (setting, seed), folder in folders.items():
        state = state_of(job.folder / folder)
        entries.append({"setting": setting, "seed": seed, "folder": folder, "state": state.name, "error": state.error})
    reference = None if job.compares_methods else job.reference or earlier.get("reference") or entries[0]["setting"]
    write_json(job.record_path, job.record_head | {"reference": reference, "cells": entries})
