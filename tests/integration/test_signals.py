"""A run that is asked to stop saves, says so, and goes on from there as if nothing had happened."""

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from afr_clip.signals import EXIT_STOPPED
from afr_clip.training.module import AnomalyDetectionModule

pytestmark = pytest.mark.integration


@pytest.fixture
def stopped(run, small, tmp_path, capsys, monkeypatch) -> Callable[..., tuple[str, list[str], Path]]:
    """Stop a training by a signal in the middle of a batch; returns what it said, its overrides and its folder."""

    def train(signum: int, moment: tuple[int, int], *more: str) -> tuple[str, list[str], Path]:
        step = AnomalyDetectionModule.training_step

        def signalling(self, records, batch_idx):
            if (self.current_epoch, batch_idx) == moment:
                os.kill(os.getpid(), signum)
            return step(self, records, batch_idx)

        overrides = [*small, *SHORT_STEPS, *more, f"run_dir={tmp_path / 'stopped'}"]
        with monkeypatch.context() as patch:
            patch.setattr(AnomalyDetectionModule, "training_step", signalling)
            assert run("train", *overrides) == EXIT_STOPPED
        (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return said.removeprefix("error: "), overrides, tmp_path / "stopped"

    return train


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same(folder: Path, other: Path) -> None:
    """The same weights to the last bit, and every logged number to its last digit."""
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(folder).items())
    assert (folder / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


ACCUMULATED = "trainer.accumulate_grad_batches=2"


@pytest.fixture(scope="module")
def whole(run_once, auxiliary, quick, tmp_path_factory) -> Callable[..., Path]:
    """Train undisturbed; returns the run folder, the same for the same overrides."""

    @functools.cache
    def train(*more: str) -> Path:
        folder = tmp_path_factory.mktemp("whole") / "run"
        data = ["dataset=folder", "dataset.name=generated", f"dataset.root={auxiliary}"]
        assert run_once("train", *data, *quick, *SHORT_STEPS, *more, f"run_dir={folder}") == 0
        return folder

    return train


SHORT_STEPS = ("data.batch_size=3", "data.augment=true", "trainer.log_every_n_steps=1")
"""Six steps an epoch, each of them logged."""


@pytest.mark.parametrize(
    ("signum", "moment", "more", "workers"),
    [
        (signal.SIGTERM, (0, 0), (), 0),
        (signal.SIGUSR1, (1, 2), (ACCUMULATED,), 2),
        (signal.SIGUSR1, (0, 5), (ACCUMULATED,), 1),
        (signal.SIGUSR2, (1, 5), (), 0),
    ],
    ids=["first batch", "half an accumulated step", "last of an epoch", "last of all"],
)
def test_a_stopped_training_goes_on_bit_for_bit(stopped, run, whole, signum, moment, more, workers):
    said, overrides, folder = stopped(signum, moment, *more, f"data.num_workers={workers}")
    assert said.startswith(f"Stopped by {signum.name}. ")
    assert run("train", *overrides, "resume=true") == 0
    assert_same(whole(*more), folder)
