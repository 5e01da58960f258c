"""Every public layout passes the check, and every pitfall of public datasets is found in it and named."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from afr_clip.data.disk.layouts import DATASETS, dataset_row
from afr_clip.data.disk.listing import Truth
from afr_clip.data.disk.loaded import load_dataset
from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.disk.reading import DatasetSpec, list_entries
from afr_clip.data.disk.rows.row import Count
from afr_clip.data.errors import DataError
from afr_clip.data.tools.check import check_dataset, sum_counts
from helpers.official import OFFICIAL
from helpers.plants import (
    Pair,
    plant_broken_image,
    plant_broken_mask,
    plant_duplicate,
    plant_empty_mask,
    plant_marked_normal,
    plant_mask_of_another_size,
    plant_missing_image,
    plant_renamed_mask,
    plant_vanishing_defect,
)

NUM_CATEGORIES = 2
"""So many categories of a dataset are written."""

FORMS = [name for name in OFFICIAL if name != "meta_json"]
MASKED = [name for name in FORMS if "pixel" in dataset_row(name.removesuffix("_original")).levels]
WITH_NORMAL = [name for name in MASKED if "image" in dataset_row(name.removesuffix("_original")).levels]
TOLD_BY_MASK = {"ksdd": Truth.MASK_PIXELS, "ksdd2": Truth.MASK_PIXELS, "dagm": Truth.MASK_FILE}
"""Where the mask is the truth, its loss is a normal image more, and shows in the numbers."""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a few images in an official layout, and take their numbers for the published ones."""

    def write(form: str) -> DatasetSpec:
        name = form.removesuffix("_original")
        row = dataset_row(name)
        categories = [*row.counts, *row.prompt_names][:NUM_CATEGORIES] or ["item"]
        num_normal = 3 if row.total is None or row.total.normal else 0
        counts = dict.fromkeys(categories, Count(num_normal, 5))
        monkeypatch.setitem(DATASETS, name, replace(row, counts=counts, total=None))
        return DatasetSpec(name, name, root=OFFICIAL[form](tmp_path / form, counts))

    return write


def pairs(spec: DatasetSpec, *, anomalous: bool = True) -> Sequence[Pair]:
    """The images of the first category with their masks."""
    entries = list_entries(spec, spec.root)[1]
    return [(e.image, e.mask) for e in entries if e.is_anomalous == anomalous and e.category == entries[0].category]


def faults(spec: DatasetSpec, **how: bool) -> list[str]:
    return [finding.text for finding in check_dataset(spec, **how).findings if finding.is_fault]


def notes(spec: DatasetSpec) -> list[str]:
    return [finding.text for finding in check_dataset(spec).findings if not finding.is_fault]


def named(texts: Sequence[str], *words: str) -> bool:
    return any(all(word in text for word in words) for text in texts)


@pytest.mark.parametrize("form", FORMS)
def test_every_official_layout_is_complete_and_sound(tree, form):
    spec = tree(form)
    found = check_dataset(spec)
    assert [finding.text for finding in found.findings if finding.is_fault] == []
    assert found.counts == found.published
    assert sum_counts(found.counts).anomalous == 5 * len(found.counts)


@pytest.mark.parametrize("form", FORMS)
def test_an_image_that_went_missing_shows_in_the_numbers_or_by_its_name(tree, form):
    spec = tree(form)
    image = plant_missing_image(pairs(spec))
    texts = faults(spec)
    assert named(texts, "Not the published numbers", "instead of") or named(texts, "not on disk", image.name)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_picture_twice_in_a_category_is_named(tree, form):
    spec = tree(form)
    copy = plant_duplicate(pairs(spec))
    assert named(notes(spec), "are the same picture within a category", copy.name)
    assert faults(spec) == []


@pytest.mark.parametrize("form", FORMS)
def test_an_image_that_cannot_be_decoded_is_named(tree, form):
    spec = tree(form)
    image = plant_broken_image(pairs(spec))
    assert named(faults(spec), "cannot be decoded", image.name)


@pytest.mark.parametrize("form", MASKED)
def test_a_mask_that_cannot_be_decoded_is_named(tree, form):
    spec = tree(form)
    mask = plant_broken_mask(pairs(spec))
    if TOLD_BY_MASK.get(form) is Truth.MASK_PIXELS:
        with pytest.raises(DataError, match=f"{mask.name} is not a valid image file"):
            check_dataset(spec)
    else:
        assert named(faults(spec), "cannot be decoded", mask.name)


@pytest.mark.parametrize("form", MASKED)
@pytest.mark.parametrize(
    ("plant", "truth", "words"),
    [
        (plant_empty_mask, Truth.MASK_PIXELS, "1 mask marks no pixel"),
        (plant_mask_of_another_size, None, "1 mask differs in size"),
        (plant_renamed_mask, Truth.MASK_FILE, "1 anomalous image has no mask;"),
    ],
)
def test_a_wrong_mask_is_named_or_makes_another_number_of_normal_images(tree, form, plant, truth, words):
    spec = tree(form)
    image, mask = pairs(spec)[-1]
    plant(pairs(spec))
    texts = faults(spec)
    if truth is not None and TOLD_BY_MASK.get(form) is truth:
        assert named(texts, "Not the published numbers", "4 + 4 instead of 3 + 5")
    else:
        assert named(texts, words, (image if plant is plant_renamed_mask else mask).name)


