import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from afr_clip.data.disk.loaded import LoadedDataset, choose_references, content_digest, list_photographs, load_dataset
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.errors import DataError, MissingDataError
from helpers.trees import write_mvtec_tree


def read(root):
    return read_samples(DatasetSpec("toy", "mvtec_ad", root=root))


def test_hashes_are_those_of_the_files_and_counts_fit(tmp_path):
    samples = read(write_mvtec_tree(tmp_path, num_normal=3, num_anomalous=2))
    digest = content_digest(samples)
    assert (digest.num_images, digest.num_masks, digest.num_anomalous) == (10, 4, 4)
    for sample, image, mask in zip(samples, digest.images, digest.masks, strict=True):
        assert image == hashlib.sha256(sample.image_path.read_bytes()).hexdigest()
        assert (mask is None) == (sample.mask_path is None)


def test_where_the_files_lie_does_not_matter_but_every_byte_does(tmp_path):
    write_mvtec_tree(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = (content_digest(read(tmp_path / name)).sha256 for name in "ab")
    assert first == second
    mask = tmp_path / "b/bolt/ground_truth/spot/001_mask.png"
    mask.write_bytes(mask.read_bytes() + b"\0")
    assert content_digest(read(tmp_path / "b")).sha256 != first


def test_a_file_that_disappears_is_named(tmp_path):
    samples = read(write_mvtec_tree(tmp_path))
    samples[0].image_path.unlink()
    with pytest.raises(MissingDataError, match=r"Cannot read .*good.000\.png"):
        content_digest(samples)


def test_a_folder_is_searched_to_its_depths_and_junk_is_passed_over(tmp_path):
    write_mvtec_tree(tmp_path, categories=("bolt",), num_normal=2, num_anomalous=0)
    (tmp_path / "bolt/._000.png").write_bytes(b"junk")
    (tmp_path / "notes.txt").write_text("junk")
    loaded = list_photographs(tmp_path, "hex bolt")
    paths = [sample.image_path.relative_to(tmp_path).as_posix() for sample in loaded.samples]
    assert paths == ["bolt/test/good/000.png", "bolt/test/good/001.png", "bolt/train/good/000.png"]
    assert {sample.prompt_name for sample in loaded.samples} == {"hex bolt"}


def test_one_file_is_one_photograph(tmp_path):
    path = write_mvtec_tree(tmp_path, categories=("bolt",)) / "bolt/train/good/000.png"
    assert [sample.image_path for sample in list_photographs(path, "bolt").samples] == [path]


def test_no_photograph_at_all_is_an_error(tmp_path):
    with pytest.raises(MissingDataError, match="contains no image"):
        list_photographs(tmp_path, "bolt")
    with pytest.raises(MissingDataError, match="does not exist"):
        list_photographs(tmp_path / "absent", "bolt")


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
    with pytest.raises(DataError, match=r"6 normal images of each category in the train split .* but bolt has 5 below"):
        choose_references(load(root), shots=6, seed=0)


def test_a_dataset_without_a_train_split_is_refused(root):
    for category in ("bolt", "tile"):
        shutil.rmtree(root / category / "train")
    with pytest.raises(DataError, match="Split 'train' of dataset 'parts' must hold images"):
        choose_references(load(root), shots=1, seed=0)


def test_an_image_that_is_scored_is_no_reference(root):
    shutil.copy(root / "tile" / "test" / "good" / "000.png", root / "tile" / "train" / "good" / "004.png")
    with pytest.raises(
        DataError, match=r"must not be scored, but .*004\.png is also among the scored images of 'parts'"
    ):
        choose_references(load(root), shots=5, seed=0)
