import hashlib
import platform
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from afr_clip.data.disk.reading import DatasetSpec, read_samples
from drawn_anomalies import tree
from drawn_anomalies.catalogue import CATEGORIES
from drawn_anomalies.kinds import DEFECTS, HELD_OUT
from drawn_anomalies.settings import DrawnSet, DrawnSettings
from drawn_anomalies.tree import EDITION, NUM_TRAIN, DrawingError, Picture, draw, drawn_dataset, pictures

SMALL = DrawnSettings(
    DrawnSet.auxiliary, images_per_category=4, size=48, defect_scale=1.6, least_contrast=0.3, least_area=0.012, seed=0
)


@pytest.fixture(scope="module", params=list(CATEGORIES), ids=lambda drawn_set: drawn_set.value)
def written(request, tmp_path_factory) -> tuple[DrawnSettings, Path]:
    """Each set as it is, written once."""
    settings = replace(SMALL, categories=request.param)
    return settings, drawn_dataset(settings, tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def two_categories(monkeypatch):
    """A catalogue of two categories, for tests of how it is written rather than of what."""
    monkeypatch.setattr(tree, "CATEGORIES", {one: categories[-2:] for one, categories in CATEGORIES.items()})


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_a_drawn_dataset_is_read_like_mvtec_ad(written):
    settings, root = written
    categories = CATEGORIES[settings.categories]
    samples = read_samples(DatasetSpec("demo", "mvtec_ad", root=root))
    assert Counter(sample.category for sample in samples) == {category.name: 4 for category in categories}
    assert Counter(sample.is_anomalous for sample in samples) == {True: 2 * len(categories), False: 2 * len(categories)}
    for category in categories:
        kinds = {one.defect_type for one in samples if one.category == category.name and one.is_anomalous}
        assert kinds == set(category.defects[:2])
    train = read_samples(DatasetSpec("demo", "mvtec_ad", root=root, split="train"))
    assert Counter(sample.category for sample in train) == {category.name: NUM_TRAIN for category in categories}
    assert not any(sample.is_anomalous for sample in train)


def test_every_anomalous_image_has_a_mask_of_its_size_that_is_not_empty(written):
    _, root = written
    for sample in read_samples(DatasetSpec("demo", "mvtec_ad", root=root)):
        image = np.asarray(Image.open(sample.image_path))
        assert (image.shape, image.dtype) == ((48, 48, 3), np.uint8)
        assert image.std() > 2
        if sample.is_anomalous:
            mask = np.asarray(Image.open(sample.mask_path))
            assert mask.shape == (48, 48)
            assert set(np.unique(mask)) == {0, 255}
        else:
            assert sample.mask_path is None


def test_no_two_pictures_are_the_same(written):
    _, root = written
    images = [digest for name, digest in digests(root).items() if "ground_truth" not in name]
    assert len(set(images)) == len(images)


def test_the_same_settings_give_the_same_files_in_another_folder(written, tmp_path):
    settings, root = written
    again = drawn_dataset(settings, tmp_path)
    assert again != root
    assert digests(again) == digests(root)


def test_another_seed_gives_other_files_throughout(two_categories, tmp_path):
    first, other = (drawn_dataset(replace(SMALL, seed=seed), tmp_path) for seed in (0, 1))
    before, after = digests(first), digests(other)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] == after[name]] == []


def test_a_picture_does_not_depend_on_how_many_others_are_drawn(two_categories, tmp_path):
    few, many = (drawn_dataset(replace(SMALL, images_per_category=num), tmp_path) for num in (4, 9))
    before, after = digests(few), digests(many)
    assert len(after) > len(before)
    assert before.items() <= after.items()


def test_a_picture_does_not_depend_on_what_was_drawn_before():
    picture = pictures(SMALL)[-1]
    image, mask = draw(SMALL, picture)
    draw(SMALL, pictures(SMALL)[0])
    again, again_mask = draw(SMALL, picture)
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(again_mask, mask)


