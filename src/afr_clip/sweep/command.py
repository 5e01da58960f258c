"""A sweep from its config to its report."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from afr_clip.reports.compare.report import write_ablations
from afr_clip.reports.compare.values import ComparisonError
from afr_clip.run.build import check_model
from afr_clip.sweep.cell import State, state_of, write_plan
from afr_clip.sweep.cost import check_datasets, print_cost
from afr_clip.sweep.job import Cell, SweepJob
from afr_clip.sweep.launch import HERE, chosen_run, extra_overrides, run_cells
from afr_clip.sweep.record import only_sweep_in, read_record, write_record
from afr_clip.sweep.search import plan_search, run_search

logger = logging.getLogger(__name__)


class UnfinishedSweepError(ValueError):
    """Some cells of a sweep are not done."""


def sweep(job: SweepJob) -> None:
    """Run every cell that is not done, or the trials of a search.

    Raises:
        ConfigError: If a cell's model cannot be built, or the folder holds another sweep.
        UnfinishedSweepError: If a cell failed twice, or was stopped.
    """
    for cell in job.cells:
        try:
            for training in cell.trainings:
                check_model(training)
        except ValueError as error:
            msg = f"{cell.setting} cannot run: {error}"
            raise ValueError(msg) from error
    with only_sweep_in(job.folder):
        read_record(job)
        if job.dry_run:
            if job.space:
                plan_search(job)
            print_cost(job.folder, job.cells, times=job.num_trials if job.space else 1)
        elif job.space:
            _search(job)
        else:
            _experiment(job)


def _experiment(job: SweepJob) -> None:
    cells = job.cells
    _check_datasets(job)
    _say_what_is_the_same(cells)
    for cell in cells:
        if state_of(cell.folder).name != "done":
            write_plan(cell, extra_overrides(job, cell))
    write_record(job, cells, job.reference)

    def note(_folder: Path, _state: State) -> None:
        write_record(job, cells, job.reference)

    folders = list(dict.fromkeys(cell.folder for cell in cells))
    run_cells(folders, chosen_run(job, note))
    write_record(job, cells, job.reference)
    again = "The same command runs these again and no finished one"
    _end(job.folder, [(f"{cell.setting} with seed {cell.seed}", cell.folder) for cell in cells], again)


def _search(job: SweepJob) -> None:
    looked_for = plan_search(job)
    _check_datasets(job)
    trials = run_search(job, looked_for)
    again = "The same command resumes stopped trials, and does not repeat one that failed twice"
    _end(job.folder, [(f"trial {number}", folder) for number, folder in trials], again)


def _check_datasets(job: SweepJob) -> None:
    """Look for the datasets before the first cell runs; a launcher's jobs may see other disks than this machine."""
    if job.launcher == HERE:
        check_datasets(job.cells)


def _say_what_is_the_same(cells: Sequence[Cell]) -> None:
    first: dict[Path, Cell] = {}
    for cell in cells:
        other = first.setdefault(cell.folder, cell)
        if other is not cell:
            logger.warning("%s is the same training as %s here, and runs once.", cell.setting, other.setting)


def _end(folder: Path, cells: Sequence[tuple[str, Path]], again: str) -> None:
    states = {name: state_of(cell) for name, cell in cells}
    refused: list[str] = []
    try:
        page = write_ablations(folder, folder / "report")
        sys.stdout.write(f"report: {page}\n")
    except ComparisonError as error:  # what failed is to be said all the same
        refused.append(str(error))
    sys.stdout.write(f"sweep: {folder}\n")
    failed = [f"{name}: {state.error}" for name, state in states.items() if state.name == "failed"]
    waiting = [name for name, state in states.items() if state.name == "waiting"]
    lines: list[str] = []
    if failed or waiting:
        lines = [f"{len(failed)} of {len(states)} cells failed, {len(waiting)} were stopped.", *failed]
        lines.append(f"{again}; each cell's own log is its cell.log.")
    if lines or refused:
        raise UnfinishedSweepError("\n".join([*lines, *refused]))
