"""Write small trees of drawn pictures by the rules of a layout: where pictures lie and how they are stored.

Pictures are a few dozen pixels wide, and no two of a tree are alike. ``helpers.official`` holds the layouts.
"""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from helpers.generated import DEFECT_TYPES, draw_defect, draw_texture, save_picture

Counts = Mapping[str, tuple[int, int]]
"""Category to its numbers of normal and of anomalous test images."""

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SIZE = (24, 32)
NUM_BESIDE = 2
"""Pictures written for each template of what lies beside the test images."""


@dataclass(frozen=True)
class Picture:
    """One written image."""

    category: str
    defect_type: str
    number: int
    is_anomalous: bool
    is_test: bool
    image: Path
    mask: Path | None


def black_and_white(mask: Mask, index: int) -> Pixels:
    """Store a mask as 0 and 255."""
    return mask.astype(np.uint8) * 255


@dataclass(frozen=True)
class Tree:
    """Where a dataset puts its pictures, and how it stores them.

    Templates are paths below the root. Their fields: ``category``; ``type``; ``k``, its number from 0 among those of
    its condition and type; ``n``, its number among all test images of its category, normal and anomalous mixed;
    ``strip`` and ``part``, ``n`` in eighths; ``image`` and ``mask``, the category's suffixes; ``tiff``, ColonDB's two.

    Attributes:
        normal: Template of normal test images; empty where there are none.
        anomalous: Template of anomalous ones.
        mask: Template of their masks; empty where there are none.
        normal_mask: Template of the empty masks of normal images.
        beside: Image and mask templates of pictures that are no test images; without a mask nothing is wrong on them.
        types: Defect types, in turn.
        suffixes: Suffixes of images and masks, by category.
        strays: Templates of files that are no pictures.
        grey: Categories stored with one channel.
        first: Number of the first picture.
        span: How many pictures the whole dataset has; fewer are spread over its numbers.
        varied: Whether every picture has a size of its own.
        stored: Grey values or colours of a mask, given the mask and ``k``.
        save: Writes an image file.
        finish: Adds what no template says.
        seed: Another seed gives other pictures.
    """

    normal: str
    anomalous: str
    mask: str = ""
    normal_mask: str = ""
    beside: tuple[tuple[str, str], ...] = ()
    types: tuple[str, ...] = ("",)
    suffixes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    strays: tuple[str, ...] = ()
    grey: frozenset[str] = frozenset()
    first: int = 0
    span: int = 0
    varied: bool = False
    stored: Callable[[Mask, int], Pixels] = black_and_white
    save: Callable[[Pixels, Path], None] = save_picture
    finish: Callable[[Path, Sequence[Picture]], None] = lambda root, pictures: None
    seed: int = 0


def write_tree(root: Path, counts: Counts, tree: Tree, size: tuple[int, int] = SIZE, *, repeated: bool = False) -> Path:
    """Write a dataset.

    Args:
        root: Its folder; made if absent.
        counts: Numbers of normal and anomalous test images of each category.
        tree: Its layout.
        size: Height and width of the pictures.
        repeated: Whether all normal pictures of a category are one, and all anomalous ones, so that many are quick.

    Returns:
        ``root``.
    """
    pictures = []
    for number, (category, wanted) in enumerate(counts.items()):
        pictures += list(_write_category(root, category, number, wanted, tree, size, repeated=repeated))
        for stray in tree.strays:
            path = root / stray.format(category=category)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"no picture")
    tree.finish(root, pictures)
    return root