@pytest.mark.parametrize("num", [2, 5, 12])
def test_half_of_a_categorys_test_images_are_normal_and_the_rest_is_spread_over_its_defects(num):
    listed = pictures(replace(SMALL, images_per_category=num))
    for number, category in enumerate(CATEGORIES[DrawnSet.auxiliary]):
        own = Counter(one.kind for one in listed if (one.number, one.split) == (number, "test"))
        assert own.pop("good") == num - num // 2
        counts = [own.get(kind, 0) for kind in category.defects]
        assert sum(counts) == own.total() == num // 2
        assert max(counts) - min(counts) <= 1
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize(
    ("drawn_set", "kind", "colour", "area"),
    [
        (DrawnSet.auxiliary, "good", (137.479, 137.765, 131.302), 0.0),
        (DrawnSet.unseen, "crack", (128.703, 113.736, 115.634), 0.02954),
    ],
)
def test_the_pictures_of_the_demo_are_those_of_edition_2(drawn_set, kind, colour, area):
    settings = DrawnSettings(drawn_set, 30, 64, defect_scale=1.6, least_contrast=0.3, least_area=0.012, seed=0)
    chosen = [draw(settings, Picture(number, "test", kind, 1)) for number in range(3)]
    # Rounded, because processors differ in the last bits of a drawing.
    assert EDITION == 2
    assert np.mean([image.mean(axis=(0, 1)) for image, _ in chosen], axis=0) == pytest.approx(colour, abs=0.1)
    assert np.mean([mask.mean() for _, mask in chosen if mask is not None] or 0) == pytest.approx(area, abs=2e-4)


def test_a_dataset_that_is_there_is_not_written_again(two_categories, tmp_path, monkeypatch):
    root = drawn_dataset(SMALL, tmp_path)
    monkeypatch.setattr(tree, "_write", lambda *_: pytest.fail("written again"))
    assert drawn_dataset(SMALL, tmp_path) == root


def test_datasets_of_other_settings_lie_in_other_folders(two_categories, tmp_path, monkeypatch):
    monkeypatch.setattr(tree, "_write", lambda _, root: root.mkdir(parents=True))
    changes = (
        {},
        {"categories": DrawnSet.unseen},
        {"images_per_category": 5},
        {"size": 64},
        {"defect_scale": 1.0},
        {"least_contrast": 0.1},
        {"least_area": 0.0},
        {"seed": 1},
    )
    roots = {drawn_dataset(replace(SMALL, **change), tmp_path) for change in changes}
    monkeypatch.setattr(tree, "EDITION", tree.EDITION + 1)
    roots.add(drawn_dataset(SMALL, tmp_path))
    assert len(roots) == len(changes) + 1


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_an_interruption_leaves_nothing_behind(two_categories, tmp_path, monkeypatch, interruption):
    write, jobs = tree._write_one, []

    def interrupted(job: tuple) -> None:
        jobs.append(job)
        if len(jobs) == 5:
            raise interruption
        write(job)

    monkeypatch.setattr(tree, "_write_one", interrupted)
    with pytest.raises(interruption):
        drawn_dataset(SMALL, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path != tmp_path / tree.FOLDER] == []
    monkeypatch.setattr(tree, "_write_one", write)
    assert len(digests(drawn_dataset(SMALL, tmp_path))) == len(pictures(SMALL)) + 2 * 2


def test_a_full_disk_is_told_in_a_sentence_and_leaves_nothing_behind(two_categories, tmp_path, monkeypatch):
    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tree, "_write_one", full)
    with pytest.raises(DrawingError, match=r"Cannot write .* to .*auxiliary_48px.*No space left.*Set drawn_dir=DIR"):
        drawn_dataset(SMALL, tmp_path)
    assert list((tmp_path / tree.FOLDER).iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DrawingError, match=r"Cannot write .* to .*file.*Set drawn_dir=DIR"):
        drawn_dataset(SMALL, tmp_path / "file")


