"""Windows of an image: CLIP's own embedding of each, and from their scores to a map."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.packed import becomes_a_graph

TOKENS_PER_PASS = 1280
"""Tokens of all windows in one pass: enough to keep matrix products busy, few enough to stay in a CPU's cache."""


def window_positions(grid_size: tuple[int, int], size: int) -> Int[Tensor, "windows tokens"]:
    """List the tokens that every window shows.

    A window is an image of which nothing else is shown: the tower sees the class token and the window's patch tokens
    with the position embeddings that they have in the whole image. Windows overlap; one starts at every patch where it
    fits.

    Args:
        grid_size: Patches ``(h, w)`` of an image.
        size: Side of a window in patches.

    Returns:
        For each window, row by row, the class token's position 0 and those of its patches.

    Raises:
        ValueError: If the window does not fit the grid.

    Example:
        >>> window_positions((2, 3), 2).tolist()
        [[0, 1, 2, 4, 5], [0, 2, 3, 5, 6]]
    """
    height, width = grid_size
    if not 1 <= size <= min(grid_size):
        msg = (
            f"A window must be 1 to {min(grid_size)} patches wide on a grid of {height} x {width}, got {size}. "
            f"Set module.network.window_sizes or a larger backbone.image_size."
        )
        raise ValueError(msg)
    patches = torch.arange(1, height * width + 1).view(height, width)
    shown = patches.unfold(0, size, 1).unfold(1, size, 1).flatten(2).flatten(0, 1)
    return torch.cat([torch.zeros_like(shown[:, :1]), shown], dim=1)


def embed_windows(
    backbone: CLIPBackbone,
    tokens: Float[Tensor, "batch tokens token_dim"],
    positions: Int[Tensor, "windows shown"],
) -> Float[Tensor, "batch windows embed_dim"]:
    """Embed windows of images, many in one pass.

    Args:
        tokens: What the first block of the image tower sees of whole images.
        positions: What every window shows; 0, which stands for class token and registers, comes first.

    Returns:
        The image embedding of every window; not normalised.
    """
    tower, num_images, embeddings = backbone.tower, tokens.shape[0], []
    # An exported graph takes batches of any size, so it splits the windows as for one image.
    together = 1 if becomes_a_graph() else num_images
    prefix = torch.arange(tower.num_prefix, device=tokens.device)
    for part in positions.split(max(1, TOKENS_PER_PASS // (together * positions.shape[1]))):
        patches = part[:, 1:] - 1
        seen = torch.cat([prefix.expand(part.shape[0], -1), tower.num_prefix + patches], dim=1)
        shown = tokens[:, seen].flatten(0, 1)  # (B * windows, prefix + k * k, D_v)
        rotation = tower.rotation(patches.repeat(num_images, 1))
        for number in range(1, backbone.depth):
            shown = tower.block(number, shown, rotation)
        embeddings.append(tower.embed_last(shown, rotation).unflatten(0, (-1, part.shape[0])))
    return torch.cat(embeddings, dim=1)


def aggregate_windows(
    scores: Float[Tensor, "batch windows"], grid_size: tuple[int, int], size: int
) -> Float[Tensor, "batch grid_height grid_width"]:
    r"""Give every patch the harmonic mean of the scores of all windows that show it.

    A patch is anomalous where no window that shows it looks normal: one low score pulls a harmonic mean down.

    .. math:: \bar{M}_{ij} = \Big( \tfrac{1}{|W_{ij}|} \sum_{w \in W_{ij}} M_w^{-1} \Big)^{-1}
        \qquad \text{harmonic aggregation of windows, WinCLIP}

    Args:
        scores: One score in [0, 1] for each window, row by row; a score of 0 makes every patch of the window 0.
        grid_size: Patches ``(h, w)`` of an image.
        size: Side of a window in patches.

    Example:
        >>> aggregate_windows(torch.tensor([[0.5, 0.25]]), grid_size=(2, 3), size=2)[0, 0]
        tensor([0.5000, 0.3333, 0.2500])
    """
    inverse = 1 / scores.unflatten(1, (grid_size[0] - size + 1, grid_size[1] - size + 1))
    # A patch is shown by the windows that start at it or up to size - 1 patches above and left of it.
    inverse_sum, num_windows = (
        F.avg_pool2d(F.pad(maps, [size - 1] * 4), size, stride=1, divisor_override=1)
        for maps in (inverse, torch.ones_like(inverse[:1]))
    )
    return num_windows / inverse_sum
