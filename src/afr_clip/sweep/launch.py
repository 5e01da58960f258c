"""Run cells where the sweep was told to: on this machine, or through submitit or Ray."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from afr_clip.files import counted
from afr_clip.processes.signals import Stopped
from afr_clip.sweep.cells import run_here, state_of, write_plan
from afr_clip.sweep.job import Cell, SweepJob

logger = logging.getLogger(__name__)

HERE = "basic"
"""The launcher that is this machine."""


class LauncherError(ValueError):
    """A launcher that is unknown or not installed."""


def run_cells(job: SweepJob, cells: Sequence[Cell], on_end: Callable[[], None]) -> None:
    """Run cells that are not done; those that fail are tried a second time.

    Args:
        cells: Two that are the same training share a folder, and run once.
        on_end: Called whenever a cell on this machine has ended.
    """
    unique: dict[Path, Cell] = {}
    for cell in cells:
        first = unique.setdefault(cell.folder, cell)
        if first is not cell:
            logger.warning("%s is the same training as %s, so it runs only once.", cell.setting, first.setting)
        elif state_of(cell.folder).name != "done":
            write_plan(cell, extra_overrides(job, cell))
    wanted = list(unique)
    for attempt in (1, 2):
        if attempt == 2 and wanted:
            logger.warning("%s failed. Trying again.", counted(len(wanted), "cell"))
        if wanted and job.launcher == HERE:
            run_here(wanted, environments(job), lambda _folder: on_end())
        elif wanted:
            run_elsewhere(job.launcher, dict(job.launcher_settings), [folder.resolve() for folder in wanted])
        wanted = [folder for folder in wanted if state_of(folder).name == "failed"]


def extra_overrides(job: SweepJob, cell: Cell) -> list[str]:
    """Divide the processors among the processes that run here at the same time, unless ``num_threads`` was given."""
    num_processes = job.jobs * job.devices
    if num_processes == 1 or job.launcher != HERE or any(o.startswith("num_threads=") for o in cell.overrides):
        return []
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return [f"num_threads={max(1, processors // num_processes)}"]


def environments(job: SweepJob) -> list[dict[str, str]]:
    """Return the variables of the cells that run at the same time: a GPU each, as far as there are any."""
    import torch  # noqa: PLC0415 - takes seconds

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = map(str, range(torch.cuda.device_count())) if visible is None else visible.split(",")
    gpus = [gpu.strip() for gpu in numbers if gpu.strip()]
    if not gpus or job.jobs == 1 or job.devices > 1:
        return [{} for _ in range(job.jobs)]
    return [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} for number in range(job.jobs)]


class CellJob:
    """What a launcher's job runs: one cell, by the same code as on this machine."""

    def __call__(self, folder: Path) -> str:
        """Run the cell in a folder and return the name of its state."""
        try:
            run_here([folder])
        except (Exception, Stopped) as error:  # the marks in the folder say what became of the cell
            logger.warning("%s was left: %s", folder, error)
        return state_of(folder).name

    def checkpoint(self, folder: Path) -> Any:  # noqa: ANN401 - submitit's own
        """Tell submitit what to submit again after a timeout or a preemption: the same, which resumes."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415 - an optional package

        return DelayedSubmission(self, folder)


_OF_ALL_CLUSTERS = {
    *("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name", "stderr_to_stdout")
}
"""Settings whose names submitit does not prefix with the cluster's."""


def run_elsewhere(launcher: str, settings: dict[str, Any], folders: Sequence[Path]) -> None:
    """Run cells through submitit or Ray, and wait for them.

    Args:
        launcher: ``submitit_local``, ``submitit_slurm`` or ``ray``.
        settings: The values of that file of ``hydra/launcher``.
        folders: The cells' folders, on disks that the jobs see too.

    Raises:
        LauncherError: If there is no such launcher, or it is not installed.
    """
    run = {"submitit_local": _submitit, "submitit_slurm": _submitit, "ray": _ray}.get(launcher)
    if run is None:
        msg = f"hydra/launcher must be basic, submitit_local, submitit_slurm or ray for a sweep, got {launcher}."
        raise LauncherError(msg)
    try:
        run(launcher.removeprefix("submitit_"), settings, folders)
    except ImportError as error:
        msg = f"hydra/launcher={launcher} needs a package that is not installed ({error})."
        raise LauncherError(msg) from None


def _submitit(cluster: str, settings: dict[str, Any], folders: Sequence[Path]) -> None:
    import submitit  # noqa: PLC0415 - an optional package

    first = {f"{cluster}_max_num_timeout": settings["max_num_timeout"]} if "max_num_timeout" in settings else {}
    executor = submitit.AutoExecutor(settings["submitit_folder"], cluster=cluster, **first)
    executor.update_parameters(
        **{
            key if key in _OF_ALL_CLUSTERS else f"{cluster}_{key}": value
            for key, value in settings.items()
            if key not in {"_target_", "submitit_folder", "max_num_timeout"}
        }
    )
    for task, folder in zip(executor.map_array(CellJob(), folders), folders, strict=True):
        error = task.exception()
        if error is not None:
            logger.warning("The job of %s ended early: %s", folder, error)


def _ray(_cluster: str, settings: dict[str, Any], folders: Sequence[Path]) -> None:
    import ray  # noqa: PLC0415 - an optional package

    chosen = settings["ray"]
    ray.init(**chosen["init"])
    try:
        run = ray.remote(_run_cell).options(**chosen["remote"])
        ray.get([run.remote(folder) for folder in folders])
    except ray.exceptions.RayError as error:
        logger.warning("Ray gave up: %s", error)
    finally:
        ray.shutdown()


def _run_cell(folder: Path) -> str:
    return CellJob()(folder)
