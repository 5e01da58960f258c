"""The stem of pocket's next edition: what is seen of a patch, and how it becomes a token."""

import math
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from afr_clip.clip import stem
from afr_clip.clip.cnn import FrozenCNN
from afr_clip.clip.stem import aligned, within_image

COLOURS = 3
"""Channels of an image."""

BANDWIDTH = 0.5
"""Distance per channel, in deviations, up to which positions of an image count as alike."""

REFERENCE_SIDE = 20
"""Largest number of rows and columns of positions that are all compared with each other; a finer grid is sampled."""

LEAST_DENSITY = 1e-6
"""Density below which a position is not rarer still."""


class PatchEmbedding(stem.PatchEmbedding):
    """As pocket's, with each channel also relative to its image, and the second convolution spread out.

    A defect is often just what the rest of the picture does not show, and no single patch can tell that. On a fine
    grid, what belongs to a patch's pattern lies farther away.

    Args:
        channels: Of the view.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width)
        self.project = nn.Conv2d(2 * channels, width, kernel_size=1)
        self.mix[3] = nn.Conv2d(width, width, kernel_size=3, padding=2, dilation=2)

    def normalised(self, view: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch twice_channels h w"]:
        """Bring each channel to about zero mean and unit deviation: over many images, then over its own."""
        return torch.cat([super().normalised(view), within_image(view)], dim=1)


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
                    variance = aligned(stage.square(), grid_size) - means[-1].square()
                    deviations.append(variance.clamp_min(0).sqrt())
            rare = torch.stack([rarity(mean) for mean in means[1:]], dim=1)
            return torch.cat([*means, *deviations, rare], dim=1)


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
    alike[:, place, torch.arange(len(place), device=maps.device)] = 0
    own = torch.zeros(rows * columns, device=maps.device)
    own[place] = 1
    density = (alike.sum(dim=-1) / (len(place) - own)).clamp(LEAST_DENSITY, 1)
    return -density.log().unflatten(1, (rows, columns))


def _references(rows: int, columns: int, device: torch.device) -> Int[Tensor, " references"]:
    """Choose the positions that all are compared with: all, or a lattice that lies askew to any pattern's own."""
    step = math.ceil(max(rows, columns) / REFERENCE_SIDE)
    row, column = torch.arange(rows, device=device)[:, None], torch.arange(columns, device=device)
    every = step**2 + 1 if step > 1 else 1
    return ((row + step * column) % every == 0).flatten().nonzero().squeeze(1)
