"""CLIP's own embedding of small windows of an image, many windows in one pass."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.clip.fused import FusedAttention

TOKENS_PER_PASS = 1280
"""Tokens of all windows in one pass: enough to keep matrix products busy, few enough to stay in a CPU's cache."""


class WindowedImage(NamedTuple):
    """What the image tower makes of whole images and of their windows.

    Attributes:
        tokens: Class token and patch tokens after the last block, neither normalised nor projected.
        windows: Per window size one embedding for each window, row by row, in the shared space; not normalised.
    """

    tokens: Float[Tensor, "batch tokens token_dim"]
    windows: tuple[Float[Tensor, "batch windows embed_dim"], ...]


def encode_windows(
    backbone: CLIPBackbone, image: Float[Tensor, "batch 3 height width"], sizes: Sequence[int]
) -> WindowedImage:
    """Run the image tower over images and over every square window of their patches.

    A window is an image of which nothing else is shown: the tower sees the class token and the window's patch tokens
    with the position embeddings that they have in the whole image.

    Args:
        backbone: The frozen towers.
        image: Normalised images of the backbone's input size.
        sizes: Sides of the windows in patches; windows of one size overlap, one starts at every patch where it fits.

    Returns:
        Tokens of the images, embeddings of the windows.

    Raises:
        ValueError: If a window does not fit the patch grid, or the image has another size than the tower was built for.
    """
    embedded: list[Tensor] = []

    def keep(number: int, tokens: Tensor) -> Tensor:
        if number == 1:
            embedded.append(tokens)
        return tokens

    positions = [window_positions(backbone.grid_size, size).to(image.device) for size in sizes]
    (tokens,) = backbone.tap(image, keep, layers=(backbone.depth,))
    return WindowedImage(tokens, tuple(embed_windows(backbone, embedded[0], of_size) for of_size in positions))


def window_positions(grid_size: tuple[int, int], size: int) -> Int[Tensor, "windows tokens"]:
    """Say which tokens every window shows.

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
    """Embed windows of images of which each shows some tokens, many in one pass.

    Args:
        backbone: The frozen towers.
        tokens: What the first block of the image tower sees of whole images.
        positions: Which of the tokens every window shows; the class token comes first.

    Returns:
        The class token of every window after the last block, in the shared space; not normalised.
    """
    num_images, (*blocks, last) = tokens.shape[0], backbone.clip.visual.transformer.resblocks
    embeddings = []
    for part in positions.split(max(1, TOKENS_PER_PASS // (num_images * positions.shape[1]))):
        seen = tokens[:, part].flatten(0, 1)  # (B * windows, 1 + k * k, D_v)
        for block in blocks:
            seen = block(seen)
        embeddings.append(backbone.project(_class_token_after(last, seen)).unflatten(0, (num_images, -1)))
    return torch.cat(embeddings, dim=1)


def _class_token_after(block: Any, tokens: Float[Tensor, "rows tokens token_dim"]) -> Float[Tensor, "rows token_dim"]:  # noqa: ANN401 - open_clip's blocks share no type
    """Compute the class token alone that a block returns: the last one's patches are read by nobody."""
    if not isinstance(block.attn, FusedAttention):
        return block(tokens)[:, 0]
    normed = block.ln_1(tokens)
    class_token = tokens[:, 0] + block.ls_1(block.attn.of_first(normed))
    return class_token + block.ls_2(block.mlp(block.ln_2(class_token)))
