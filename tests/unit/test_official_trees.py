import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from afr_clip.data.disk.decode import decode_image, decode_mask
from afr_clip.data.disk.folders import IMAGE_SUFFIXES
from afr_clip.data.disk.layouts import DATASETS
from afr_clip.data.disk.loaded import content_digest
from afr_clip.data.disk.pixels import SampleReader, count_vanished_defects
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.errors import DataError
from helpers import plants
from helpers.official import OFFICIAL, TREES

ALL_ANOMALOUS = {name for name, tree in TREES.items() if not tree.normal}


def counts_for(name):
    both = ("01", "02", "03") if name == "btad" else ("Class1", "Class2") if name == "dagm" else ("grid", "bottle")
    tree = TREES[name]
    categories = both if "{category}" in tree.anomalous else ("thing",)
    return dict.fromkeys(categories, (0 if name in ALL_ANOMALOUS else 5, 7))


def files(root, pattern="**/*"):
    return sorted(path.relative_to(root).as_posix() for path in root.glob(pattern) if path.is_file())


def row_of(name):
    return name.removesuffix("_original")


READABLE = sorted(name for name in OFFICIAL if row_of(name) in DATASETS and name != "colon_db_original")


@pytest.mark.parametrize("name", READABLE)
def test_what_is_read_is_what_was_asked_for(tmp_path, name):
    counts = counts_for(name)
    samples = read_samples(DatasetSpec(name, row_of(name), root=OFFICIAL[name](tmp_path, counts)))
    found = Counter((sample.category, sample.is_anomalous) for sample in samples)
    assert sorted(found.values()) == sorted(number for pair in counts.values() for number in pair if number)
    digest = content_digest(samples)
    assert len(set(digest.images)) == digest.num_images
    for sample in samples:
        image = decode_image(sample.image_path)
        if TREES[name].mask and sample.is_anomalous:
            mask = decode_mask(sample.mask_path, DATASETS[row_of(name)].mask_threshold)
            assert mask.shape == image.shape[1:]
            assert 10 < mask.sum() < mask.numel() / 2


@pytest.mark.parametrize("name", OFFICIAL)
def test_another_writing_gives_the_same_bytes(tmp_path, name):
    first, second = (OFFICIAL[name](tmp_path / folder, counts_for(name)) for folder in "ab")
    assert files(first) == files(second)
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files(first))


def test_no_two_datasets_share_a_picture(tmp_path):
    roots = [OFFICIAL[name](tmp_path / name, counts_for(name)) for name in OFFICIAL if name != "brain_mri"]
    paths = [path for root in roots for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
    contents = [decode_image(path).numpy().tobytes() for path in paths if path.read_bytes() != b"no picture"]
    pictures = [content for content in contents if len(set(content)) > 100]  # masks have fewer values
    assert len(pictures) > 150
    assert len(set(pictures)) == len(pictures)


def test_btad_mixes_suffixes_and_keeps_stems(tmp_path):
    root = OFFICIAL["btad"](tmp_path, dict.fromkeys(("01", "02", "03"), (1, 2)))
    assert files(root, "*/test/ko/0*") == [
        f"{c}/test/ko/000{k}.{s}"
        for c, s in zip(("01", "02", "03"), ("bmp", "png", "bmp"), strict=True)
        for k in (0, 1)
    ]
    assert files(root, "*/ground_truth/ko/0001*") == [
        f"{c}/ground_truth/ko/0001.{s}" for c, s in zip(("01", "02", "03"), ("png", "png", "bmp"), strict=True)
    ]


def test_brain_mri_comes_twice_in_mixed_kinds(tmp_path):
    root = OFFICIAL["brain_mri"](tmp_path, {"brain": (6, 3)})
    scans = files(root, "[yn]*/*")
    assert [path.removeprefix("brain_tumor_dataset/") for path in files(root, "brain_tumor_dataset/*/*")] == scans
    kinds = set()
    for path in scans:
        assert (root / path).read_bytes() == (root / "brain_tumor_dataset" / path).read_bytes()
        with Image.open(root / path) as image:
            kinds.add((path.rpartition(".")[2], image.mode, image.format))
    assert {("jpg", "RGBA", "PNG"), ("jpg", "P", "PNG"), ("JPG", "RGB", "JPEG"), ("jpeg", "L", "JPEG")} <= kinds
    assert any(" " in path for path in scans)


def test_head_ct_spells_its_table_as_published(tmp_path):
    lines = (OFFICIAL["head_ct"](tmp_path, {"brain": (2, 2)}) / "labels.csv").read_text().splitlines()
    assert lines[0] == "id, hemorrhage"
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "1", "2", "3"]
    assert files(tmp_path, "head_ct/head_ct/*") == [f"head_ct/head_ct/00{k}.png" for k in range(4)]


def test_colon_db_as_its_authors_name_it(tmp_path):
    root = OFFICIAL["colon_db_original"](tmp_path, {"colon": (0, 10)})
    numbers = [1 + 38 * k for k in range(10)]
    expected = [f"{n}.tif" if 77 <= n <= 97 else f"{n}.tiff" for n in numbers]
    assert files(root) == sorted(expected + [f"{letters}{n}.tiff" for n in numbers for letters in ("p", "cp")])
    assert "77.tif" in expected


