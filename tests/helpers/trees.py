"""Small datasets on disk in public layouts: a procedural texture per category, visible defects, exact masks."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DEFECT_TYPES = ("scratch", "spot")


def write_mvtec_tree(
    root: Path,
    categories: Sequence[str] = ("bolt", "tile"),
    num_normal: int = 4,
    num_anomalous: int = 4,
    size: tuple[int, int] = (96, 80),
    seed: int = 0,
) -> Path:
    """Write a tree in MVTec AD's layout: PNG images, masks of 0 and 255, one training image per category.

    Args:
        root: Where the categories go; made if absent.
        categories: Their names; each has a texture of its own.
        num_normal: Normal test images per category.
        num_anomalous: Anomalous test images per category, spread over two defect types.
        size: Height and width in pixels.
        seed: Another seed gives other images throughout.

    Returns:
        ``root``.
    """
    for number, category in enumerate(categories):
        rng = np.random.default_rng((1, seed, number))
        base = root / category
        _save(_texture(rng, size, number), base / "train" / "good" / "000.png")
        for index in range(num_normal):
            _save(_texture(rng, size, number), base / "test" / "good" / f"{index:03}.png")
        for index in range(num_anomalous):
            defect_type = DEFECT_TYPES[index % 2]
            image, mask = _with_defect(rng, _texture(rng, size, number), defect_type)
            _save(image, base / "test" / defect_type / f"{index:03}.png")
            _save(mask.astype(np.uint8) * 255, base / "ground_truth" / defect_type / f"{index:03}_mask.png")
    return root


def write_visa_tree(
    root: Path,
    categories: Sequence[str] = ("candle", "pcb1"),
    num_normal: int = 4,
    num_anomalous: int = 4,
    size: tuple[int, int] = (64, 88),
    seed: int = 0,
) -> Path:
    """Write a tree in VisA's own layout: ``.JPG`` images, masks of class ids, names repeated between the conditions.

    Args:
        root: Where the categories and ``split_csv`` go; made if absent.
        categories: Their names; each has a texture of its own.
        num_normal: Normal test images per category.
        num_anomalous: Anomalous test images per category; their masks hold 1 or 2.
        size: Height and width in pixels.
        seed: Another seed gives other images throughout.

    Returns:
        ``root``.
    """
    rows = [("object", "split", "label", "image", "mask")]
    for number, category in enumerate(categories):
        rng = np.random.default_rng((2, seed, number))
        data = Path(category) / "Data"
        for index in range(num_normal + 1):  # the last is for training
            image = data / "Images" / "Normal" / f"{index:04}.JPG"
            _save(_texture(rng, size, number + 5), root / image)
            rows.append((category, "train" if index == num_normal else "test", "normal", image.as_posix(), ""))
        for index in range(num_anomalous):
            image = data / "Images" / "Anomaly" / f"{index:04}.JPG"
            mask = data / "Masks" / "Anomaly" / f"{index:04}.png"
            pixels, truth = _with_defect(rng, _texture(rng, size, number + 5), DEFECT_TYPES[index % 2])
            _save(pixels, root / image)
            _save(truth.astype(np.uint8) * (1 + index % 2), root / mask)
            rows.append((category, "test", "anomaly", image.as_posix(), mask.as_posix()))
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return root


def _texture(rng: np.random.Generator, size: tuple[int, int], number: int) -> NDArray[np.uint8]:
    """Draw stripes with a direction and colour of their own, a random phase, and a little noise."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    angle = 0.7 * number
    wave = np.sin((np.cos(angle) * rows + np.sin(angle) * columns) / (2 + number % 3) + rng.uniform(0, 6))
    colour = 90 + 50 * np.cos(number + np.arange(3))
    image = colour + 30 * wave[..., None] + rng.normal(0, 4, (*size, 3))
    return image.clip(0, 255).astype(np.uint8)


def _with_defect(
    rng: np.random.Generator, image: NDArray[np.uint8], defect_type: str
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paint a bright blob or a dark slanted line somewhere near the middle."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    row, column = rng.uniform(0.35, 0.65, 2) * (height, width)
    radius = min(height, width) / 6
    distance = np.hypot(rows - row, columns - column)
    if defect_type == "spot":
        mask, colour = distance < radius, (250, 240, 60)
    else:
        mask = (np.abs((rows - row) - (columns - column) * rng.uniform(-1, 1)) < 2.5) & (distance < 2 * radius)
        colour = (10, 10, 15)
    painted = np.where(mask[..., None], np.array(colour, dtype=np.uint8), image)
    return painted, mask


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
