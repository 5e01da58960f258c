"""Image files of any common kind to RGB tensors and boolean masks."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from afr_clip.data.disk.picture_files import MAX_PIXELS, read_mask, read_picture


@dataclass(frozen=True)
class Picture:
    """A decoded image; see `PicturePixels`."""

    rgb: UInt8[Tensor, "3 height width"]
    orientation: int
    num_bits: int = 8
    is_deep: bool = False


def decode_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> UInt8[Tensor, "3 height width"]:
    """Decode an image file to RGB; see `read_picture`."""
    return decode_picture(path, max_pixels=max_pixels).rgb


def decode_picture(path: Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an image file to RGB; see `read_picture`."""
    read = read_picture(path, max_pixels=max_pixels)
    # Left in Pillow's memory order: resizing reads (H, W, 3) faster than (3, H, W).
    return Picture(torch.from_numpy(read.rgb).permute(2, 0, 1), read.orientation, read.num_bits, read.is_deep)


def decode_mask(
    path: Path, threshold: int | None = None, *, max_pixels: int = MAX_PIXELS
) -> Bool[Tensor, "height width"]:
    """Decode a ground-truth mask; see `read_mask`."""
    return torch.from_numpy(read_mask(path, threshold, max_pixels=max_pixels))
