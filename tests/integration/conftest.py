"""Run commands in this process, as a shell would."""

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

from helpers.trees import write_mvtec_tree

RUN = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[RUN]:
    """Run ``python -m afr_clip.COMMAND OVERRIDES``; returns the exit code."""
    threads = torch.get_num_threads()
    for variable in ("HYDRA_FULL_ERROR", "PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # what a command leaves behind
        monkeypatch.setenv(variable, "0")

    def command(name: str, *overrides: str) -> int:
        module = import_module(f"afr_clip.{name}")
        monkeypatch.setattr(sys, "argv", [f"afr_clip.{name}", *overrides])
        try:
            module.run_command(module.main)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    yield command
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def auxiliary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("data") / "auxiliary", ("bolt", "tile"))


@pytest.fixture(scope="session")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec_tree(tmp_path_factory.mktemp("data") / "unseen", ("fabric", "metal_plate"), seed=1)


@pytest.fixture
def small(auxiliary: Path, tmp_path: Path) -> list[str]:
    """Overrides of a training of two short epochs on the generated tree."""
    return [
        "dataset=folder",
        "dataset.name=generated",
        f"dataset.root={auxiliary}",
        "backbone=tiny",
        "backbone.image_size=64",
        "trainer.max_epochs=2",
        "data.num_workers=0",
        "num_threads=1",
        f"cache_dir={tmp_path / 'cache'}",
    ]
