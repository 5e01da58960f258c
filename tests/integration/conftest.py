"""Small trees, and a training on them."""

from pathlib import Path

import pytest

from helpers.trees import write_mvtec_tree


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
