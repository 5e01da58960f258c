"""A CNN in the place of CLIP's patch embedding, for towers too small to learn edges and textures themselves."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.cnn import FrozenCNN


class PatchProjection(nn.Module):
    """Normalise the channels of a CNN's maps and project them to the tower's width.

    Args:
        channels: Channels of the maps.
        width: Width ``D_v`` of the tower's tokens.

    Example:
        >>> PatchProjection(channels=6, width=4)(torch.randn(1, 6, 3, 3)).shape
        torch.Size([1, 4, 3, 3])
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.project = nn.Conv2d(channels, width, kernel_size=1)

    def forward(self, maps: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch width h w"]:
        """Project maps that have one position per patch."""
        return self.project((maps - self.mean[:, None, None]) / self.std[:, None, None])


class AlignedMaps(nn.Module):
    """Bring chosen stages of a CNN to one position per patch, and put their channels behind each other.

    Finer stages are averaged over the patch, coarser ones interpolated.

    Args:
        cnn: The frozen CNN.
        patch_size: Side of a patch in pixels.
    """

    def __init__(self, cnn: FrozenCNN, patch_size: int) -> None:
        super().__init__()
        self.cnn = cnn
        self.patch_size = patch_size

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h w"]:
        """Look at images normalised as the CLIP towers take them."""
        grid_size = (image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size)
        return torch.cat([aligned(stage, grid_size) for stage in self.cnn.maps(image)], dim=1)


def aligned(
    maps: Float[Tensor, "batch channels rows columns"], grid_size: tuple[int, int]
) -> Float[Tensor, "batch channels h w"]:
    """Average or interpolate maps to a grid.

    Args:
        maps: Maps of any size.
        grid_size: Wanted ``(h, w)``.
    """
    if maps.shape[-2:] == grid_size:
        return maps
    if maps.shape[-2] > grid_size[0]:
        return F.adaptive_avg_pool2d(maps, grid_size)
    return F.interpolate(maps, size=grid_size, mode="bilinear", align_corners=False)
