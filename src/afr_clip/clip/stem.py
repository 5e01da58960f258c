"""A CNN in place of CLIP's patch embedding, for towers too small to learn edges and textures themselves."""

import math
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from afr_clip.clip.cnn import FrozenCNN

COLOURS = 3
"""Channels of an image."""

BANDWIDTH = 0.5
"""Distance per channel, in deviations, up to which positions of an image count as alike."""

REFERENCE_SIDE = 20
"""Largest number of rows and columns of positions that are all compared with each other; a finer grid is sampled."""

LEAST_DENSITY = 1e-6
"""Density below which a position is not rarer still."""

LEAST_DEVIATION = 1e-3
"""Added to deviations over an image, which are 0 where it is the same everywhere."""


HIDDEN = 192
"""Channels between the convolutions of the embedding."""


class PatchEmbedding(nn.Module):
    """Normalise the view's channels at every position, and mix each with its neighbours to a token.

    Each channel is also seen relative to its image: a defect is often just what the rest of the picture does not show,
    and no single patch can tell that.

    Args:
        channels: Of the view.
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
        self.width = width
        self.project = nn.Conv2d(2 * channels, HIDDEN, kernel_size=1)
        self.mix = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(HIDDEN, HIDDEN, kernel_size=3, padding=1),
            nn.GELU(),
            # Spread out: on a fine grid, what belongs to a patch's pattern lies farther away.
            nn.Conv2d(HIDDEN, width, kernel_size=3, padding=2, dilation=2),
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
        both = torch.cat([normalised, within_image(normalised)], dim=1)
        return cast("Tensor", self.mix(self.project(both)))


class PatchView(nn.Module):
    """Describe each patch by its colour, by the CNN's maps, and by how rare it is in its own image.

    Of pixels and of finer stages a patch has the mean and the deviation of what lies in it, so that a line thinner than
    a patch still shows; coarser stages are interpolated.

    Args:
        patch_size: Side of a patch in pixels.

    Attributes:
        channels: Of the view.
    """

    def __init__(self, cnn: FrozenCNN, patch_size: int) -> None:
        super().__init__()
        self.cnn = cnn
        self.patch_size = patch_size
        # Pixels per position of each stage's map.
        self._strides: tuple[int, ...] = tuple(cast("Any", cnn.network).feature_info.reduction())
        fine = sum(dim for dim, stride in zip(cnn.stage_dims, self._strides, strict=True) if stride < patch_size)
        self.channels: int = 2 * COLOURS + cnn.feature_dim + fine + len(cnn.stage_dims)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h w"]:
        """View images normalised for the CLIP towers, without a graph."""
        return self.of_maps(self.cnn.maps(image), image)

    def of_maps(
        self, maps: tuple[Tensor, ...], image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels h w"]:
        """View images of which the CNN's maps are known, without a graph."""
        grid_size = (image.shape[-2] // self.patch_size, image.shape[-1] // self.patch_size)
        with torch.no_grad():
            means, deviations = [], []
            for stage, stride in zip((image, *maps), (1, *self._strides), strict=True):
                means.append(aligned(stage, grid_size))
                if stride < self.patch_size:
                    deviations.append(deviation_within(stage, grid_size))
            rare = torch.stack([rarity(mean) for mean in means[1:]], dim=1)
            return torch.cat([*means, *deviations, rare], dim=1)


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
        self.dim: int = view.channels + embedding.width

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch token_dim h w"]:
        """Embed the patches of images, as CLIP's own patch embedding does."""
        return self.see(image).patches

    def see(self, image: Float[Tensor, "batch 3 height width"]) -> Seen:
        """Run the CNN once over images normalised for the CLIP towers, without a graph."""
        # The patches' deviations and rarity enlarge what bfloat16 rounds away: it cost 0.2 points of AUROC.
        with torch.autocast(image.device.type, enabled=False):
            maps = self.view.cnn.maps(image.float())
        with torch.no_grad():
            view = self.embedding.normalised(self.view.of_maps(maps, image))
            return Seen(maps, view, self.embedding.embedded(view))


def rarity(maps: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch h w"]:
    r"""Measure how little of the image is like each of its positions: the negative logarithm of a kernel density.

    .. math:: r_n = -\log \frac{1}{|\mathcal{R}_n|} \sum_{j \in \mathcal{R}_n}
        \exp\left(-\frac{\lVert z_n - z_j \rVert^2}{2 C \sigma^2}\right)

    Args:
        maps: Feature maps; every channel ``z`` is first standardised over the image. Of more than ``REFERENCE_SIDE``
            rows or columns a part is compared with. A position is not compared with itself.

    Returns:
        0 where an image is the same everywhere.

    Example:
        >>> lonely = torch.zeros(1, 1, 5, 4); lonely[..., 2, 1] = 1.0
        >>> rarity(lonely).argmax().item()
        9
    """
    positions = within_image(maps).flatten(2).transpose(1, 2)  # (B, N, C)
    rows, columns = maps.shape[-2:]
    place = _references(rows, columns, maps.device)
    references = positions[:, place]  # (B, M, C)
    squares = positions.square().sum(dim=-1, keepdim=True) + references.square().sum(dim=-1)[:, None]
    squared_distance = torch.baddbmm(squares, positions, references.transpose(1, 2), alpha=-2)  # (B, N, M)
    alike = squared_distance.mul_(-0.5 / (maps.shape[1] * BANDWIDTH**2)).exp_()
    itself = torch.arange(rows * columns, device=maps.device)[:, None] == place  # (N, M)
    num_others = len(place) - itself.sum(dim=-1)
    density = (alike.masked_fill_(itself, 0).sum(dim=-1) / num_others).clamp(LEAST_DENSITY, 1.0)
    return -density.log().unflatten(1, (rows, columns))


def _references(rows: int, columns: int, device: torch.device) -> Int[Tensor, " references"]:
    """Choose the positions that all are compared with: all, or a lattice that lies askew to any pattern's own."""
    step = math.ceil(max(rows, columns) / REFERENCE_SIDE)
    every = step**2 + 1 if step > 1 else 1
    # In NumPy: how many there are does not depend on data, but an exported graph could not know.
    row, column = np.ogrid[: int(rows), : int(columns)]
    return torch.from_numpy(np.flatnonzero((row + step * column) % every == 0)).to(device)


def within_image(maps: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
    """Standardise each channel over each image; 0 where an image is the same everywhere."""
    centred = maps - maps.mean(dim=(2, 3), keepdim=True)
    # A third of the time of torch.std.
    variance = centred.square().sum(dim=(2, 3), keepdim=True) / max(1, maps.shape[-2] * maps.shape[-1] - 1)
    return centred / (variance.sqrt() + LEAST_DEVIATION)


def deviation_within(
    maps: Float[Tensor, "batch channels rows columns"], grid_size: tuple[int, int]
) -> Float[Tensor, "batch channels h w"]:
    """Return the standard deviation in each cell of a grid ``(h, w)`` that is coarser than the maps.

    Example:
        >>> deviation_within(torch.tensor([[[[1.0, 3.0, 1000.0, 1000.0]]]]), (1, 2))
        tensor([[[[1., 0.]]]])
    """
    cell_height, cell_width = (int(side) // int(cells) for side, cells in zip(maps.shape[-2:], grid_size, strict=True))
    if (cell_height * grid_size[0], cell_width * grid_size[1]) != tuple(maps.shape[-2:]):
        variance = aligned(maps.square(), grid_size) - aligned(maps, grid_size).square()
        return variance.clamp_min(0).sqrt()
    # The difference above leaves little but rounding of an even cell, and its root makes that large.
    cells = maps.unflatten(-1, (grid_size[1], cell_width)).unflatten(-3, (grid_size[0], cell_height))
    return (cells - cells.mean(dim=(3, 5), keepdim=True)).square().mean(dim=(3, 5)).sqrt()  # from (B, C, h, _, w, _)


def aligned(
    maps: Float[Tensor, "batch channels rows columns"], grid_size: tuple[int, int]
) -> Float[Tensor, "batch channels h w"]:
    """Average finer maps to a grid ``(h, w)``, interpolate coarser ones."""
    if maps.shape[-2:] == grid_size:
        return maps
    if maps.shape[-2] > grid_size[0]:
        rows, columns = (int(side) // int(cells) for side, cells in zip(maps.shape[-2:], grid_size, strict=True))
        if (rows * grid_size[0], columns * grid_size[1]) == tuple(maps.shape[-2:]):
            return F.avg_pool2d(maps, (rows, columns))  # the same, and faster
        return F.adaptive_avg_pool2d(maps, grid_size)
    return F.interpolate(maps, size=grid_size, mode="bilinear", align_corners=False)
