import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from afr_clip.processes.signals import Stopped
from afr_clip.reports.record.run_folder import write_json
from afr_clip.sweep import launch
from afr_clip.sweep.cells import DONE, FAILED, PLAN, state_of
from afr_clip.sweep.launch import CellJob, LauncherError, environments, extra_overrides, run_cells, run_elsewhere


def test_what_failed_is_tried_once_more_and_what_is_done_is_left_alone(sweep_of, cell, monkeypatch):
    rounds = []
    cells = [cell("a"), cell("b"), cell("a"), cell("c")]
    write_json(cells[3].folder / DONE, {})

    def run(folders, environments, on_end):
        rounds.append([folder.name[0] for folder in folders])
        for folder in folders:
            done = folder.name[0] != "b"
            write_json(folder / (DONE if done else FAILED), {"error": "It failed."})
            on_end(folder)

    monkeypatch.setattr(launch, "run_here", run)
    ended = []
    run_cells(sweep_of(*cells), cells, lambda: ended.append(1))
    assert rounds == [["a", "b", "c"], ["b"]]
    assert len(ended) == 4
    assert [state_of(cell.folder).name for cell in cells] == ["done", "failed", "done", "done"]
    assert [(cell.folder / PLAN).exists() for cell in cells] == [True, True, True, False]


def test_processors_are_divided_among_what_runs_at_the_same_time(sweep_of, cell, monkeypatch):
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda _pid: range(12), raising=False)
    monkeypatch.setattr(launch.sys, "platform", "linux")
    assert extra_overrides(sweep_of(jobs=2, devices=3), cell()) == ["num_threads=2"]
    assert extra_overrides(sweep_of(), cell()) == []
    assert extra_overrides(sweep_of(jobs=2, launcher="ray"), cell()) == []


@pytest.mark.parametrize(
    ("changes", "expected"), [({}, [None]), ({"jobs": 3}, ["4", "7", "4"]), ({"jobs": 2, "devices": 2}, [None, None])]
)
def test_cells_that_run_at_the_same_time_get_a_gpu_each(sweep_of, monkeypatch, changes, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    found = [environment.get("CUDA_VISIBLE_DEVICES") for environment in environments(sweep_of(**changes))]
    assert found == expected


class Executor:
    """Stands for submitit's, and runs its jobs at once."""

    made: ClassVar[list["Executor"]] = []

    def __init__(self, folder, cluster, **options):
        self.facts = {"folder": folder, "cluster": cluster, **options}
        Executor.made.append(self)

    def update_parameters(self, **options):
        self.facts |= options

    def map_array(self, function, folders):
        self.states = [function(folder) for folder in folders]
        return [SimpleNamespace(exception=lambda: None) for _ in folders]


def test_submitit_gets_its_settings_by_its_own_names(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=Executor))
    monkeypatch.setattr(launch, "run_here", lambda folders: write_json(folders[0] / DONE, {}))
    settings = {
        **{"_target_": "a.launcher", "submitit_folder": "logs", "timeout_min": 5, "name": "sweep"},
        **{"partition": "gpu", "max_num_timeout": 3},
    }
    run_elsewhere("submitit_slurm", settings, [tmp_path / "a"])
    (executor,) = Executor.made
    assert executor.facts == {
        **{"folder": "logs", "cluster": "slurm", "slurm_max_num_timeout": 3},
        **{"timeout_min": 5, "name": "sweep", "slurm_partition": "gpu"},
    }
    assert executor.states == ["done"]


@pytest.mark.parametrize("launcher", ["joblib", "ray"])
def test_a_launcher_that_is_unknown_or_not_installed_is_said(monkeypatch, launcher):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LauncherError, match=f"hydra/launcher.*{launcher}"):
        run_elsewhere(launcher, {}, [])


@pytest.mark.parametrize("error", [ValueError("broken"), Stopped(signal.SIGUSR2, "Saved.")])
def test_the_job_of_a_launcher_raises_nothing_and_is_submitted_again_as_it_was(monkeypatch, tmp_path, error):
    def run(_folders: list[Path]) -> None:
        raise error

    monkeypatch.setattr(launch, "run_here", run)
    assert CellJob()(tmp_path) == "waiting"
    again = pytest.importorskip("submitit").helpers.DelayedSubmission
    assert isinstance(CellJob().checkpoint(tmp_path), again)