def _write_category(
    root: Path,
    category: str,
    number: int,
    wanted: tuple[int, int],
    tree: Tree,
    size: tuple[int, int],
    *,
    repeated: bool,
) -> Iterator[Picture]:
    written: dict[tuple[str, str, bool], Picture] = {}
    rng = np.random.default_rng((3, tree.seed, number))
    image_suffix, mask_suffix = tree.suffixes.get(category, ("png", "png"))
    fields = {"category": category, "image": image_suffix, "mask": mask_suffix}
    seen: Counter[str] = Counter()
    planned = [(tree.normal, tree.normal_mask, False, True)] * wanted[0]
    planned += [(tree.anomalous, tree.mask, True, True)] * wanted[1]
    planned = [planned[i] for i in rng.permutation(len(planned))]
    step = max(tree.span // max(len(planned), 1), 1)
    planned += [(image, mask, bool(mask), False) for image, mask in tree.beside for _ in range(NUM_BESIDE)]
    for position, (template, mask_template, is_anomalous, is_test) in enumerate(planned):
        assert template, f"{category} has no place for normal images"
        defect_type = tree.types[seen[template] % len(tree.types)] if is_anomalous else ""
        k = seen[template] if "{type}" not in template else seen[template] // len(tree.types)
        n = tree.first + (position * step if is_test else k)
        tiff = "tif" if 77 <= n <= 97 else "tiff"
        values = {**fields, "type": defect_type, "k": k, "n": n, "strip": n // 8 + 1, "part": n % 8, "tiff": tiff}
        image_path, mask_path = (root / text.format(**values) for text in (template, mask_template))
        picture = Picture(
            category, defect_type, n, is_anomalous, is_test, image_path, mask_path if mask_template else None
        )
        seen[template] += 1
        first = written.setdefault((template, mask_template, is_anomalous), picture)
        if repeated and first is not picture:
            for source, target in ((first.image, picture.image), (first.mask, picture.mask)):
                if source and target:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, target)
            yield picture
            continue
        shape = (size[0] + position % 5, size[1] + position % 7) if tree.varied else size
        pixels, mask = draw_texture(rng, shape, number), np.zeros(shape, dtype=bool)
        if is_anomalous:
            pixels, mask = draw_defect(rng, pixels, DEFECT_TYPES[(seen[template] - 1) % len(DEFECT_TYPES)])
        image_path.parent.mkdir(parents=True, exist_ok=True)
        tree.save(pixels[..., 0] if category in tree.grey else pixels, image_path)
        if mask_template:
            save_picture(tree.stored(mask, k), mask_path)
        yield picture


def class_ids(mask: Mask, index: int) -> Pixels:
    """Store a mask as 1 or 2, as VisA does."""
    return mask.astype(np.uint8) * np.uint8(1 + index % 2)


def sometimes_coloured(mask: Mask, index: int) -> Pixels:
    """Store every second mask with three channels, as some of BTAD's."""
    grey = black_and_white(mask, index)
    return np.stack([grey] * 3, axis=2) if index % 2 else grey


def with_low_values(mask: Mask, index: int) -> Pixels:
    """Store every fourth mask with values of 3 to 127 beside the polyp and 131 in it, as ClinicDB's."""
    grey = black_and_white(mask, index)
    if index % 4 == 0:
        grey[0, :5] = (3, 20, 60, 100, 127)
        grey[tuple(np.argwhere(mask)[0])] = 131
    return grey


def save_tagged_grey(pixels: Pixels, path: Path) -> None:
    """Write three samples a pixel under the tag "black is zero", which Pillow does not open."""
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")


def save_packed(pixels: Pixels, path: Path) -> None:
    """Write a TIFF with PackBits compression."""
    Image.fromarray(pixels).save(path, compression="packbits")


def write_split_tables(root: Path, pictures: Sequence[Picture]) -> None:
    """Write VisA's tables. Only ``1cls.csv`` has a test split here, so that another one is not taken for it."""
    tables = {
        "split_csv/1cls.csv": "test",
        "split_csv/2cls_fewshot.csv": "train",
        "split_csv/2cls_highshot.csv": "train",
    }
    for name, test_split in tables.items():
        rows = [("object", "split", "label", "image", "mask")]
        for picture in pictures:
            label = "anomaly" if picture.is_anomalous else "normal"
            rows.append((picture.category, test_split if picture.is_test else "train", label, *_names(root, picture)))
        _write_rows(root / name, rows)
    for category in {picture.category for picture in pictures}:
        of_category = [picture for picture in pictures if picture.category == category]
        annotated = [
            (image, "defect" if picture.is_anomalous else "normal", mask)
            for picture in of_category
            for image, mask in [_names(root, picture)]
        ]
        _write_rows(root / category / "image_anno.csv", [("image", "label", "mask"), *annotated])


def write_head_ct_labels(root: Path, pictures: Sequence[Picture]) -> None:
    """Write the labels with a space in the header and without zeros before the ids; some images have transparency."""
    rows = [f"{picture.number},{int(picture.is_anomalous)}" for picture in pictures]
    (root / "labels.csv").write_text("\n".join(["id, hemorrhage", *rows, ""]))
    for picture in pictures[::15]:
        _store_again(picture.image, "RGBA", "PNG")


def store_brain_mri_mixed(root: Path, pictures: Sequence[Picture]) -> None:
    """Give the scans their mixed names, modes and formats, then copy both folders as the archive does."""
    normal = [("{k} no.jpeg", "L", "JPEG"), ("No{k}.jpg", "RGBA", "PNG"), ("{k} no.jpg", "RGB", "JPEG")]
    normal += [("no {k}.jpg", "P", "PNG"), ("N{k}.JPG", "RGB", "JPEG"), ("no {k}.png", "RGB", "PNG")]
    tumour = [("Y{k}.jpg", "L", "JPEG"), ("Y{k}.JPG", "RGB", "JPEG"), ("Y{k}.png", "L", "PNG")]
    for is_anomalous, kinds in ((False, normal), (True, tumour)):
        chosen = [picture.image for picture in pictures if picture.is_anomalous == is_anomalous]
        for index, path in enumerate(chosen):
            name, mode, image_format = kinds[index % len(kinds)]
            _store_again(path, mode, image_format)
            path.rename(path.with_name(name.format(k=index + 1)))
    for folder in ("yes", "no"):
        if (root / folder).is_dir():
            shutil.copytree(root / folder, root / "brain_tumor_dataset" / folder)


def add_contours(root: Path, pictures: Sequence[Picture]) -> None:
    """Put a contour beside each of ColonDB's masks."""
    for picture in pictures:
        with Image.open(root / f"p{picture.number}.tiff") as stored:
            mask = np.asarray(stored) > 0
        inside = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
        save_packed(black_and_white(mask & ~inside, 0), root / f"cp{picture.number}.tiff")


def write_dagm_labels(root: Path, pictures: Sequence[Picture]) -> None:
    """Write ``Labels.txt`` of each half: number, flag, image, 0, label file or 0."""
    halves: dict[Path, list[str]] = {}
    for picture in pictures:
        label = picture.mask.name if picture.mask else "0"
        row = f"{picture.number}\t{int(picture.is_anomalous)}\t{picture.image.name}\t0\t{label}"
        halves.setdefault(picture.image.parent / "Label", []).append(row)
    for folder, rows in halves.items():
        folder.mkdir(exist_ok=True)
        (folder / "Labels.txt").write_text("\n".join(["1", *rows, ""]))


def write_category_tables(root: Path, pictures: Sequence[Picture], *, images: str, tables: str) -> None:
    """Write Real-IAD's tables. Every second normal picture is a view of a defective part that does not show it."""
    content: dict[str, dict[str, Any]] = {}
    for number, picture in enumerate(pictures):
        names = [name.removeprefix(f"{images}/{picture.category}/") for name in _names(root, picture)]
        hidden = "AK" if picture.is_test and number % 2 else "OK"
        item = {"category": picture.category, "anomaly_class": picture.defect_type or hidden}
        item |= {"image_path": names[0], "mask_path": names[1] or None}
        table = content.setdefault(picture.category, {"meta": {"normal_class": "OK"}, "train": [], "test": []})
        table["test" if picture.is_test else "train"].append(item)
    for category, table in content.items():
        path = root / tables / f"{category}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(table))


def write_queries(root: Path, pictures: Sequence[Picture]) -> None:
    """Write Kaputt's table of test queries, as pandas writes it."""
    rows = [("capture_id", "item_identifier", "defect", "defect_types", "item_material", "query_crop")]
    for picture in pictures:
        crop = picture.image.relative_to(root / "query-crop").as_posix()
        kind = "deformation,spillage" if picture.is_anomalous else ""
        rows.append((picture.image.stem, "B0", str(picture.is_anomalous), kind, "cardboard", crop))
    _write_rows(root / "datasets" / "query-test.csv", rows)


def split_masks(root: Path, pictures: Sequence[Picture]) -> None:
    """Give each defect of LOCO's logical anomalies a file of its own, of another value, and describe the values."""
    for picture in pictures:
        if picture.mask is not None and picture.defect_type == "logical_anomalies":
            with Image.open(picture.mask) as stored:
                values = np.array(stored)
            upper = np.arange(len(values))[:, None] < np.argwhere(values).mean(axis=0)[0]
            for number, part in enumerate((upper, ~upper)):
                value = np.where(values & np.where(part, 255, 0).astype(np.uint8), 237 + number, 0)
                save_picture(value.astype(np.uint8), picture.mask.with_name(f"{number:03}.png"))
    for category in {picture.category for picture in pictures}:
        described = [
            {"defect_name": f"d{value}", "pixel_value": value, "saturation_threshold": 1.0, "relative_saturation": True}
            for value in (237, 238, 255)
        ]
        (root / category / "defects_config.json").write_text(json.dumps(described))


def write_meta(root: Path, pictures: Sequence[Picture]) -> None:
    """Write the ``meta.json`` that the AnomalyCLIP family shares."""
    test: dict[str, list[dict[str, str | int]]] = {}
    for picture in (picture for picture in pictures if picture.is_test):
        image, mask = _names(root, picture)
        item = {"img_path": image, "mask_path": mask, "cls_name": picture.category}
        item |= {"specie_name": picture.image.parent.name, "anomaly": int(picture.is_anomalous)}
        test.setdefault(picture.category, []).append(item)
    (root / "meta.json").write_text(json.dumps({"train": {}, "test": test}))


def _names(root: Path, picture: Picture) -> tuple[str, str]:
    mask = picture.mask.relative_to(root).as_posix() if picture.mask else ""
    return picture.image.relative_to(root).as_posix(), mask


def _write_rows(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _store_again(path: Path, mode: str, image_format: str) -> None:
    with Image.open(path) as image:
        converted = image.convert(mode)
    converted.save(path, format=image_format)
