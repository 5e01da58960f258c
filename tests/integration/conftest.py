"""Small trees, and a training on them."""

import functools
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from afr_clip.training.module import AnomalyDetectionModule
from helpers.overrides import last_of_each
from helpers.trees import write_mvtec_tree


@pytest.fixture(scope="session")
def auxiliary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("data") / "auxiliary", ("bolt", "tile"))


@pytest.fixture(scope="session")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("data") / "unseen", ("fabric", "metal_plate"), seed=1)


QUICK = ("backbone=tiny", "backbone.image_size=64", "trainer.max_epochs=2", "data.num_workers=0", "num_threads=1")
"""Overrides of a training of two short epochs, on whatever."""

KILLED = """
import os, signal
from afr_clip.cli.main import run
from afr_clip.training.module import AnomalyDetectionModule

def killing(self, batch, batch_idx):
    if batch.samples[0].dataset == {dataset!r} and self.current_epoch == {epoch} and batch_idx == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)

step = AnomalyDetectionModule.{step}
AnomalyDetectionModule.{step} = killing
run("train")
"""
"""A train command that does not survive its second batch of a dataset."""


@pytest.fixture(scope="session")
def quick() -> list[str]:
    return list(QUICK)


@pytest.fixture
def small(auxiliary: Path, tmp_path: Path, quick: list[str]) -> list[str]:
    """Overrides of such a training on the generated tree."""
    cache = f"cache_dir={tmp_path / 'cache'}"
    return ["dataset=folder", "dataset.name=generated", f"dataset.root={auxiliary}", *quick, cache]


@pytest.fixture
def killed() -> Callable[..., None]:
    """Run a train command that is killed while it trains on a dataset, or scores it."""

    def run_and_die(overrides: Sequence[str], dataset: str, step: str, epoch: int = 0) -> None:
        source = KILLED.format(dataset=dataset, step=step, epoch=epoch)
        command = [sys.executable, "-c", source, *last_of_each(overrides)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr

    return run_and_die


SHORT_STEPS = ("data.batch_size=3", "data.augment=true", "trainer.log_every_n_steps=1")
"""Six steps an epoch, each of them logged."""


@pytest.fixture(scope="module")
def whole(run_once, auxiliary: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train in short steps, undisturbed; returns the run folder, the same for the same overrides."""

    @functools.cache
    def train(*more: str) -> Path:
        folder = tmp_path_factory.mktemp("whole") / "run"
        data = ["dataset=folder", "dataset.name=generated", f"dataset.root={auxiliary}"]
        assert run_once("train", *data, *QUICK, *SHORT_STEPS, *more, f"run_dir={folder}") == 0
        return folder

    return train


@pytest.fixture
def short(small: list[str]) -> list[str]:
    """Overrides of a training in short steps."""
    return [*small, *SHORT_STEPS]


@pytest.fixture
def disturbed(run, short, tmp_path, capsys, monkeypatch) -> Callable[..., tuple[int, str, list[str]]]:
    """Train in short steps, of which one is disturbed; returns exit code, sentence and overrides."""

    def train(moment: tuple[int, int], disturb: Callable[[], object], *more: str) -> tuple[int, str, list[str]]:
        step = AnomalyDetectionModule.training_step

        def disturbing(self, batch, batch_idx):
            if (self.current_epoch, batch_idx) == moment:
                disturb()
            return step(self, batch, batch_idx)

        overrides = [*short, *more, f"run_dir={tmp_path / 'run'}"]
        with monkeypatch.context() as patch:
            patch.setattr(AnomalyDetectionModule, "training_step", disturbing)
            code = run("train", *overrides)
        said = capsys.readouterr().err
        assert "Traceback" not in said
        (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
        return code, sentence.removeprefix("error: "), overrides

    return train


@pytest.fixture
def assert_goes_on(run, whole) -> Callable[..., None]:
    """Resume a disturbed run: weights and logged numbers must be those of an undisturbed one, to the last bit."""

    def resume(overrides: Sequence[str], *more: str) -> None:
        (folder,) = [Path(override.removeprefix("run_dir=")) for override in overrides if "run_dir=" in override]
        assert run("train", *overrides, "resume=true") == 0
        ours, theirs = (
            torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            for path in (folder, whole(*more))
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
        assert (folder / "metrics.csv").read_text() == (whole(*more) / "metrics.csv").read_text()

    return resume


@pytest.fixture(scope="module")
def trained_into(run_once, auxiliary: Path, unseen: Path) -> Callable[[Path], Path]:
    """Train a tiny network for one epoch and score two unseen categories, in a given folder."""

    def train(folder: Path) -> Path:
        data = ["dataset=folder", "dataset.name=generated", f"dataset.root={auxiliary}"]
        targets = ["protocol.targets=[parts]", f"+protocol.roots.parts={unseen}"]
        quick = ["backbone=tiny", "backbone.image_size=64", "trainer.max_epochs=1", "seed=3"]
        quoted = str(folder).replace("'", "\\'")
        own = ["data.num_workers=0", "num_threads=1", f"run_dir='{quoted}'"]
        assert run_once("train", *data, *targets, *quick, *own) == 0
        return folder

    return train
