"""A CNN in the place of CLIP's patch embedding, for towers too small to learn edges and textures themselves."""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.cnn import FrozenCNN

NEIGHBOUR_SHARE = 0.1
"""Share of an image's patches that a patch is compared with; more than a defect usually covers."""

LEAST_DEVIATION = 1e-3
"""Added to deviations over an image, which are 0 where it is the same everywhere."""


class PatchEmbedding(nn.Module):
    """Normalise what a CNN sees at every position, and mix it with what is around it to a token of the tower's width.

    Args:
        channels: Channels of what is seen.
        width: Width ``D_v`` of the tower's tokens.

    Example:
        >>> PatchEmbedding(channels=6, width=4)(torch.randn(1, 6, 3, 3)).shape
        torch.Size([1, 4, 3, 3])
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.project = nn.Conv2d(channels, width, kernel_size=1)
        self.mix = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.GELU(),
        )

    def forward(self, seen: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch width h w"]:
        """Embed what has one position per patch."""
        return self.embedded(self.normalised(seen))

    def normalised(self, seen: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        """Bring each channel to about zero mean and unit deviation."""
        return (seen - self.mean[:, None, None]) / self.std[:, None, None]

    def embedded(self, normalised: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch width h w"]:
        """Embed what is normalised already."""
        return cast("Tensor", self.mix(self.project(normalised)))


class PatchView(nn.Module):
    """See each patch as the CNN's maps, and as how rare it is in its own image.

    Finer stages are averaged over the patch, coarser ones interpolated. What is damaged is often no more than what the
    rest of the picture does not show, and that no single patch can tell.

    Args:
        cnn: The frozen CNN.
        patch_size: Side of a patch in pixels.

    Attributes:
        channels: The maps' channels, and two measures of rarity per stage.
    """

    def __init__(self, cnn: FrozenCNN, patch_size: int) -> None:
        super().__init__()
        self.cnn = cnn
        self.patch_size = patch_size
        self.channels: int = cnn.feature_dim + 2 * len(cnn.stage_dims)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h w"]:
        """Look at images normalised as the CLIP towers take them, without a graph."""
        grid_size = (image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size)
        with torch.no_grad():
            maps = [aligned(stage, grid_size) for stage in self.cnn.maps(image)]
            rare = torch.stack([rarity(stage) for stage in maps], dim=1)
            return torch.cat([*maps, rare, _within_image(rare)], dim=1)


class Stem(nn.Module):
    """A CNN in the place of CLIP's patch embedding.

    What was made of the last images is remembered as long as the CNN remembers them: the tower and what its taps carry
    ask for the same.

    Args:
        view: What is seen of each patch.
        embedding: Makes tokens of it.

    Attributes:
        dim: Width of what ``tokens`` gives: all that is seen, and the tower's width.
    """

    def __init__(self, view: PatchView, embedding: PatchEmbedding) -> None:
        super().__init__()
        self.view = view
        self.embedding = embedding
        self.dim: int = view.channels + embedding.project.out_channels
        self._last: tuple[tuple[Tensor, ...], Tensor, Tensor] | None = None

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch token_dim h w"]:
        """Embed the patches of images normalised as the CLIP towers take them, without a graph."""
        return self._look(image)[1]

    def tokens(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens stem_dim"]:
        """Return what was seen and how it was embedded, as tokens beside the tower's: a small tower forgets detail.

        Args:
            image: Any size that the tower takes.

        Returns:
            A token per patch, and in the class token's place each channel's largest value over the patches.
        """
        with torch.no_grad():
            patches = torch.cat(self._look(image), dim=1).flatten(2).transpose(1, 2)
            return torch.cat([patches.amax(dim=1, keepdim=True), patches], dim=1)

    def _look(self, image: Tensor) -> tuple[Tensor, Tensor]:
        stages = self.view.cnn.maps(image)
        if self._last is None or self._last[0] is not stages:
            with torch.no_grad():
                normalised = self.embedding.normalised(self.view(image))  # the CNN remembers its maps
                self._last = (stages, normalised, self.embedding.embedded(normalised))
        return self._last[1], self._last[2]


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
