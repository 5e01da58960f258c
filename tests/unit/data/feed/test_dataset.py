import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.errors import DataError
from afr_clip.data.feed.augment import build_augmentation
from afr_clip.data.feed.dataset import AnomalyDataset, NormalReferences, collate, normalise
from helpers.trees import write_mvtec_tree, write_visa_tree

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def make_dataset(root: Path, layout: str = "mvtec_ad", size=(32, 48), split: str = "test", **parts) -> AnomalyDataset:
    samples = read_samples(DatasetSpec("toy", layout, root=root, split=split))
    return AnomalyDataset(samples, SampleReader(size), MEAN, STD, **parts)


def test_a_batch_is_its_items_in_order(tmp_path):
    dataset = make_dataset(write_mvtec_tree(tmp_path))
    batch = collate([dataset[index] for index in (9, 2, 5)])
    assert batch.index.tolist() == [9, 2, 5]
    assert batch.samples == tuple(dataset.samples[index] for index in (9, 2, 5))
    assert batch.image.shape == (3, 3, 32, 48)
    for row, index in enumerate((9, 2, 5)):
        sample = dataset.samples[index]
        pixels = SampleReader((32, 48)).read(sample)
        assert_close(batch.image[row], normalise(pixels.image, MEAN, STD), rtol=0, atol=0)
        assert torch.equal(batch.mask[row], pixels.mask)
        assert bool(batch.is_anomalous[row]) == sample.is_anomalous == bool(batch.mask[row].any())


def test_class_ids_of_visa_reach_the_batch(tmp_path):
    dataset = make_dataset(write_visa_tree(tmp_path), layout="visa")
    batch = collate([dataset[index] for index in range(len(dataset))])
    assert torch.equal(batch.mask.flatten(1).any(dim=1), batch.is_anomalous)
    assert batch.has_mask.all()


def test_truth_is_unknown_for_all_images_of_a_set_without_masks(tmp_path):
    write_mvtec_tree(tmp_path, categories=("bolt",))
    shutil.rmtree(tmp_path / "bolt/ground_truth")
    dataset = make_dataset(tmp_path)
    assert not any(dataset[index].has_mask for index in range(len(dataset)))


def test_truth_is_known_where_all_images_are_normal(tmp_path):
    dataset = make_dataset(write_mvtec_tree(tmp_path), split="train")
    assert all(dataset[index].has_mask for index in range(len(dataset)))


def test_a_copy_in_another_process_reads_the_same(tmp_path):
    dataset = make_dataset(write_mvtec_tree(tmp_path), augmentation=build_augmentation((32, 48)))
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[3, 11].image, dataset[3, 11].image)


def test_augmentation_follows_the_draw_and_needs_one(tmp_path):
    dataset = make_dataset(write_mvtec_tree(tmp_path), augmentation=build_augmentation((32, 48)))
    draws = [dataset[3, seed].image for seed in range(4)]
    assert not all(torch.equal(draws[0], draw) for draw in draws)
    with pytest.raises(TypeError, match=r"must be asked for \(index, draw_seed\), got 3"):
        dataset[3]


def test_without_augmentation_the_draw_does_not_matter(tmp_path):
    dataset = make_dataset(write_mvtec_tree(tmp_path))
    assert torch.equal(dataset[3, 1].image, dataset[3].image)


def with_references(root: Path, **parts) -> AnomalyDataset:
    plain = make_dataset(root)
    return make_dataset(root, references=NormalReferences(plain.samples), **parts)


def test_a_reference_is_another_normal_image_of_the_category_as_it_is(tmp_path):
    root = write_mvtec_tree(tmp_path)
    plain, dataset = make_dataset(root), with_references(root, augmentation=build_augmentation((32, 48)))
    assert plain[0, 1].reference is None
    assert dataset.num_bytes == 2 * plain.num_bytes
    for index, sample in enumerate(plain.samples):
        normal = {i for i, one in enumerate(plain.samples) if one.category == sample.category and not one.is_anomalous}
        references = [dataset[index, seed].reference for seed in range(30)]
        assert {one.index for one in references} == normal - {index}  # each is drawn sometimes
        assert torch.equal(references[0].image, plain[references[0].index].image)


def test_a_reference_follows_the_draw_and_needs_one(tmp_path):
    dataset = with_references(write_mvtec_tree(tmp_path))
    again = pickle.loads(pickle.dumps(dataset))
    for seed in range(5):
        assert dataset[3, seed].reference.index == again[3, seed].reference.index
    with pytest.raises(TypeError, match=r"must be asked for \(index, draw_seed\), got 3"):
        dataset[3]
    batch = collate([dataset[3, 0], dataset[4, 1]])
    assert batch.reference.index.tolist() == [dataset[3, 0].reference.index, dataset[4, 1].reference.index]
    assert batch.reference.reference is None


@pytest.mark.parametrize(("num", "found"), [(0, "0 normal images"), (1, "1 normal image")])
def test_a_category_without_another_normal_image_is_refused(tmp_path, num, found):
    root = write_mvtec_tree(tmp_path, categories=("bolt", "tile"))
    for path in sorted((root / "tile/test/good").iterdir())[num:]:
        path.unlink()
    with pytest.raises(DataError, match=rf"another normal image of its category, but 'tile' of 'toy' has {found}\."):
        with_references(root)


def test_normalising_follows_the_formula_per_channel():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 4)
    mean, std = [0.1, 0.2, 0.5], [0.5, 0.25, 2.0]
    expected = torch.tensor([-0.2, 0.0, 0.25]).view(3, 1, 1).expand(3, 2, 4)
    normalised = normalise(image, mean, std)
    assert normalised.dtype == torch.float32
    assert_close(normalised, expected)
