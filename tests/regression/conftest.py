"""Where the real photographs are."""

import os
from pathlib import Path

import pytest

VARIABLE = "AFR_CLIP_TEST_DATA"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    folder = Path(os.environ.get(VARIABLE) or Path(__file__).parents[3] / "shared" / "data")
    if not (folder / "MANIFEST.csv").is_file():
        pytest.skip(f"needs MANIFEST.csv and its photographs in {folder}; set {VARIABLE} to their folder")
    return folder
