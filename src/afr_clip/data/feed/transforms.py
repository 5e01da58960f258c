"""Resizing and normalising; sizes are ``(height, width)`` everywhere."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def resize_image(
    image: UInt8[Tensor, "3 height width"], size: tuple[int, int]
) -> UInt8[Tensor, "3 new_height new_width"]:
    """Resize with an antialiased bicubic filter, staying in 8 bits.

    Equals Pillow's bicubic within one grey level, except for a few values in ten million photographed ones and somewhat
    more enlarged ones that differ by two, because torchvision rounds its filter to fewer bits. Only if one side shrinks
    while the other grows may hard edges differ more: newer versions of Pillow then filter the columns first.

    Args:
        image: RGB pixels.
        size: Height and width in pixels; the aspect ratio is not kept.

    Returns:
        The resized pixels.

    Example:
        >>> resize_image(torch.zeros(3, 4, 6, dtype=torch.uint8), (2, 5)).shape
        torch.Size([3, 2, 5])
    """
    resized: Tensor = functional.resize(image, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return resized


def resize_mask(mask: Bool[Tensor, "height width"], size: tuple[int, int]) -> Bool[Tensor, "new_height new_width"]:
    """Resize by Pillow's nearest neighbour, so the mask stays boolean.

    Args:
        mask: Pixel truth.
        size: Height and width in pixels.

    Returns:
        The resized mask.

    Example:
        >>> resize_mask(torch.eye(2, dtype=torch.bool), (2, 4)).int()
        tensor([[1, 1, 0, 0],
                [0, 0, 1, 1]], dtype=torch.int32)
    """
    return torch.from_numpy(_nearest(mask.numpy().astype(np.uint8), size).astype(bool))


def count_vanished(mask: Bool[Tensor, "height width"], resized: Bool[Tensor, "new_height new_width"]) -> int:
    """Count the defects that resizing has left without a pixel.

    Args:
        mask: Pixel truth as stored.
        resized: The same after ``resize_mask``.

    Returns:
        Number of 8-connected regions that vanished.

    Example:
        >>> mask = torch.zeros(8, 8, dtype=torch.bool)
        >>> mask[0, 0] = mask[4:, 4:] = True
        >>> count_vanished(mask, resize_mask(mask, (2, 2)))
        1
    """
    regions, num_regions = ndimage.label(mask.numpy(), structure=EIGHT_NEIGHBOURS)
    height, width = resized.shape
    left = _nearest(regions.astype(np.int32), (height, width))[resized.numpy()]
    return int(num_regions - len(np.unique(left)))


def normalise(
    image: UInt8[Tensor, "3 height width"], mean: Sequence[float], std: Sequence[float]
) -> Float32[Tensor, "3 height width"]:
    """Scale pixels to [0, 1] and standardise each channel.

    Args:
        image: RGB pixels.
        mean: Mean of each channel on the scale [0, 1].
        std: Standard deviation of each channel, likewise.

    Returns:
        ``(image / 255 - mean) / std``.

    Example:
        >>> normalise(torch.full((3, 1, 1), 255, dtype=torch.uint8), [0.5] * 3, [0.25] * 3).flatten()
        tensor([2., 2., 2.])
    """
    per_channel = (3, 1, 1)
    scaled = image.to(torch.float32).div_(255)
    return scaled.sub_(torch.tensor(mean).view(per_channel)).div_(torch.tensor(std).view(per_channel))


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.array(Image.fromarray(values).resize((width, height), Image.Resampling.NEAREST))