def test_clinic_db_originals_are_closed_to_pillow_and_open_to_us(tmp_path):
    root = OFFICIAL["clinic_db_original"](tmp_path, {"colon": (0, 2)})
    for path in root.glob("Original/*.tif"):
        with pytest.raises(UnidentifiedImageError):
            Image.open(path)
        assert decode_image(path).float().std() > 5


def test_low_values_of_clinic_db_are_no_polyp(tmp_path):
    root = OFFICIAL["clinic_db"](tmp_path, {"colon": (0, 5)})
    values = {int(value) for path in root.glob("masks/*.png") for value in np.unique(np.asarray(Image.open(path)))}
    assert values == {0, 3, 20, 60, 100, 127, 131, 255}
    assert decode_mask(root / "masks/1.png").sum() == decode_mask(root / "masks/1.png", 128).sum() + 5


def test_masks_of_tn3k_carry_noise(tmp_path):
    root = OFFICIAL["tn3k"](tmp_path, {"thyroid": (0, 3)})
    for path in (root / "test-mask").iterdir():
        assert decode_mask(path, 1).sum() > 1.2 * decode_mask(path).sum() > 0
    assert files(root, "trainval-*/*")


def test_every_image_of_ksdd_has_a_label_and_those_of_normal_ones_are_empty(tmp_path):
    root = OFFICIAL["ksdd"](tmp_path, {"commutator": (11, 3)})
    images = files(root, "kos*/*.jpg")
    assert files(root, "kos*/*.bmp") == [path.replace(".jpg", "_label.bmp") for path in images]
    assert images[-1] == "kos02/Part5.jpg"
    assert sum(bool(decode_mask(path).any()) for path in root.rglob("*.bmp")) == 3


def test_dagm_labels_anomalous_images_only(tmp_path):
    root = OFFICIAL["dagm"](tmp_path, {"Class3": (4, 2)})
    assert files(root, "Class3/Test/*.PNG") == [f"Class3/Test/000{n}.PNG" for n in range(1, 7)]
    labelled = [path.rpartition("/")[2] for path in files(root, "Class3/Test/Label/*.PNG")]
    table = [line.split("\t") for line in (root / "Class3/Test/Label/Labels.txt").read_text().splitlines()]
    assert labelled == [row[-1] for row in table[1:] if row[1] == "1"]
    assert len(labelled) == 2


def test_magnetic_tile_keeps_masks_beside_images(tmp_path):
    root = OFFICIAL["magnetic_tile"](tmp_path, {"magnetic_tile": (3, 7)})
    for path in root.rglob("*.jpg"):
        assert decode_mask(path.with_suffix(".png")).any() == ("MT_Free" not in path.as_posix())
    assert len({path.parent.parent.name for path in root.rglob("*.jpg")}) == 6


def test_meta_json_names_files_that_are_there(tmp_path):
    root = OFFICIAL["meta_json"](tmp_path, {"bottle": (2, 3)})
    meta = json.loads((root / "meta.json").read_text())
    items = meta["test"]["bottle"]
    assert meta["train"] == {}
    assert sorted(item["anomaly"] for item in items) == [0, 0, 1, 1, 1]
    assert all((root / item["img_path"]).is_file() for item in items)
    assert all((root / item["mask_path"]).is_file() if item["anomaly"] else not item["mask_path"] for item in items)


@pytest.fixture
def bottle(tmp_path):
    """Samples of a small category, anomalous ones first, and their pairs of files."""
    root = OFFICIAL["mvtec_ad"](tmp_path, {"bottle": (1, 3)})
    samples = sorted(
        read_samples(DatasetSpec("toy", "mvtec_ad", root=root)), key=lambda sample: not sample.is_anomalous
    )
    return samples, [(sample.image_path, sample.mask_path) for sample in samples]


def test_plants_that_empty_or_mark_or_resize_a_mask(bottle):
    _, pairs = bottle
    assert not decode_mask(plants.plant_empty_mask(pairs[:1])).any()
    assert decode_mask(plants.plant_mask_of_another_size(pairs[:2])).shape == (27, 37)
    good = pairs[-1][0]
    assert decode_mask(plants.plant_marked_normal([(good, good.with_name("000_mask.png"))])).float().mean() == 0.5


def test_a_planted_defect_vanishes_at_input_size(bottle):
    samples, pairs = bottle
    plants.plant_vanishing_defect(pairs[:1])
    counts = count_vanished_defects(samples[:1], SampleReader((518, 518)))["bottle"]
    assert (counts.num_empty, counts.num_vanished) == (0, 1)


def test_plants_that_move_files(bottle):
    _, pairs = bottle
    assert plants.plant_duplicate(pairs[:2]).read_bytes() == pairs[0][0].read_bytes()
    assert plants.plant_renamed_mask(pairs[:1]).is_file()
    assert not pairs[0][1].exists()
    assert not plants.plant_missing_image(pairs[:3]).exists()
    assert not pairs[2][1].exists()


def test_planted_damage_cannot_be_decoded(bottle):
    _, pairs = bottle
    with pytest.raises(DataError, match="is not a valid image file"):
        decode_image(plants.plant_broken_image(pairs[:1]))
    with pytest.raises(DataError, match="is not a valid image file"):
        decode_mask(plants.plant_broken_mask(pairs[:1]))
