"""A run that is asked to stop saves, reports it, and resumes as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from afr_clip.processes.signals import EXIT_STOPPED
from afr_clip.training.checkpoint import CheckpointWriter
from afr_clip.training.module import AnomalyDetectionModule
from helpers.overrides import last_of_each
from helpers.trees import write_mvtec_tree

pytestmark = pytest.mark.integration

ACCUMULATED = "trainer.accumulate_grad_batches=2"


def send(*signums: int) -> None:
    for signum in signums:
        os.kill(os.getpid(), signum)


@pytest.mark.parametrize(
    ("signum", "moment", "more", "workers"),
    [
        (signal.SIGTERM, (0, 0), (), 0),
        (signal.SIGUSR1, (1, 2), (ACCUMULATED,), 2),
        (signal.SIGUSR1, (0, 5), (ACCUMULATED,), 1),
        (signal.SIGUSR2, (1, 5), (), 0),
        (signal.SIGTERM, (0, 3), ("module=aa_clip", "module.network.text_epochs=1"), 0),
        (signal.SIGTERM, (1, 2), ("module=visual_ad",), 0),
        (signal.SIGTERM, (1, 1), ("module=adapt_clip",), 2),
    ],
    ids=[
        *("first batch", "half an accumulated step", "last of an epoch", "last of all"),
        *("stages", "random numbers", "references and statistics"),
    ],
)
def test_a_stopped_training_goes_on_bit_for_bit(disturbed, assert_goes_on, signum, moment, more, workers):
    code, said, overrides = disturbed(moment, partial(send, signum), *more, f"data.num_workers={workers}")
    assert code == EXIT_STOPPED
    assert said.startswith(f"Stopped by {signum.name}. ")
    assert_goes_on(overrides, *more)


def test_a_training_stopped_twice_in_an_epoch_goes_on_bit_for_bit(disturbed, assert_goes_on):
    assert disturbed((1, 0), partial(send, signal.SIGTERM))[0] == EXIT_STOPPED
    code, said, overrides = disturbed((1, 3), partial(send, signal.SIGTERM), "resume=true")
    assert (code, "step 10, in epoch 2" in said) == (EXIT_STOPPED, True)
    assert_goes_on([override for override in overrides if override != "resume=true"])


def test_a_signal_while_saving_changes_nothing(disturbed, assert_goes_on, monkeypatch):
    save = CheckpointWriter.save_progress

    def asked_again(self, trainer):
        send(signal.SIGTERM, signal.SIGUSR1)
        save(self, trainer)
        send(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointWriter, "save_progress", asked_again)
        code, said, overrides = disturbed((0, 1), partial(send, signal.SIGUSR2))
    assert (code, said.split(". ")[0]) == (EXIT_STOPPED, "Stopped by SIGUSR2")
    assert_goes_on(overrides)


def test_signals_do_not_reach_who_listened_before_until_all_is_saved(disturbed, tmp_path):
    saved = []

    def requeue_and_exit(signum, frame):  # as submitit's handler does
        saved.append((signum, (tmp_path / "run" / "checkpoints" / "resume.ckpt").exists()))
        sys.exit(-1)

    before = signal.signal(signal.SIGUSR2, requeue_and_exit)
    try:
        with pytest.raises(ValueError, match="not enough values"):  # it ends as its handler wants, without a sentence
            disturbed((0, 1), partial(send, signal.SIGUSR2))
        assert signal.getsignal(signal.SIGUSR2) is requeue_and_exit
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert saved == [(signal.SIGUSR2, True)]


@pytest.fixture
def scontrol(tmp_path, monkeypatch) -> Callable[[int], Path]:
    """Pretend to be in a SLURM job as srun starts it, with a scontrol that notes its arguments."""

    def make(code: int = 0) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        asked, path = tmp_path / "asked", folder / "scontrol"
        path.write_text(f'#!/bin/sh\necho "$@" >> {asked}\necho "no such job" >&2\nexit {code}\n')
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        srun = {"JOB_ID": 7, "JOB_NAME": "train", "NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "NNODES": 1}
        for name, value in srun.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))
        monkeypatch.setenv("SLURM_STEP_NODELIST", "localhost")
        return asked

    return make


def test_a_requeued_job_goes_on_by_itself(disturbed, run, tmp_path, whole, scontrol, monkeypatch, assert_goes_on):
    asked = scontrol()
    code, _, overrides = disturbed((0, 2), partial(send, signal.SIGUSR1), "requeue=true")
    assert code == EXIT_STOPPED
    assert asked.read_text() == "requeue 7\n"  # once: Lightning's own requeueing stays out of it
    assert run("train", *overrides) == 1  # the same command again, but by hand: never over what is there
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run("train", *overrides) == 0
    assert_goes_on(overrides)  # and finished it is not done again


@pytest.mark.parametrize(("requeue", "words"), [("true", "could not be requeued: no such job"), ("false", None)])
def test_a_job_is_requeued_only_where_asked_and_a_failure_is_said(disturbed, scontrol, tmp_path, requeue, words):
    asked = scontrol(code=1)
    assert disturbed((0, 0), partial(send, signal.SIGTERM), f"requeue={requeue}")[0] == EXIT_STOPPED
    assert asked.exists() == (words is not None)
    assert words is None or words in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.parametrize(("environment", "job"), [
    ({"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3"}, "requeue 9_3\n"),
    ({"SUBMITIT_EXECUTOR": "slurm"}, None),
])  # fmt: skip
def test_a_task_of_an_array_is_requeued_by_its_number_and_submitits_by_submitit(
    disturbed, scontrol, monkeypatch, environment, job
):
    asked = scontrol()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    disturbed((0, 0), partial(send, signal.SIGTERM), "requeue=true")
    assert (asked.read_text() if asked.exists() else None) == job


def test_scoring_stops_after_a_batch_and_keeps_the_targets_before(run, small, unseen, tmp_path, capsys, monkeypatch):
    other = write_mvtec_tree(tmp_path / "other", ("cable",), seed=2)
    targets = ["protocol.targets=[parts,other]", f"+protocol.roots.parts={unseen}", f"+protocol.roots.other={other}"]
    overrides = [*small, "trainer.max_epochs=1", *targets]
    assert run("train", *overrides, f"run_dir={tmp_path / 'whole'}") == 0
    step, stopped = AnomalyDetectionModule.test_step, tmp_path / "stopped"

    def asked(self, batch, batch_idx):
        if batch.samples[0].dataset == "other":
            send(signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(AnomalyDetectionModule, "test_step", asked)
        assert run("train", *overrides, f"run_dir={stopped}") == EXIT_STOPPED
    assert "What was scored before is saved" in capsys.readouterr().err
    assert {row.split(",")[0] for row in (stopped / "results.csv").read_text().splitlines()} == {"dataset", "parts"}
    assert run("train", *overrides, f"run_dir={stopped}", "resume=true") == 0
    for name in ("results.csv", "scores.csv", "metrics.csv"):
        assert (stopped / name).read_text() == (tmp_path / "whole" / name).read_text(), name


def send_when_loading(*_: object) -> None:
    send(signal.SIGUSR1)


def test_a_training_is_stopped_while_it_loads(run, small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("afr_clip.run.train.load_dataset", send_when_loading)
    assert run("train", *small, f"run_dir={tmp_path / 'r'}") == EXIT_STOPPED
    assert "error: Stopped by SIGUSR1. Files written so far are complete" in capsys.readouterr().err


def test_an_evaluation_that_is_stopped_is_repeated_by_the_same_command(
    run, whole, unseen, tmp_path, capsys, monkeypatch
):
    data = ["dataset=folder", f"dataset.root={unseen}", "data.num_workers=0", f"checkpoint={whole()}", "save_maps=true"]
    stopped, step = tmp_path / "stopped", AnomalyDetectionModule.test_step

    def asked(self, batch, batch_idx):
        if batch_idx == 1:
            send(signal.SIGHUP)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(AnomalyDetectionModule, "test_step", asked)
        assert run("evaluate", *data, f"run_dir={stopped}") == EXIT_STOPPED
    said = capsys.readouterr().err
    assert "Stopped by SIGHUP. What was scored before is saved; a dataset that was not finished" in said
    assert f"The run is in {stopped}; the same command with run_dir={stopped} resume=true resumes it." in said
    (stopped / "metrics.csv").write_text("epoch,step,metric,value\n,0,target/old,1.0\n")
    (stopped / "maps" / "old.png").touch()
    assert run("evaluate", *data, f"run_dir={stopped}") == 0
    assert run("evaluate", *data, f"run_dir={tmp_path / 'undisturbed'}") == 0
    for name in ("metrics.csv", "results.csv", "scores.csv"):
        assert (stopped / name).read_text() == (tmp_path / "undisturbed" / name).read_text(), name
    assert not (stopped / "maps" / "old.png").exists()
    assert run("evaluate", *data, f"run_dir={stopped}") == 1  # it is finished now
    before = (stopped / "results.csv").stat().st_mtime_ns, (stopped / "scores.csv").read_text()
    monkeypatch.setattr(AnomalyDetectionModule, "test_step", None)
    assert run("evaluate", *data, f"run_dir={stopped}", "resume=true") == 0
    assert (stopped / "scores.csv").read_text() == before[1]


def test_a_signal_to_the_whole_group_does_not_kill_the_loading_processes(small, tmp_path):
    run_dir = tmp_path / "r"
    overrides = [*small, "data.num_workers=2", "trainer.max_epochs=200", f"run_dir={run_dir}", "num_figures=0"]
    command = [sys.executable, "-m", "afr_clip.train", *last_of_each(overrides)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (run_dir / "checkpoints" / "resume.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == EXIT_STOPPED, said
    assert said.count("error: ") == said.count("Stopped by SIGTERM. Everything up to") == 1
    assert "killed" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # no process of the group is left
