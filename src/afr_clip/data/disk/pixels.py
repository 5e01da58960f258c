"""One sample's pixels at the size the model sees, and how they come from the disk."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from afr_clip.data.disk.decode import decode_image, decode_mask
from afr_clip.data.errors import DataError
from afr_clip.data.feed.transforms import resize_image, resize_mask
from afr_clip.data.records import AnomalySample


@dataclass(frozen=True)
class Pixels:
    """An image and its truth.

    Attributes:
        image: RGB, 0..255.
        mask: Pixel truth; all ``False`` where there is no mask file.
    """

    image: UInt8[Tensor, "3 height width"]
    mask: Bool[Tensor, "height width"]


@dataclass(frozen=True)
class SampleReader:
    """Decodes a sample and resizes it.

    Attributes:
        size: Height and width in pixels.
        mask_threshold: Least 8-bit mask value that is anomalous; ``None`` for any but 0 (128 in a JPEG).
    """

    size: tuple[int, int]
    mask_threshold: int | None = None

    def decode(self, sample: AnomalySample) -> Pixels:
        """Decode a sample at the size it is stored in.

        Args:
            sample: What to read.

        Returns:
            Image and mask, pixel for pixel.

        Raises:
            DataError: If a file cannot be decoded, or image and mask differ in size.
        """
        image = decode_image(sample.image_path)
        height, width = image.shape[1:]
        if sample.mask_path is None:
            return Pixels(image, torch.zeros(height, width, dtype=torch.bool))
        mask = decode_mask(sample.mask_path, self.mask_threshold)
        if mask.shape != (height, width):
            msg = (
                f"An image and its mask must have the same size, but {sample.image_path} is {height} x {width} and "
                f"{sample.mask_path} is {mask.shape[0]} x {mask.shape[1]} pixels high and wide. Pair them anew."
            )
            raise DataError(msg)
        return Pixels(image, mask)

    def read(self, sample: AnomalySample) -> Pixels:
        """Decode a sample and resize it.

        Args:
            sample: What to read.

        Returns:
            Image and mask of ``size``.

        Raises:
            DataError: As for ``decode``.
        """
        pixels = self.decode(sample)
        return Pixels(resize_image(pixels.image, self.size), resize_mask(pixels.mask, self.size))
