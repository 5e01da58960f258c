"""One sample's pixels at the model's input size: decoding, resizing, and what resizing loses.

Sizes are ``(height, width)`` everywhere.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from afr_clip.data.disk.decode import Picture, decode_mask, decode_picture
from afr_clip.data.disk.picture_files import MAX_PIXELS, turned
from afr_clip.data.errors import DataError
from afr_clip.data.records import AnomalySample
from afr_clip.files import shown

logger = logging.getLogger(__name__)

SIDEWAYS = (5, 6, 7, 8)
"""Values of the EXIF orientation that exchange height and width."""

THINNEST = 100
"""How many times longer than the other one side may be without a warning."""

NEARLY_FULL = 0.9
"""Share of a picture above which its mask may be inverted."""

FEW_PIXELS, MOST_GROWTH = 1 << 24, 4
"""Bounds for an intermediate image while resizing: pixels, and times those of the larger of both sizes."""

LONGEST_SIDE, FINEST_FILTER = 1 << 17, 64
"""Longest side that is filtered directly, in pixels and in pixels per pixel of the result."""

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


class MaskSizeError(DataError):
    """A mask does not have the size of its image."""


@dataclass(frozen=True)
class Pixels:
    """An image and its truth.

    Attributes:
        image: RGB, 0..255.
        mask: Pixel truth; all ``False`` if there is no mask file.
    """

    image: UInt8[Tensor, "3 height width"]
    mask: Bool[Tensor, "height width"]


@dataclass(frozen=True)
class SampleReader:
    """Decodes a sample and resizes it.

    Attributes:
        size: Height and width in pixels.
        mask_threshold: Lowest 8-bit mask value that is anomalous; ``None`` for any value but 0 (128 in a JPEG).
        max_pixels: Most pixels of a file.
    """

    size: tuple[int, int]
    mask_threshold: int | None = None
    max_pixels: int = MAX_PIXELS

    def decode(self, sample: AnomalySample) -> Pixels:
        """Decode a sample at its stored size, upright.

        Raises:
            DataError: If a file cannot be decoded, or image and mask differ in size.
        """
        picture = decode_picture(sample.image_path, max_pixels=self.max_pixels)
        return Pixels(picture.rgb, self.decode_truth(sample.image_path, picture, sample.mask_path))

    def decode_truth(self, path: Path, picture: Picture, mask_path: Path | None) -> Bool[Tensor, "height width"]:
        """Decode the mask of an image that was decoded from ``path``.

        Viewers and labelling tools show an image upright, so a mask is taken to be drawn on that. Only one that fits
        nothing but the pixels as the file stores them is turned like the image.

        Raises:
            DataError: If it cannot be decoded, or differs in size from the image.
        """
        size = picture.rgb.shape[1:]
        if mask_path is None:
            return torch.zeros(size, dtype=torch.bool)
        mask = decode_mask(mask_path, self.mask_threshold, max_pixels=self.max_pixels)
        if mask.shape != size and mask.shape == size[::-1] and picture.orientation in SIDEWAYS:
            mask = torch.from_numpy(turned(mask.numpy(), picture.orientation))
        if mask.shape != size:
            msg = (
                f"An image and its mask must have the same size, but {shown(path)} is {size[0]} x {size[1]} and "
                f"{shown(mask_path)} is {mask.shape[0]} x {mask.shape[1]} pixels (height x width). Correct the pairing."
            )
            raise MaskSizeError(msg)
        return mask

    def read(self, sample: AnomalySample) -> Pixels:
        """Decode a sample and resize it to ``size``; raises as ``decode`` does."""
        pixels = self.decode(sample)
        height, width = pixels.mask.shape
        if max(height, width) > THINNEST * min(height, width):
            message = "%s has %d x %d pixels (height x width) and is squeezed to %d x %d. Cut it into pieces."
            logger.warning(message, shown(sample.image_path), height, width, *self.size)
        return Pixels(resize_image(pixels.image, self.size), resize_mask(pixels.mask, self.size))


def resize_image(
    image: UInt8[Tensor, "3 height width"], size: tuple[int, int]
) -> UInt8[Tensor, "3 new_height new_width"]:
    """Resize with an antialiased bicubic filter in 8 bits; the aspect ratio is not kept.

    The result is within one grey level of Pillow's bicubic, except for a few values in ten million photographed ones
    that differ by two (somewhat more in enlarged images), because torchvision rounds its filter to fewer bits. If one
    side shrinks while the other grows, hard edges may differ more: newer versions of Pillow filter the columns first.

    Example:
        >>> resize_image(torch.zeros(3, 4, 6, dtype=torch.uint8), (2, 5)).shape
        torch.Size([3, 2, 5])
    """
    image = _without_excess(_without_excess(image, size[0], axis=1), size[1], axis=2)
    for step in _steps((image.shape[1], image.shape[2]), size):
        image = functional.resize(image, list(step), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return image


def _steps(stored: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the sizes on the way to ``size``.

    torchvision resizes the rows first, to ``stored height x new width``. For a tall and thin image that is many times
    the image, so its height comes first.
    """
    (height, width), (new_height, new_width) = stored, size
    is_thin = height * new_width > max(FEW_PIXELS, MOST_GROWTH * max(height * width, new_height * new_width))
    return [(new_height, width), size] if is_thin else [size]