@pytest.mark.parametrize(
    "form", [name for name in MASKED if "image" in dataset_row(name.removesuffix("_original")).levels]
)
def test_a_normal_image_whose_mask_marks_something_is_named(tree, form):
    spec = tree(form)
    anomalous, normal = pairs(spec)[0], pairs(spec, anomalous=False)[-1]
    if form == "visa":  # whose table says which mask belongs to which image
        table = spec.root / "split_csv" / "1cls.csv"
        name, place = (path.relative_to(spec.root).as_posix() for path in (normal[0], anomalous[1]))
        table.write_text(table.read_text().replace(f"{name},", f"{name},{place}"))
        mask = anomalous[1]
    elif form.startswith("real_iad"):  # likewise
        mask, folder = anomalous[1], normal[0].parents[2]
        (table,) = spec.root.glob(f"*/*/{folder.name}.json")
        content = json.loads(table.read_text())
        item = next(item for item in content["test"] if item["anomaly_class"] == "OK")
        item["mask_path"] = mask.relative_to(folder).as_posix()
        table.write_text(json.dumps(content))
    elif form == "mvtec_loco":  # where a mask is a folder
        mask = anomalous[1].parents[1] / "good" / normal[0].stem
        plant_marked_normal([(normal[0], mask / "000.png")])
    elif normal[1] is None:
        place = anomalous[1].relative_to(spec.root).as_posix()
        for part in {anomalous[0].parent.name}:
            place = place.replace(f"/{part}/", f"/{normal[0].parent.name}/")
        mask = plant_marked_normal([(normal[0], (spec.root / place).with_name(_mask_name(anomalous, normal[0])))])
    else:
        mask = plant_marked_normal([normal])
    if form in TOLD_BY_MASK:
        assert named(faults(spec), "Not the published numbers", "2 + 6 instead of 3 + 5")
    else:
        assert named(faults(spec), "1 mask marks pixels of a normal image", mask.name)


def _mask_name(anomalous: Pair, image: Path) -> str:
    return anomalous[1].name.replace(anomalous[0].stem, image.stem)


@pytest.mark.parametrize("form", MASKED)
def test_a_defect_that_leaves_no_pixel_at_the_papers_size_is_counted(tree, form):
    spec = tree(form)
    plant_vanishing_defect(pairs(spec))
    category = list_entries(spec, spec.root)[1][0].category
    assert named(notes(spec), "without a pixel at 518 x 518", category)


def test_a_part_of_a_dataset_is_a_fault_unless_it_is_meant(tree):
    spec = tree("mvtec_ad")
    plant_missing_image(pairs(spec))
    assert len(faults(spec)) == 1
    assert faults(spec, is_part=True) == []


def test_more_images_than_published_are_a_fault_even_in_a_part(tree):
    spec = tree("isic")
    image, mask = pairs(spec)[0]
    for path in (image, mask):
        path.with_name(path.name.replace("ISIC_", "ISIC_9")).write_bytes(path.read_bytes())
    assert named(faults(spec, is_part=True), "0 + 6 instead of 0 + 5")


def test_a_category_that_was_never_published_is_named(tree):
    spec = tree("btad")
    OFFICIAL["btad"](spec.root, {"04": Count(1, 1)})
    assert named(faults(spec), "Categories that the published dataset does not have: 04")


def test_a_picture_with_both_labels_is_a_fault(tree):
    spec = tree("br35h")
    normal, anomalous = pairs(spec, anomalous=False)[0][0], pairs(spec)[0][0]
    anomalous.write_bytes(normal.read_bytes())
    assert named(faults(spec), "labelled both normal and anomalous", normal.name, anomalous.name)


@pytest.mark.parametrize(("form", "folder"), [("br35h", "pred"), ("brain_mri", "yes"), ("tn3k", "trainval-image")])
def test_folders_that_are_not_read_are_named(tree, form, folder):
    assert named(notes(tree(form)), "skipped", f"{folder} (")


def test_masks_that_vanished_altogether_are_a_fault(tree):
    spec = tree("kvasir")
    for _, mask in pairs(spec):
        mask.unlink()
    (spec.root / "masks").rmdir()
    assert named(faults(spec), "published dataset has masks, but none were found")


def test_where_only_the_total_is_published_the_total_is_compared(tree, monkeypatch):
    spec = tree("dagm")
    row = dataset_row("dagm")
    monkeypatch.setitem(DATASETS, "dagm", replace(row, counts={}, total=Count(6, 11)))
    assert named(faults(spec), "The dataset 6 + 10 instead of 6 + 11")


