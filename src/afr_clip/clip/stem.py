"""A CNN in place of CLIP's patch embedding, for towers too small to learn edges and textures themselves."""

from typing import NamedTuple, cast

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
    """Normalise the CNN's channels at every position, and mix each with its neighbours to a token.

    Args:
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

    def forward(self, view: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch width h w"]:
        """Embed a view that has one position per patch."""
        return self.embedded(self.normalised(view))

    def normalised(self, view: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        """Bring each channel to about zero mean and unit deviation."""
        return (view - self.mean[:, None, None]) / self.std[:, None, None]

    def embedded(self, normalised: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch width h w"]:
        """Embed a view that is already normalised."""
        return cast("Tensor", self.mix(self.project(normalised)))


class PatchView(nn.Module):
    """Describe each patch by the CNN's maps, and by how rare it is in its own image.

    Finer stages are averaged over the patch, coarser ones interpolated. A defect is often just what the rest of the
    picture does not show, and no single patch can tell that.

    Args:
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
        """View images normalised for the CLIP towers, without a graph."""
        return self.of_maps(self.cnn.maps(image), *image.shape[-2:])

    def of_maps(self, maps: tuple[Tensor, ...], height: int, width: int) -> Float[Tensor, "batch channels h w"]:
        """View the CNN's maps of images of ``height x width`` pixels, without a graph."""
        with torch.no_grad():
            on_grid = [aligned(stage, (height // self.patch_size, width // self.patch_size)) for stage in maps]
            rare = torch.stack([rarity(stage) for stage in on_grid], dim=1)
            return torch.cat([*on_grid, rare, within_image(rare)], dim=1)


class Seen(NamedTuple):
    """The stem's output for a batch of images.

    Attributes:
        maps: The CNN's maps, one per stage and each of its own size.
        view: The normalised view of each patch.
        patches: Its embedding, which takes the place of CLIP's own.
    """

    maps: tuple[Tensor, ...]
    view: Float[Tensor, "batch channels h w"]
    patches: Float[Tensor, "batch token_dim h w"]

    def tokens(self) -> Float[Tensor, "batch tokens stem_dim"]:
        """Put view and embedding side by side, one token per patch.

        In the class token's place stands each channel's largest value over the patches.
        """
        patches = torch.cat([self.view, self.patches], dim=1).flatten(2).transpose(1, 2)
        return torch.cat([patches.amax(dim=1, keepdim=True), patches], dim=1)


class Stem(nn.Module):
    """A CNN in place of CLIP's patch embedding.

    Args:
        view: What is seen of each patch.

    Attributes:
        dim: Width of ``Seen.tokens``: the view's channels and the tower's width.
    """

    def __init__(self, view: PatchView, embedding: PatchEmbedding) -> None:
        super().__init__()
        self.view = view
        self.embedding = embedding
        self.dim: int = view.channels + embedding.project.out_channels

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch token_dim h w"]:
        """Embed the patches of images, as CLIP's own patch embedding does."""
        return self.see(image).patches

    def see(self, image: Float[Tensor, "batch 3 height width"]) -> Seen:
        """Run the CNN once over images normalised for the CLIP towers, without a graph."""
        maps = self.view.cnn.maps(image)
        with torch.no_grad():
            view = self.embedding.normalised(self.view.of_maps(maps, *image.shape[-2:]))
            return Seen(maps, view, self.embedding.embedded(view))


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
    positions = within_image(maps).flatten(2).transpose(1, 2)  # (B, N, C)
    distances = torch.cdist(positions, positions)
    kept = max(2, round(NEIGHBOUR_SHARE * distances.shape[-1]))
    # One more than is kept: the distance of a position to itself, 0, is among them.
    nearest = distances.topk(1 + kept, dim=-1, largest=False, sorted=False).values
    return (nearest.sum(dim=-1) / (kept * maps.shape[1] ** 0.5)).unflatten(1, maps.shape[-2:])


def within_image(maps: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
    """Standardise each channel over each image; 0 where an image is the same everywhere."""
    centred = maps - maps.mean(dim=(2, 3), keepdim=True)
    return centred / (maps.std(dim=(2, 3), keepdim=True) + LEAST_DEVIATION)


def aligned(
    maps: Float[Tensor, "batch channels rows columns"], grid_size: tuple[int, int]
) -> Float[Tensor, "batch channels h w"]:
    """Average finer maps to a grid ``(h, w)``, interpolate coarser ones."""
    if maps.shape[-2:] == grid_size:
        return maps
    if maps.shape[-2] > grid_size[0]:
        return F.adaptive_avg_pool2d(maps, grid_size)
    return F.interpolate(maps, size=grid_size, mode="bilinear", align_corners=False)
