"""Cells without a training behind them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from afr_clip.run.job import ProtocolJob
from afr_clip.settings import SearchSettings
from afr_clip.sweep.job import Cell, SweepJob


@pytest.fixture
def plan(tmp_path: Path) -> SweepJob:
    return SweepJob(
        experiment="table6",
        folder=tmp_path,
        overrides=("experiment=table6", "num_threads=1"),
        decisive=["experiment=table6"],
        axes={"ablation": ["table6_1", "table6_3"]},
        space={},
        cells=(),
        reference="table6_3",
        num_trials=1,
        jobs=1,
        devices=1,
        dry_run=False,
        search=SearchSettings("image_auroc", "maximize", 0, 1),
        launcher="basic",
        launcher_settings={},
        trial=lambda number, values: None,
    )


@pytest.fixture
def cell(tmp_path: Path) -> Callable[..., Cell]:
    def make(setting: str = "table6_1", seed: int = 0, digest: str = "0123") -> Cell:
        folder = tmp_path / "cells" / f"{setting}-seed{seed}-{digest}"
        return Cell(setting, seed, (f"ablation={setting}", f"seed={seed}"), digest, folder, ProtocolJob(folder, ()))

    return make
