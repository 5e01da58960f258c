"""A small generated dataset in MVTec AD's layout, for a first run where no dataset is at hand.

Stripes with a blob or a line on them: enough to see every command work, and nothing to judge a method by.
"""

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
        save_picture(draw_texture(rng, size, number), base / "train" / "good" / "000.png")
        for index in range(num_normal):
            save_picture(draw_texture(rng, size, number), base / "test" / "good" / f"{index:03}.png")
        for index in range(num_anomalous):
            defect_type = DEFECT_TYPES[index % 2]
            image, mask = draw_defect(rng, draw_texture(rng, size, number), defect_type)
            save_picture(image, base / "test" / defect_type / f"{index:03}.png")
            save_picture(mask.astype(np.uint8) * 255, base / "ground_truth" / defect_type / f"{index:03}_mask.png")
    return root


def draw_texture(rng: np.random.Generator, size: tuple[int, int], number: int) -> NDArray[np.uint8]:
    """Draw stripes with a direction and colour of their own, a random phase, and a little noise.

    Args:
        rng: Source of randomness.
        size: Height and width in pixels.
        number: Gives direction, width and colour of the stripes.

    Returns:
        RGB, ``(H, W, 3)``.
    """
    rows, columns = np.mgrid[: size[0], : size[1]]
    angle = 0.7 * number
    wave = np.sin((np.cos(angle) * rows + np.sin(angle) * columns) / (2 + number % 3) + rng.uniform(0, 6))
    colour = 90 + 50 * np.cos(number + np.arange(3))
    image = colour + 30 * wave[..., None] + rng.normal(0, 4, (*size, 3))
    return image.clip(0, 255).astype(np.uint8)


def draw_defect(
    rng: np.random.Generator, image: NDArray[np.uint8], defect_type: str
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paint a bright blob or a dark slanted line somewhere near the middle.

    Args:
        rng: Source of randomness.
        image: What is painted on; left alone.
        defect_type: ``spot`` or ``scratch``.

    Returns:
        The painted image and the mask of the painted pixels, ``(H, W)``.
    """
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


def save_picture(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write an image file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
