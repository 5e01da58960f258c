"""Small trees, and a training on them."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

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
from afr_clip import train
from afr_clip.training.module import AnomalyDetectionModule

def killing(self, batch, batch_idx):
    if batch.samples[0].dataset == {dataset!r} and self.current_epoch == {epoch} and batch_idx == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)

step = AnomalyDetectionModule.{step}
AnomalyDetectionModule.{step} = killing
train.run_command(train.main)
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
        done = subprocess.run([sys.executable, "-c", source, *overrides], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr

    return run_and_die
