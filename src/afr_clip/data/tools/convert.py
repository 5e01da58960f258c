"""Convert a dataset to the ``meta.json`` format, so that other implementations read it as this one does."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from afr_clip.data.disk.decode import Picture, decode_picture
from afr_clip.data.disk.layouts import dataset_row
from afr_clip.data.disk.listing import META_JSON
from afr_clip.data.disk.picture_files import FORMATS
from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.disk.reading import DatasetSpec, find_root, layout_at, read_samples
from afr_clip.data.errors import DataError
from afr_clip.data.progress import tracked
from afr_clip.data.records import AnomalySample
from afr_clip.files import unfinished_folder


def write_meta_json(spec: DatasetSpec, target: Path) -> Path:
    """Copy a dataset, with its train split if it has one, into MVTec AD's folder structure and add a ``meta.json``.

    Other implementations treat every mask value above 0 as a defect, so masks are written as PNG files of 0 and 255.
    Images are copied byte for byte; only those that Pillow cannot open, and those of 16 bits or with an EXIF
    orientation, which others read otherwise, become PNG files of 8 bits.

    Args:
        target: A new folder; it appears only when it is complete.
    """
    if target.exists():
        msg = f"{target} already exists. Choose another folder, or remove it."
        raise DataError(msg)
    samples = {"train": _train_samples(spec), "test": read_samples(spec)}
    threshold = dataset_row(spec.layout).mask_threshold
    try:
        with unfinished_folder(target) as scratch:
            unfinished = scratch / target.name
            content: dict[str, dict[str, list[dict[str, Any]]]] = {"train": {}, "test": {}}
            for split, listed in samples.items():
                for sample in tracked(listed, f"Writing the {split} split"):
                    item = _write_sample(sample, split, unfinished, threshold)
                    content[split].setdefault(sample.category, []).append(item)
            (unfinished / META_JSON).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            unfinished.rename(target)
    except DataError:
        raise
    except OSError as error:
        msg = f"Cannot write the dataset to {target}: {error}. Choose another folder."
        raise DataError(msg) from error
    return target


def _train_samples(spec: DatasetSpec) -> Sequence[AnomalySample]:
    root = find_root(spec)
    layout = layout_at(root, dataset_row(spec.layout))
    assert layout is not None, "find_root returns only roots that hold a known layout"
    entries = layout.listing(root, "train").entries
    is_wanted = any(spec.categories is None or entry.category in spec.categories for entry in entries)
    return read_samples(replace(spec, split="train")) if is_wanted else ()


def _write_sample(sample: AnomalySample, split: str, folder: Path, threshold: int | None) -> dict[str, Any]:
    """Write one image with its mask, and return its entry in the ``meta.json``."""
    place = Path(sample.category)
    picture = decode_picture(sample.image_path)
    image = _write_image(sample, picture, folder, place / split / sample.defect_type)
    mask = ""
    if sample.mask_path is not None:
        truth = SampleReader((1, 1), threshold).decode_truth(sample.image_path, picture, sample.mask_path)
        pixels = truth.numpy().astype(np.uint8) * np.uint8(255)
        mask = (place / "ground_truth" / sample.defect_type / f"{sample.name}.png").as_posix()
        (folder / mask).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / mask)
    return {
        "img_path": image,
        "mask_path": mask,
        "cls_name": sample.category,
        "specie_name": sample.defect_type,
        "anomaly": int(sample.is_anomalous),
    }


def _write_image(sample: AnomalySample, picture: Picture, folder: Path, place: Path) -> str:
    (folder / place).mkdir(parents=True, exist_ok=True)
    if _is_plain(sample.image_path, picture):
        name = (place / f"{sample.name}{sample.image_path.suffix}").as_posix()
        shutil.copyfile(sample.image_path, folder / name)
    else:
        name = (place / f"{sample.name}.png").as_posix()
        Image.fromarray(picture.rgb.permute(1, 2, 0).numpy()).save(folder / name)
    return name


def _is_plain(path: Path, picture: Picture) -> bool:
    """Tell whether plain Pillow reads the same pixels from a file as this project."""
    if picture.orientation != 1 or picture.is_deep:
        return False
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return False
