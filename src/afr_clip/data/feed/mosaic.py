"""Mosaics: some training images become a collage of four of their category, with their masks."""

from collections.abc import Sequence

import numpy as np
import torch

from afr_clip.data.disk.pixels import Pixels
from afr_clip.data.feed.transforms import resize_image, resize_mask
from afr_clip.data.records import AnomalySample

STREAM = 1
"""Keeps a draw's mosaic apart from its augmentation, which has the same seed."""


class Mosaic:
    """Decide which images become a collage, and of what.

    A category's images are drawn as APRIL-GAN draws them: first a defect type (normal is one), then one of its images,
    so that rare defects appear as often as frequent ones.

    Args:
        samples: What is drawn from.
        probability: Share of images that become a collage.
    """

    def __init__(self, samples: Sequence[AnomalySample], probability: float) -> None:
        self._probability = probability
        self._categories = [sample.category for sample in samples]
        self._by_type: dict[str, dict[str, list[int]]] = {}
        for index, sample in enumerate(samples):
            self._by_type.setdefault(sample.category, {}).setdefault(sample.defect_type, []).append(index)

    def draw(self, index: int, draw_seed: int) -> tuple[int, ...]:
        """Draw what is shown in place of an image.

        Args:
            index: Position of the image.
            draw_seed: Decides every random choice.

        Returns:
            Positions of four images of its category, or of the image alone.
        """
        generator = np.random.default_rng((draw_seed, STREAM))
        if generator.random() >= self._probability:
            return (index,)
        by_type = list(self._by_type[self._categories[index]].values())
        types = [by_type[generator.integers(len(by_type))] for _ in range(4)]
        return tuple(int(generator.choice(drawn)) for drawn in types)


def collage(quarters: Sequence[Pixels]) -> Pixels:
    """Put four images of one size into one of that size.

    Args:
        quarters: Upper left, upper right, lower left, lower right.

    Returns:
        Each at half its size beside the others; where a side is odd, the second half is the larger.
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
