"""A sweep and cells without a training behind them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from afr_clip.run.job import TrainingJob
from afr_clip.settings import SearchSettings
from afr_clip.sweep.job import Cell, SweepJob


@pytest.fixture
def cell(tmp_path: Path) -> Callable[..., Cell]:
    def make(setting: str = "table6_1", seed: int = 0, digest: str = "0123") -> Cell:
        folder = tmp_path / "cells" / f"{setting}-seed{seed}-{digest}"
        return Cell(setting, seed, (f"ablation={setting}", f"seed={seed}"), digest, folder, Mock(spec=TrainingJob))

    return make


@pytest.fixture
def sweep_of(tmp_path: Path) -> Callable[..., SweepJob]:
    """Make a sweep over two settings of table 6."""

    def make(*cells: Cell, **changes: Any) -> SweepJob:
        values: dict[str, Any] = {
            "experiment": "table6",
            "folder": tmp_path,
            "overrides": ("experiment=table6", "num_threads=1"),
            "decisive": ["experiment=table6"],
            "axes": {"ablation": ["table6_1", "table6_3"]},
            "space": {},
            "cells": cells,
            "reference": None,
            "num_trials": 1,
            "jobs": 1,
            "devices": 1,
            "dry_run": False,
            "search": SearchSettings("pixel_ap", "maximize", 0, 10),
            "launcher": "basic",
            "launcher_settings": {},
            "trial": lambda _number, _values: cells[0],
        }
        return SweepJob(**values | changes)

    return make
