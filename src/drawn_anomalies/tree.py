"""Write a drawn dataset to disk in MVTec AD's layout, once."""

import logging
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image
from rich.console import Console
from rich.progress import track

from drawn_anomalies.canvas import Region
from drawn_anomalies.catalogue import CATEGORIES
from drawn_anomalies.kinds import GOOD, Drawable
from drawn_anomalies.names import NAMED_CATEGORIES, NamedCategory
from drawn_anomalies.settings import FEWEST_OF_A_NAME, DrawnSet, DrawnSettings

logger = logging.getLogger(__name__)

EDITION = 2
"""Part of the folder's name; raised whenever the same seed gives different pictures."""

FOLDER = "afr_clip_drawn"
"""Folder of all drawn datasets."""

NUM_TRAIN = 2
"""Normal training images of each category; only few-shot references are taken from them."""

WORTH_PROCESSES = 96
"""Number of pictures from which several processes are worth starting."""


class DrawingError(ValueError):
    """A drawn dataset cannot be written."""


@dataclass(frozen=True)
class Picture:
    """One picture of a drawn dataset.

    Attributes:
        number: Position of the category in its set.
        split: ``train`` or ``test``.
        kind: ``good`` or a kind of flaw.
        index: Position among the pictures of its kind.
    """

    number: int
    split: str
    kind: str
    index: int


def drawn_dataset(settings: DrawnSettings, folder: Path) -> Path:
    """Return the root of a drawn dataset below ``folder``; write it first if it is absent.

    Raises:
        DrawingError: If it cannot be written.
    """
    root = folder / FOLDER / f"{settings.folder}_edition{EDITION}"
    if root.is_dir():
        return root
    _remove_abandoned(root)
    unfinished = root.with_name(f".{root.name}.unfinished-{platform.node()}-{os.getpid()}")
    logger.info("Drawing the dataset %s.", root)
    try:
        _write(settings, unfinished)
        unfinished.rename(root)
    except OSError as error:
        if not root.is_dir():  # another process may have been faster
            msg = f"Cannot write the drawn dataset to {root}: {error}. Set drawn_dir=DIR to another folder."
            raise DrawingError(msg) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


def _remove_abandoned(root: Path) -> None:
    """Remove what killed processes of this machine left of a dataset."""
    for left in root.parent.glob(f".{root.name}.unfinished-{platform.node()}-*"):
        try:
            os.kill(int(left.name.rpartition("-")[2]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (OSError, ValueError, OverflowError):
            continue  # another user's, and alive; or not one of these folders


def categories_of(settings: DrawnSettings) -> Sequence[Drawable]:
    """Return the categories that are drawn."""
    every: Mapping[DrawnSet, Sequence[Drawable]] = {
        **CATEGORIES,
        **NAMED_CATEGORIES,
        DrawnSet.auxiliary_and_names: (*CATEGORIES[DrawnSet.auxiliary], *NAMED_CATEGORIES[DrawnSet.names]),
    }
    return every[settings.categories]


def pictures(settings: DrawnSettings) -> list[Picture]:
    """List the pictures of a drawn dataset."""
    listed = []
    for number, category in enumerate(categories_of(settings)):
        listed += [Picture(number, "train", GOOD, index) for index in range(NUM_TRAIN)]
        one_of_many = settings.categories is DrawnSet.auxiliary_and_names and isinstance(category, NamedCategory)
        count = FEWEST_OF_A_NAME if one_of_many else settings.images_per_category
        listed += [Picture(number, "test", *one) for one in category.listed(count)]
    return listed


def draw(settings: DrawnSettings, picture: Picture) -> tuple[UInt8[ndarray, "height width 3"], Region | None]:
    """Draw one picture, independently of all others; return RGB and the mask of its defect, if it has one."""
    category = categories_of(settings)[picture.number]
    return category.picture(settings, picture.split, picture.kind, picture.index)


def _write(settings: DrawnSettings, root: Path) -> None:
    listed = pictures(settings)
    names = [category.name for category in categories_of(settings)]
    for folder in {_image_path(root, names, picture).parent for picture in listed}:
        folder.mkdir(parents=True)
    for folder in {_mask_path(root, names, picture).parent for picture in listed if picture.kind != GOOD}:
        folder.mkdir(parents=True)
    jobs = [(settings, picture, root, names) for picture in listed]
    workers = min(os.cpu_count() or 1, len(jobs) // WORTH_PROCESSES + 1)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,)) if workers > 1 else None
    console = Console(stderr=True)
    with pool or nullcontext():
        results = pool.map(_write_one, jobs, chunksize=8) if pool else map(_write_one, jobs)
        what = f"Drawing {settings.categories.value} pictures"
        hidden = not console.is_terminal
        for _ in track(results, what, len(jobs), console=console, transient=True, disable=hidden):
            pass


def _write_one(job: tuple[DrawnSettings, Picture, Path, list[str]]) -> None:
    settings, picture, root, names = job
    image, mask = draw(settings, picture)
    Image.fromarray(image).save(_image_path(root, names, picture), compress_level=1)
    if mask is not None:
        Image.fromarray(mask.astype(np.uint8) * 255).save(_mask_path(root, names, picture))


def _image_path(root: Path, names: Sequence[str], picture: Picture) -> Path:
    return root / names[picture.number] / picture.split / picture.kind / f"{picture.index:04d}.png"


def _mask_path(root: Path, names: Sequence[str], picture: Picture) -> Path:
    return root / names[picture.number] / "ground_truth" / picture.kind / f"{picture.index:04d}_mask.png"