def _without_excess(image: UInt8[Tensor, "3 _ _"], size: int, axis: int) -> UInt8[Tensor, "3 _ _"]:
    """Average neighbours along an axis so long that the filter's weights would need more memory than the image."""
    length, most = image.shape[axis], max(LONGEST_SIDE, FINEST_FILTER * size)
    if length <= most:
        return image
    edges = np.linspace(0, length, most + 1).astype(np.int64)
    shape = [1, 1, 1]
    shape[axis] = most
    sums = np.add.reduceat(image.numpy(), edges[:-1], axis=axis, dtype=np.uint32)
    return torch.from_numpy(np.rint(sums / np.diff(edges).reshape(shape)).astype(np.uint8))


def resize_mask(mask: Bool[Tensor, "height width"], size: tuple[int, int]) -> Bool[Tensor, "new_height new_width"]:
    """Resize by Pillow's nearest neighbour, so the mask stays boolean.

    Example:
        >>> resize_mask(torch.eye(2, dtype=torch.bool), (2, 4)).int()
        tensor([[1, 1, 0, 0],
                [0, 0, 1, 1]], dtype=torch.int32)
    """
    return mask[_chosen(mask.shape[0], size[0])][:, _chosen(mask.shape[1], size[1])]


def count_vanished(mask: Bool[Tensor, "height width"], size: tuple[int, int]) -> int:
    """Count the 8-connected defects of a mask that have no pixel left after ``resize_mask``.

    Example:
        >>> mask = torch.zeros(8, 8, dtype=torch.bool)
        >>> mask[0, 0] = mask[4:, 4:] = True
        >>> count_vanished(mask, (2, 2))
        1
    """
    if all(old <= new for old, new in zip(mask.shape, size, strict=True)) or not mask.any():
        return 0  # a mask that is not made smaller keeps every pixel
    from scipy import ndimage  # noqa: PLC0415 - a quarter of a second, and photographs have no masks

    regions, num_regions = ndimage.label(mask.numpy(), structure=EIGHT_NEIGHBOURS)
    rows, columns = (_chosen(old, new).numpy() for old, new in zip(mask.shape, size, strict=True))
    left = regions[rows[:, None], columns]
    return int(num_regions - len(np.unique(left[left > 0])))


def _chosen(length: int, size: int) -> Int[Tensor, " size"]:
    """Return which of ``length`` pixels in a row Pillow's nearest neighbour chooses."""
    step = length / size
    middles = np.cumsum([step / 2, *[step] * (size - 1)])  # added up as Pillow does, with its rounding
    return torch.from_numpy(np.minimum(middles.astype(np.int64), length - 1))


@dataclass(frozen=True)
class DefectCount:
    """What resizing does to the masks of one category.

    Attributes:
        num_empty: Masks without an anomalous pixel as stored; the mask threshold may be wrong.
        num_full: Masks that mark nearly all of the picture; they may be inverted.
        num_vanished: 8-connected defects that have no pixel left after resizing.
    """

    num_masks: int
    num_empty: int
    num_full: int
    num_vanished: int


def is_nearly_full(mask: Bool[Tensor, "height width"]) -> bool:
    """Tell whether a mask marks so much of a picture that it may be inverted."""
    return int(mask.count_nonzero()) > NEARLY_FULL * mask.numel()


def count_vanished_defects(samples: Iterable[AnomalySample], reader: SampleReader) -> dict[str, DefectCount]:
    """Count, for each category with masks, the defects that the model's input size cannot show."""
    counts: dict[str, DefectCount] = {}
    for sample in samples:
        if sample.mask_path is None:
            continue
        category = sample.category
        mask = decode_mask(sample.mask_path, reader.mask_threshold, max_pixels=reader.max_pixels)
        so_far = counts.get(category, DefectCount(0, 0, 0, 0))
        counts[category] = DefectCount(
            num_masks=so_far.num_masks + 1,
            num_empty=so_far.num_empty + int(not mask.any()),
            num_full=so_far.num_full + int(is_nearly_full(mask)),
            num_vanished=so_far.num_vanished + count_vanished(mask, reader.size),
        )
    return counts
