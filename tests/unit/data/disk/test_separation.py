import shutil

import pytest

from afr_clip.data.disk.loaded import LoadedDataset, load_dataset
from afr_clip.data.disk.reading import DatasetSpec
from afr_clip.data.disk.separation import TrainedOn, refuse_overlap
from afr_clip.data.errors import DataError
from helpers.trees import write_mvtec_tree


@pytest.fixture
def load(tmp_path):
    """Load a generated tree under a name; another seed gives other images."""

    def loaded(name: str, folder: str, seed: int, categories: tuple[str, ...] | None = None) -> LoadedDataset:
        if not (tmp_path / folder).exists():
            write_mvtec_tree(tmp_path / folder, num_normal=1, num_anomalous=2, seed=seed)
        return load_dataset(DatasetSpec(name, "folder", root=tmp_path / folder, categories=categories))

    return loaded


def test_what_a_checkpoint_remembers_survives_writing(load):
    trained_on = TrainedOn.of(load("a", "one", 0, ("bolt",)))
    assert TrainedOn.from_plain(trained_on.as_plain()) == trained_on
    assert len(trained_on.images) == 3


def test_another_dataset_is_scored(load):
    assert refuse_overlap(TrainedOn.of(load("a", "one", 0)), load("b", "two", 1)) is None


def test_the_same_name_or_folder_needs_disjoint_categories(load):
    named = TrainedOn.of(load("a", "one", 0, ("bolt",)))
    refuse_overlap(named, load("a", "one", 0, ("tile",)))
    for target in (load("a", "two", 1), load("b", "one", 0), load("a", "one", 0, ("bolt", "tile"))):
        with pytest.raises(DataError, match="their categories must be given"):
            refuse_overlap(named, target)
    with pytest.raises(DataError, match=r"got all and \['tile'\]"):
        refuse_overlap(TrainedOn.of(load("a", "one", 0)), load("a", "one", 0, ("tile",)))


@pytest.mark.parametrize("name", ["folder", "meta_json"])
def test_two_folders_of_ones_own_are_two_datasets_though_neither_was_named(load, name):
    trained_on = TrainedOn.of(load(name, "one", 0))
    refuse_overlap(trained_on, load(name, "two", 1))
    with pytest.raises(DataError, match=r"share the folder .*, or choose another target\.$"):
        refuse_overlap(trained_on, load(name, "one", 0))


def test_a_name_that_was_used_before_can_be_changed(load):
    with pytest.raises(DataError, match=r"share the name 'a', .* if this is another dataset, name it: dataset\.name="):
        refuse_overlap(TrainedOn.of(load("a", "one", 0)), load("a", "two", 1))


def test_one_shared_image_under_another_name_is_enough(load, tmp_path):
    trained_on = TrainedOn.of(load("a", "one", 0))
    load("b", "two", 1)
    shutil.copy(tmp_path / "one/bolt/test/good/000.png", tmp_path / "two/tile/test/good/renamed.png")
    with pytest.raises(DataError, match=r"share 1 image files; the first is .*renamed\.png"):
        refuse_overlap(trained_on, load("b", "two", 1))
