"""Cells without a training behind them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from afr_clip.config.axes import Axes
from afr_clip.sweep.plan import Cell, Plan


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    axes = Axes({"ablation": ("table6_1", "table6_3")}, {})
    return Plan("table6", ("experiment=table6", "num_threads=1"), axes, tmp_path)


@pytest.fixture
def cell(tmp_path: Path) -> Callable[..., Cell]:
    def make(setting: str = "table6_1", seed: int = 0, digest: str = "0123") -> Cell:
        config = OmegaConf.create({"protocol": {"legs": {}}})
        folder = tmp_path / "cells" / f"{setting}-seed{seed}-{digest}"
        return Cell(setting, seed, (f"ablation={setting}", f"seed={seed}"), digest, folder, config)

    return make
