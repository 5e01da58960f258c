import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from afr_clip.data.disk.loaded import LoadedDataset, load_dataset
from afr_clip.data.disk.reading import DatasetSpec
from afr_clip.data.disk.references import choose_references
from afr_clip.data.errors import DataError
from helpers.trees import write_mvtec_tree


@pytest.fixture
def root(tmp_path):
    """A tree with five normal images of each category in its train split."""
    root = write_mvtec_tree(tmp_path)
    for number, category in enumerate(("bolt", "tile")):
        for index in range(1, 5):
            picture = np.full((96, 80, 3), 40 * number + index, dtype=np.uint8)
            Image.fromarray(picture).save(root / category / "train" / "good" / f"{index:03}.png")
    return root


def load(root, **changes: object) -> LoadedDataset:
    return load_dataset(replace(DatasetSpec("parts", "mvtec_ad", root=root), **changes))


def names(chosen: dict) -> dict[str, list[str]]:
    return {category: [sample.image_path.name for sample in samples] for category, samples in chosen.items()}


def test_references_are_normal_train_images_of_every_category_that_is_scored(root):
    chosen = choose_references(load(root), shots=3, seed=0)
    assert chosen.keys() == {"bolt", "tile"}
    for category, samples in chosen.items():
        assert len({sample.image_path for sample in samples}) == 3
        assert all(sample.image_path.parent == root / category / "train" / "good" for sample in samples)
        assert not any(sample.is_anomalous for sample in samples)
    assert choose_references(load(root, categories=("tile",)), shots=3, seed=0) == {"tile": chosen["tile"]}


def test_the_seed_decides_and_fewer_shots_are_among_more(root):
    chosen = [names(choose_references(load(root), shots=5, seed=seed)) for seed in range(5)]
    assert len({tuple(choice["bolt"]) for choice in chosen}) > 1
    assert names(choose_references(load(root), shots=5, seed=3)) == chosen[3]
    fewer = names(choose_references(load(root), shots=2, seed=3))
    assert fewer == {category: files[:2] for category, files in chosen[3].items()}


def test_too_few_normal_images_are_refused(root):
    with pytest.raises(DataError, match=r"must have 6 normal images in the train split .* but bolt has 5 below"):
        choose_references(load(root), shots=6, seed=0)


def test_a_dataset_without_a_train_split_is_refused(root):
    for category in ("bolt", "tile"):
        shutil.rmtree(root / category / "train")
    with pytest.raises(DataError, match="Split 'train' of dataset 'parts' must hold images"):
        choose_references(load(root), shots=1, seed=0)


def test_an_image_that_is_scored_is_no_reference(root):
    shutil.copy(root / "tile" / "test" / "good" / "000.png", root / "tile" / "train" / "good" / "004.png")
    with pytest.raises(
        DataError, match=r"must not be scored itself, but .*004\.png is also among the images of 'parts'"
    ):
        choose_references(load(root), shots=5, seed=0)