def test_where_another_process_was_faster_its_dataset_is_taken(two_categories, tmp_path, monkeypatch):
    write = tree._write

    def overtaken(settings: DrawnSettings, folder: Path) -> None:
        write(settings, folder)
        name = folder.name.removeprefix(".").partition(".unfinished")[0]
        (folder.with_name(name) / "of_the_other").mkdir(parents=True)

    monkeypatch.setattr(tree, "_write", overtaken)
    root = drawn_dataset(SMALL, tmp_path)
    assert [path.name for path in root.iterdir()] == ["of_the_other"]
    assert list((tmp_path / tree.FOLDER).iterdir()) == [root]


def test_what_a_killed_process_left_of_a_dataset_is_removed(tmp_path):
    root = drawn_dataset(SMALL, tmp_path)
    dead, alive = (root.with_name(f".{root.name}.unfinished-{platform.node()}-{pid}") for pid in (2**22 + 1, 1))
    root.rename(dead)
    alive.mkdir()
    assert drawn_dataset(SMALL, tmp_path) == root
    assert sorted(root.parent.iterdir()) == sorted([alive, root])


def test_the_two_sets_share_no_category_and_held_out_defects_are_the_unseen_sets_alone():
    names = {one: [category.name for category in CATEGORIES[one]] for one in CATEGORIES}
    kinds = {one: {kind for category in CATEGORIES[one] for kind in category.defects} for one in CATEGORIES}
    every = names[DrawnSet.auxiliary] + names[DrawnSet.unseen]
    assert len(set(every)) == len(every)
    assert not kinds[DrawnSet.auxiliary] & set(HELD_OUT)
    assert set(HELD_OUT) <= kinds[DrawnSet.unseen] <= DEFECTS.keys()


def test_both_training_sets_together_show_the_pictures_of_each():
    both, auxiliary, names = (
        replace(SMALL, categories=one, images_per_category=10)
        for one in (DrawnSet.auxiliary_and_names, DrawnSet.auxiliary, DrawnSet.names)
    )
    first, listed = len(CATEGORIES[DrawnSet.auxiliary]), pictures(both)
    alone = pictures(auxiliary)
    assert listed[: len(alone)] == alone
    few = pictures(replace(names, images_per_category=6))
    assert [replace(one, number=one.number - first) for one in listed[len(alone) :]] == few
    np.testing.assert_array_equal(draw(both, alone[7])[0], draw(auxiliary, alone[7])[0])
    named = listed[len(alone) + 9]
    np.testing.assert_array_equal(draw(both, named)[0], draw(names, few[9])[0])


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param((drawn_set, Picture(number, "test", kind, 0)), id=f"{category.name}-{kind}")
        for drawn_set, categories in CATEGORIES.items()
        for number, category in enumerate(categories)
        for kind in category.defects[2:]  # the first two are in the trees above
    ],
)
def test_every_category_can_have_each_of_its_defects(picture):
    drawn_set, wanted = picture
    image, mask = draw(replace(SMALL, categories=drawn_set), wanted)
    assert image.shape == (48, 48, 3)
    assert mask.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images_per_category": 5, "categories": DrawnSet.names}, r"must be at least 6 where the name decides, got 5"),
        ({"images_per_category": 1}, r"images_per_category must be at least 2, got 1\. Half of them are normal\."),
        ({"size": 31}, r"size must be at least 32 pixels, got 31\. The default is 256\."),
        ({"defect_scale": 0.0}, r"defect_scale must lie in \(0, 3\.0\], got 0\.0\."),
        ({"least_contrast": 0.6}, r"least_contrast must lie in 0\.\.0\.5, got 0\.6\. Ask for less\."),
        ({"seed": -1}, r"seed must not be negative, got -1\. Use 0\."),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_the_smallest_settings_can_be_drawn(two_categories, tmp_path):
    root = drawn_dataset(replace(SMALL, categories=DrawnSet.unseen, images_per_category=2, size=32), tmp_path)
    assert len(read_samples(DatasetSpec("demo", "mvtec_ad", root=root))) == 2 * 2
