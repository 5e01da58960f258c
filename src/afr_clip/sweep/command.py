"""A sweep from its config to its report."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from afr_clip.config.restore import typed_overrides
from afr_clip.config.validate import ConfigError
from afr_clip.reports.compare.report import write_ablations
from afr_clip.reports.compare.values import ComparisonError
from afr_clip.sweep.cell import State, state_of, write_plan
from afr_clip.sweep.cost import check_datasets, print_cost
from afr_clip.sweep.launch import chosen_run, extra_overrides, run_cells, runs_here
from afr_clip.sweep.plan import Cell, Plan, make_plan, plan_cells, reference_of
from afr_clip.sweep.record import only_sweep_in, read_record, write_record
from afr_clip.sweep.search import plan_search, run_search

logger = logging.getLogger(__name__)


class UnfinishedSweepError(ValueError):
    """Some cells of a sweep are not done."""


def sweep(config: DictConfig) -> None:
    """Run ``python -m afr_clip.sweep``: every cell that is not done, or the trials of a search.

    Args:
        config: The composed config; the cells compose their own.

    Raises:
        ConfigError: If a cell's config does not hold, or the folder holds another sweep.
        UnfinishedSweepError: If a cell failed twice, or was stopped.
    """
    for key in ("jobs", "num_trials"):
        if config[key] < 1:
            msg = f"{key} must be positive, got {config[key]}. Change {key}=VALUE."
            raise ConfigError(msg)
    folder = Path(config.sweep_dir).resolve()
    plan = make_plan(typed_overrides(), folder)
    with only_sweep_in(folder):
        read_record(plan)
        if plan.axes.space:
            _search(config, plan)
        else:
            _experiment(config, plan)


def _experiment(config: DictConfig, plan: Plan) -> None:
    cells = plan_cells(plan, config.seeds, config.leave_out)
    reference = reference_of(plan, cells)
    if config.dry_run:
        print_cost(plan.folder, cells)
        return
    _check_datasets(cells)
    _say_what_is_the_same(cells)
    for cell in cells:
        if state_of(cell.folder).name != "done":
            write_plan(cell, extra_overrides(config, cell))
    write_record(plan, cells, reference)

    def note(_folder: Path, _state: State) -> None:
        write_record(plan, cells, reference)

    folders = list(dict.fromkeys(cell.folder for cell in cells))
    run_cells(folders, chosen_run(config, note))
    write_record(plan, cells, reference)
    again = "The same command runs these again and no finished one"
    _end(plan.folder, [(f"{cell.setting} with seed {cell.seed}", cell.folder) for cell in cells], again)


def _search(config: DictConfig, plan: Plan) -> None:
    looked_for = plan_search(config, plan)
    if config.dry_run:
        print_cost(plan.folder, looked_for.example, times=config.num_trials)
        return
    _check_datasets(looked_for.example)
    trials = run_search(config, plan, looked_for)
    again = "The same command goes on with stopped trials, and does not repeat one that failed twice"
    _end(plan.folder, [(f"trial {number}", folder) for number, folder in trials], again)


def _check_datasets(cells: Sequence[Cell]) -> None:
    """Look for the datasets before the first cell runs; a launcher's jobs may see other disks than this machine."""
    if runs_here():
        check_datasets(cells)


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
