"""Training augmentation that changes an image and its mask together: random transforms, mosaics and cells."""

import math
import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from afr_clip.data.disk.pixels import Pixels, resize_image, resize_mask
from afr_clip.data.records import AnomalySample

SHIFT = 0.05
"""Largest shift as a share of the side."""
SCALE = (0.9, 1.1)
ROTATION = 10
"""Largest free rotation in degrees."""
CONTRAST = 0.2
"""Largest change of brightness and contrast as a share."""

MOSAIC_STREAM = 1
"""Separates the random numbers of an image's mosaic from those of its augmentation, which has the same seed."""


class Augmentation:
    """An albumentations pipeline whose outcome depends on its arguments alone.

    Args:
        pipeline: An ``albumentations.Compose`` that takes ``image`` and ``mask``.
    """

    def __init__(self, pipeline: Any) -> None:  # noqa: ANN401  # albumentations is imported only where it is used
        self._pipeline = pipeline

    def __call__(self, pixels: Pixels, draw_seed: int) -> Pixels:
        """Augment one image with its mask; ``draw_seed`` decides every random choice."""
        # Not set_random_seed: it gives every transform the same first number, so both flips would always coincide.
        self._pipeline.set_random_state(np.random.default_rng(draw_seed), random.Random(draw_seed))
        image = np.ascontiguousarray(pixels.image.permute(1, 2, 0).numpy())  # (H, W, 3)
        drawn = self._pipeline(image=image, mask=pixels.mask.numpy().astype(np.uint8))
        return Pixels(
            image=torch.from_numpy(np.ascontiguousarray(drawn["image"].transpose(2, 0, 1))),
            mask=torch.from_numpy(drawn["mask"] > 0),
        )


