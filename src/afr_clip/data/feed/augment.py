"""Training augmentation that moves an image and its mask together."""

import os
import random
from typing import Any

import numpy as np
import torch

from afr_clip.data.disk.pixels import Pixels

SHIFT = 0.05
"""Largest shift as a share of the side."""
SCALE = (0.9, 1.1)
ROTATION = 10
"""Largest free rotation in degrees."""
CONTRAST = 0.2
"""Largest change of brightness and contrast as a share."""


class Augmentation:
    """An albumentations pipeline whose outcome depends on its arguments alone.

    Args:
        pipeline: An ``albumentations.Compose`` that takes ``image`` and ``mask``.
    """

    def __init__(self, pipeline: Any) -> None:  # noqa: ANN401  # albumentations is imported only where it is used
        self._pipeline = pipeline

    def __call__(self, pixels: Pixels, draw_seed: int) -> Pixels:
        """Augment one image with its mask.

        Args:
            pixels: What to augment.
            draw_seed: Decides every random choice.

        Returns:
            New pixels of the same size.
        """
        # Not set_random_seed: that starts every step from the same number, and both flips would always come together.
        self._pipeline.set_random_state(np.random.default_rng(draw_seed), random.Random(draw_seed))
        image = np.ascontiguousarray(pixels.image.permute(1, 2, 0).numpy())  # (H, W, 3)
        drawn = self._pipeline(image=image, mask=pixels.mask.numpy().astype(np.uint8))
        return Pixels(
            image=torch.from_numpy(np.ascontiguousarray(drawn["image"].transpose(2, 0, 1))),
            mask=torch.from_numpy(drawn["mask"] > 0),
        )


def build_augmentation(size: tuple[int, int]) -> Augmentation:
    """Build flips, quarter turns, slight shifts, scalings and rotations, and changes of brightness and contrast.

    Images that are not square are not turned by quarters: they would not fit into one batch.

    Args:
        size: Height and width of the images in pixels.

    Returns:
        The augmentation; its mask is moved by nearest neighbour.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would otherwise ask the network for news
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
