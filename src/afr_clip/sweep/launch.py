"""Run cells where the sweep is told to: on this machine, or through one of Hydra's launchers."""

import copy
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra import compose
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig

from afr_clip.config.nodes import register
from afr_clip.processes.signals import Stopped
from afr_clip.sweep.cell import State, quoted, state_of
from afr_clip.sweep.job import Cell, SweepJob
from afr_clip.sweep.local import run_here

logger = logging.getLogger(__name__)

Run = Callable[[Sequence[Path]], None]
"""Runs cells that are not done, and leaves their marks in their folders."""

ATTEMPTS = 2

HERE = "basic"
"""The launcher that is this machine."""


def run_cells(folders: Sequence[Path], run: Run) -> None:
    """Run cells; those that failed are tried once more.

    Args:
        folders: Of the cells, each with its plan.
        run: Runs some of them.
    """
    wanted = list(folders)
    for attempt in range(ATTEMPTS):
        if attempt and wanted:
            logger.warning("%d of the cells failed and are tried once more.", len(wanted))
        if wanted:
            run(wanted)
        wanted = [folder for folder in wanted if state_of(folder).name == "failed"]


def chosen_run(job: SweepJob, told: Callable[[Path, State], None]) -> Run:
    """Return what runs cells: this machine, or the launcher that was chosen with ``hydra/launcher=``.

    Args:
        job: The sweep.
        told: Hears of every cell that ended on this machine.

    Returns:
        The function.
    """
    if job.launcher == HERE:
        return lambda folders: run_here(folders, environments(job), told)
    return lambda folders: _launch(folders, job.folder)


def extra_overrides(job: SweepJob, cell: Cell) -> list[str]:
    """Divide the processors among the processes that run here at the same time, unless threads were typed."""
    typed = {override.partition("=")[0] for override in cell.overrides}
    num_processes = job.jobs * job.devices
    if num_processes == 1 or "num_threads" in typed or job.launcher != HERE:
        return []
    return [f"num_threads={max(1, _processors() // num_processes)}"]


def environments(job: SweepJob) -> list[dict[str, str]]:
    """Return the variables of the cells that run at the same time: a GPU each, as far as there are any.

    Args:
        job: The sweep.

    Returns:
        As many as cells run at a time.
    """
    gpus = _gpus() if job.jobs > 1 and job.devices == 1 else []
    if not gpus:
        return [{} for _ in range(job.jobs)]
    return [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} for number in range(job.jobs)]


def _gpus() -> list[str]:
    import torch  # noqa: PLC0415 - takes seconds

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class CellTask:
    """What a launcher's job does: run one cell by the same code as this machine would, and never raise."""

    def __call__(self, config: DictConfig) -> str:
        """Run the cell whose folder is ``config.cell``.

        Args:
            config: The sweep's config in the job.

        Returns:
            The name of its state.
        """
        folder = Path(config.cell)
        try:
            run_here([folder])
        except (Exception, Stopped) as error:
            logger.warning("%s was left: %s", folder, error)
        return state_of(folder).name

    def __reduce__(self) -> tuple[Callable[[], "CellTask"], tuple[()]]:
        return _cell_task, ()


def _cell_task() -> CellTask:
    register()  # a job's process composes the sweep's config before it comes here
    return CellTask()


def _launch(folders: Sequence[Path], sweep_dir: Path) -> None:
    own = [f"sweep_dir={quoted(sweep_dir)}"]
    config = compose("sweep", [*HydraConfig.get().overrides.hydra, *own], return_hydra_config=True)
    config.hydra.runtime = copy.deepcopy(HydraConfig.get().runtime)  # known only while a command runs
    context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks(config))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=CellTask(), config=config)
    try:
        launcher.launch([[*own, f"cell={quoted(folder.resolve())}"] for folder in folders], initial_job_idx=0)
    except Exception as error:  # a job that was killed; what became of the cells stands in their folders
        logger.warning("The launcher gave up: %s", error)
