"""Small datasets on disk in public layouts: a procedural texture per category, visible defects, exact masks."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from helpers.generated import DEFECT_TYPES, draw_defect, draw_texture, save_picture, write_mvtec_tree

__all__ = ["write_mvtec_tree", "write_visa_tree"]


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
            save_picture(draw_texture(rng, size, number + 5), root / image)
            rows.append((category, "train" if index == num_normal else "test", "normal", image.as_posix(), ""))
        for index in range(num_anomalous):
            image = data / "Images" / "Anomaly" / f"{index:04}.JPG"
            mask = data / "Masks" / "Anomaly" / f"{index:04}.png"
            pixels, truth = draw_defect(rng, draw_texture(rng, size, number + 5), DEFECT_TYPES[index % 2])
            save_picture(pixels, root / image)
            save_picture(truth.astype(np.uint8) * (1 + index % 2), root / mask)
            rows.append((category, "test", "anomaly", image.as_posix(), mask.as_posix()))
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return root
