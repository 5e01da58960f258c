"""A CNN in the place of CLIP's patch embedding, for towers too small to learn edges and textures themselves."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.cnn import FrozenCNN

NEIGHBOUR_SHARE = 0.1
"""Share of an image's patches that a patch is compared with; more than a defect usually covers."""

TYPICAL_RARITY, RARITY_SPREAD = 0.85, 0.3
"""Mean and deviation of the rarity of a patch, over the drawn pictures of dataset=demo."""

LEAST_DEVIATION = 1e-3
"""Added to deviations over an image, which are 0 where it is the same everywhere."""


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
        return self.project(self.normalised(maps))

    def normalised(self, maps: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        """Bring each channel to about zero mean and unit deviation."""
        return (maps - self.mean[:, None, None]) / self.std[:, None, None]


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


class StemTokens(nn.Module):
    """What the stem saw, as tokens beside the tower's: the CNN's maps, and how rare each patch is in its own image.

    A small tower forgets detail, and what is damaged is often no more than what the rest of the picture does not show.
    The class token's place takes each channel's largest value over the patches.

    Args:
        maps: The CNN's maps, one position per patch.
        projection: Knows by which statistics they are normalised.

    Attributes:
        dim: Width of a token: the maps' channels, and two measures of rarity per stage of the CNN.
    """

    def __init__(self, maps: AlignedMaps, projection: PatchProjection) -> None:
        super().__init__()
        self.maps = maps
        self.projection = projection
        self.dim: int = maps.cnn.feature_dim + 2 * len(maps.cnn.stage_dims)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Look at images normalised as the CLIP towers take them, without a graph.

        Args:
            image: Any size that the tower takes.

        Returns:
            A token for the class token's place, and one per patch.
        """
        with torch.no_grad():
            maps = self.maps(image)
            rare = torch.stack([rarity(stage) for stage in maps.split(self.maps.cnn.stage_dims, dim=1)], dim=1)
            seen = (self.projection.normalised(maps), (rare - TYPICAL_RARITY) / RARITY_SPREAD, _within_image(rare))
            patches = torch.cat(seen, dim=1).flatten(2).transpose(1, 2)
            return torch.cat([patches.amax(dim=1, keepdim=True), patches], dim=1)


def rarity(maps: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch h w"]:
    r"""Measure how far each position is from the tenth of the image's positions that are most like it.

    .. math:: r_n = \frac{1}{|\mathcal{K}_n|} \sum_{j \in \mathcal{K}_n} \lVert z_n - z_j \rVert / \sqrt{C}

    Args:
        maps: Feature maps; every channel ``z`` is first standardised over the image.

    Returns:
        The mean distance; 0 where an image is the same everywhere.

    Example:
        >>> lonely = torch.zeros(1, 1, 5, 4); lonely[..., 2, 1] = 1.0
        >>> rarity(lonely).argmax().item()
        9
    """
    positions = _within_image(maps).flatten(2).transpose(1, 2)  # (B, N, C)
    distances = torch.cdist(positions, positions)
    kept = max(2, round(NEIGHBOUR_SHARE * distances.shape[-1]))
    nearest = distances.topk(1 + kept, dim=-1, largest=False, sorted=False).values  # its own distance, 0, among them
    return (nearest.sum(dim=-1) / (kept * maps.shape[1] ** 0.5)).unflatten(1, maps.shape[-2:])


def _within_image(maps: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
    centred = maps - maps.mean(dim=(2, 3), keepdim=True)
    return centred / (maps.std(dim=(2, 3), keepdim=True) + LEAST_DEVIATION)


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
