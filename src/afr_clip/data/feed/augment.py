"""Training augmentation that changes an image and its mask together: random transforms, and mosaics of four images."""

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


def collage(quarters: Sequence[Pixels]) -> Pixels:
    """Put four images of one size into one image of that size.

    Args:
        quarters: Upper left, upper right, lower left, lower right. Each is shown at half its size; where a side is odd,
            the second half is the larger.
    """
    height, width = quarters[0].mask.shape
    heights, widths = (height // 2, height - height // 2), (width // 2, width - width // 2)
    small = []
    for position, pixels in enumerate(quarters):
        size = (heights[position // 2], widths[position % 2])
        small.append(Pixels(resize_image(pixels.image, size), resize_mask(pixels.mask, size)))
    rows = [small[:2], small[2:]]
    return Pixels(
        image=torch.cat([torch.cat([pixels.image for pixels in row], dim=2) for row in rows], dim=1),
        mask=torch.cat([torch.cat([pixels.mask for pixels in row], dim=1) for row in rows], dim=0),
    )
