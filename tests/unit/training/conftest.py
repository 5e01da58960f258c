"""Builders for the tests of this room: a module on the tiny network, and short runs of it."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from afr_clip.data.records import AnomalyBatch
from afr_clip.losses.total import AnomalyLoss
from afr_clip.training.module import AnomalyDetectionModule
from afr_clip.training.schedule import inverse_epoch
from helpers.tiny import random_batch, tiny_network

MakeModule = Callable[..., AnomalyDetectionModule]
Run = Callable[..., pl.Trainer]


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on busy cores cost these small networks a hundred times their work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_module(towers) -> MakeModule:
    """Make a module that trains AFR-CLIP on the tiny towers."""

    def make(lr: float = 0.01, **changes: Any) -> AnomalyDetectionModule:
        network = tiny_network(towers, **changes)
        return AnomalyDetectionModule(network, AnomalyLoss(), partial(torch.optim.Adam, lr=lr), inverse_epoch)

    return make


@pytest.fixture
def make_trainer(tmp_path) -> Run:
    """Make a Trainer that writes nothing of its own."""

    def make(**changes: Any) -> pl.Trainer:
        options = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "log_every_n_steps": 1}
        quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        return pl.Trainer(default_root_dir=tmp_path, num_sanity_val_steps=0, **options | quiet | changes)

    return make


@pytest.fixture
def fit(make_trainer) -> Run:
    """Train a module on given batches."""

    def run(
        module: AnomalyDetectionModule, batches: Sequence[AnomalyBatch], resume: Path | None = None, **changes: Any
    ) -> pl.Trainer:
        trainer = make_trainer(**changes)
        trainer.fit(module, DataLoader(list(batches), batch_size=None), ckpt_path=resume, weights_only=True)
        return trainer

    return run


@pytest.fixture
def batches() -> list[AnomalyBatch]:
    return [random_batch(2, seed=1), random_batch(2, seed=2)]