def own_tree(root: Path) -> Path:
    """A small dataset of one's own, whose images are not square."""
    noise = np.random.default_rng(0)
    for name in ("good/0", "good/1", "crack/0", "crack/1"):
        path = root / "nut/test" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(path)
    truth = np.zeros((8, 12), np.uint8)
    truth[2:4, 3:6] = 255
    for name in ("0", "1"):
        path = root / f"nut/ground_truth/crack/{name}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(truth).save(path)
    return root


def rewritten(path: Path, change: Callable[[Image.Image], Image.Image], kind: str = "PNG", **how: object) -> None:
    with Image.open(path) as image:
        changed = change(image.copy())
    changed.save(path, kind, **how)


def with_orientation(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rewritten(root / CRACK, lambda image: image.transpose(Image.Transpose.ROTATE_90), exif=exif)


CRACK, TRUTH = "nut/test/crack/0.png", "nut/ground_truth/crack/0_mask.png"
PLANTS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda root: None,
    "an empty image": lambda root: (root / CRACK).write_bytes(b""),
    "a cut image": lambda root: (root / CRACK).write_bytes((root / CRACK).read_bytes()[:-40]),
    "a cut mask": lambda root: (root / TRUTH).write_bytes((root / TRUTH).read_bytes()[:40]),
    "a float image": lambda root: Image.new("F", (12, 8)).save(root / CRACK, "TIFF"),
    "an animation": lambda root: rewritten(
        root / CRACK, lambda image: image, save_all=True, append_images=[Image.new("RGB", (12, 8))]
    ),
    "a large image": lambda root: Image.new("RGB", (120, 80)).save(root / CRACK),
    "a mask of another size": lambda root: rewritten(root / TRUTH, lambda image: image.resize((6, 4))),
    "a mask on its side": lambda root: rewritten(
        root / TRUTH, lambda image: image.transpose(Image.Transpose.ROTATE_90)
    ),
    "a contradicting alpha channel": lambda root: rewritten(
        root / TRUTH, lambda image: Image.merge("LA", (image, ImageChops.invert(image)))
    ),
    "a mask in alpha": lambda root: rewritten(
        root / TRUTH, lambda image: Image.merge("LA", (Image.new("L", image.size, 255), image))
    ),
    "an orientation": with_orientation,
    "a missing mask": lambda root: (root / TRUTH).unlink(),
    "no masks": lambda root: shutil.rmtree(root / "nut/ground_truth"),
    "no masks and no normal images": lambda root: (
        shutil.rmtree(root / "nut/ground_truth"),
        (root / "nut/test/good").rename(root / "nut/test/non_defective"),
    ),
    "masks beside images": lambda root: (root / TRUTH).rename(root / "nut/test/crack/0_mask.png"),
    "a broken link": lambda root: (root / "nut/test/good/gone.png").symlink_to("nowhere"),
    "two images of a name": lambda root: shutil.copy(root / CRACK, (root / CRACK).with_suffix(".bmp")),
    "a folder that is an image": lambda root: (root / "nut/test/good/2.png").mkdir(),
    "a pipe": lambda root: os.mkfifo(root / "nut/test/good/2.png"),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_what_scoring_refuses_is_never_called_sound_and_the_rest_is(tmp_path, plant):
    spec = DatasetSpec("own", "folder", root=own_tree(tmp_path / "own"))
    PLANTS[plant](spec.root)
    try:
        reader = SampleReader((16, 16), max_pixels=5000)
        for sample in load_dataset(spec).samples:
            reader.read(sample)
        is_scored = True
    except DataError:
        is_scored = False
    try:
        is_sound = not check_dataset(spec, max_pixels=5000).num_faults
    except DataError:
        is_sound = False
    assert is_sound == is_scored


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (ImageChops.invert, "Every mask of nut (2) marks more than 90% of its image. Are they inverted"),
        (lambda image: Image.new("RGBA", image.size, "white"), "inverted, or drawn in an alpha channel"),
    ],
)
def test_masks_that_mark_nearly_everything_are_a_fault(tmp_path, change, words):
    spec = DatasetSpec("own", "folder", root=own_tree(tmp_path))
    rewritten(tmp_path / TRUTH, change)
    assert faults(spec) == []  # one such defect may be
    rewritten(tmp_path / TRUTH.replace("0_", "1_"), change)
    assert named(faults(spec), words)


def test_how_pictures_are_read_is_noted(tmp_path):
    spec = DatasetSpec("own", "folder", root=own_tree(tmp_path))
    assert notes(spec) == []
    with_orientation(tmp_path)
    Image.fromarray(np.full((8, 12), 4000, np.uint16)).save(tmp_path / "nut/test/good/0.png")
    assert named(notes(spec), "1 image carries an EXIF orientation", CRACK)
    assert named(notes(spec), "1 image of 16 bits with only 12 bits in use", "nut/test/good/0.png")
    assert faults(spec) == []


def test_the_reason_of_a_refusal_is_told(tmp_path):
    spec = DatasetSpec("own", "folder", root=own_tree(tmp_path))
    PLANTS["a float image"](tmp_path)
    (text,) = faults(spec)
    assert text.startswith(f"1 file cannot be decoded: {CRACK}. ")
    assert "its pixels are floating-point numbers of unknown range" in text
