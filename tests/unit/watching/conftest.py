"""A folder to watch, and photographs for it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def camera(tmp_path) -> Callable[..., Path]:
    """Write a photograph of one brightness into the folder, with a date of its own."""
    folder = tmp_path / "camera"
    folder.mkdir()

    def write(name: str, value: int = 100, date: int = 1) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (value,) * 3).save(path, "PNG")
        os.utime(path, (date, date))
        return path

    write.folder = folder
    return write