def build_augmentation(size: tuple[int, int]) -> Augmentation:
    """Build flips, quarter turns, slight shifts, scalings and rotations, and changes of brightness and contrast.

    Only square images are turned by quarters, because the others would no longer fit into one batch. Masks are moved by
    nearest neighbour.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it would otherwise check for updates online
    import albumentations  # noqa: PLC0415  # takes two seconds, and most runs do not augment
    import cv2  # noqa: PLC0415  # comes with albumentations

    height, width = size
    quarter_turns = [albumentations.RandomRotate90(p=0.5)] if height == width else []
    return Augmentation(
        albumentations.Compose(
            [
                albumentations.HorizontalFlip(p=0.5),
                albumentations.VerticalFlip(p=0.5),
                *quarter_turns,
                albumentations.Affine(
                    translate_percent=(-SHIFT, SHIFT),
                    scale=SCALE,
                    rotate=(-ROTATION, ROTATION),
                    border_mode=cv2.BORDER_REFLECT_101,
                    p=0.5,
                ),
                albumentations.RandomBrightnessContrast(brightness_limit=CONTRAST, contrast_limit=CONTRAST, p=0.5),
            ]
        )
    )


class Mosaic:
    """Decides which images become a mosaic, and of which four images.

    As in APRIL-GAN, each of the four is drawn by defect type first (normal is one) and then among the images of that
    type in the category, so rare defects appear as often as frequent ones.

    Args:
        probability: Share of images that become a mosaic.
        label: ``any`` makes a mosaic anomalous if one of its images is. ``replaced`` gives it the label of the image
            that it replaces, as in AdaCLIP's public code.
    """

    def __init__(self, samples: Sequence[AnomalySample], probability: float, label: str = "any") -> None:
        self._probability = probability
        self._label = label
        self._categories = [sample.category for sample in samples]
        self._anomalous = [sample.is_anomalous for sample in samples]
        self._by_type: dict[str, dict[str, list[int]]] = {}
        for index, sample in enumerate(samples):
            self._by_type.setdefault(sample.category, {}).setdefault(sample.defect_type, []).append(index)

    def draw(self, index: int, draw_seed: int) -> tuple[int, ...]:
        """Return the indices of four images of the same category to show in place of an image, or the index alone."""
        generator = np.random.default_rng((draw_seed, MOSAIC_STREAM))
        if generator.random() >= self._probability:
            return (index,)
        by_type = list(self._by_type[self._categories[index]].values())
        types = [by_type[generator.integers(len(by_type))] for _ in range(4)]
        return tuple(int(generator.choice(drawn)) for drawn in types)

    def is_anomalous(self, index: int, shown: Sequence[int]) -> bool:
        """Whether an image, or the mosaic shown in its place, counts as anomalous; the mask does not depend on this."""
        decisive = [index] if self._label == "replaced" else shown
        return any(self._anomalous[position] for position in decisive)

    def cropped(self, pixels: Pixels, index: int, draw_seed: int) -> Pixels:
        """Return what is seen of an image that ``draw`` left alone: all of it."""
        return pixels


class ClassAwareMosaic(Mosaic):
    """Shows some images as a grid of images of their category, others as one cell of such a grid (UniADet).

    Half of the changed images become a grid of 2 x 2 or 3 x 3, in which the image itself has a random place. A normal
    image is joined by normal ones only, so that it stays normal. The other half is cut into such a grid and one cell is
    enlarged: of an anomalous image one with a defect, if its mask shows any.
    """

    SIDES = (2, 3)

    def draw(self, index: int, draw_seed: int) -> tuple[int, ...]:
        """Return the indices of the images of a grid, row by row, or the index alone."""
        kind, side, generator = self._drawn(draw_seed)
        if kind != "grid":
            return (index,)
        of_category = [i for of_type in self._by_type[self._categories[index]].values() for i in of_type]
        others = [i for i in of_category if self._anomalous[index] or not self._anomalous[i]]
        shown = [int(generator.choice(others)) for _ in range(side * side - 1)]
        shown.insert(int(generator.integers(side * side)), index)
        return tuple(shown)

    def cropped(self, pixels: Pixels, index: int, draw_seed: int) -> Pixels:
        """Enlarge one cell of an image, where that was drawn for it."""
        kind, side, generator = self._drawn(draw_seed)
        if kind != "cell":
            return pixels
        height, width = pixels.mask.shape
        cells = [(rows, columns) for rows in _cut(height, side) for columns in _cut(width, side)]
        if self._anomalous[index]:
            cells = [(rows, columns) for rows, columns in cells if pixels.mask[rows, columns].any()]
        if not cells:
            return pixels
        rows, columns = cells[generator.integers(len(cells))]
        size = (height, width)
        return Pixels(resize_image(pixels.image[:, rows, columns], size), resize_mask(pixels.mask[rows, columns], size))

    def _drawn(self, draw_seed: int) -> tuple[str, int, np.random.Generator]:
        """Draw what happens to an image, and the side of its grid in cells."""
        generator = np.random.default_rng((draw_seed, MOSAIC_STREAM))
        share = generator.random()
        kind = "whole" if share >= self._probability else "grid" if share < self._probability / 2 else "cell"
        return kind, int(generator.choice(self.SIDES)), generator


MOSAICS = {"by_type": Mosaic, "class_aware": ClassAwareMosaic}
"""Kinds of mosaics by their name in the config."""


def collage(tiles: Sequence[Pixels]) -> Pixels:
    """Put images of one size into a square grid of that size, each shown smaller.

    Args:
        tiles: As many as a square has cells, row by row. Where a side cannot be divided evenly, later cells are larger.
    """
    side = math.isqrt(len(tiles))
    height, width = tiles[0].mask.shape
    small = []
    for position, pixels in enumerate(tiles):
        rows, columns = _cut(height, side)[position // side], _cut(width, side)[position % side]
        size = (rows.stop - rows.start, columns.stop - columns.start)
        small.append(Pixels(resize_image(pixels.image, size), resize_mask(pixels.mask, size)))
    by_row = [small[start : start + side] for start in range(0, len(small), side)]
    return Pixels(
        image=torch.cat([torch.cat([pixels.image for pixels in row], dim=2) for row in by_row], dim=1),
        mask=torch.cat([torch.cat([pixels.mask for pixels in row], dim=1) for row in by_row], dim=0),
    )


def _cut(length: int, parts: int) -> list[slice]:
    """Cut a side into parts that differ by at most one pixel."""
    return [slice(length * part // parts, length * (part + 1) // parts) for part in range(parts)]
