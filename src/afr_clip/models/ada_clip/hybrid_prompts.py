"""Hybrid prompts: tokens learned for all images, and tokens made of the image itself."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.clip.backbone import BeforeBlock

STATIC_PROMPT_STD = 0.02
"""Standard deviation that the static prompts start from."""

FIRST_OVERWRITTEN_BLOCK = 2
"""The text tower's first block sees the sentence as it was written."""


class HybridPrompts(nn.Module):
    r"""Make the prompt tokens of one tower: a static prompt of each block plus a dynamic prompt of the image.

    Static prompts say what holds for anomalies everywhere, dynamic ones adapt to the image at hand. The dynamic prompt
    is made once and is the same in front of every block.

    .. math:: P_i = P^S_i + P^D, \quad P^D = \mathrm{Concat}([\mathrm{Linear}_k(F)]_{k=1}^{K}), \quad i = 1, \dots, J

    Note:
        The ``K`` linear layers are held as one layer of ``K`` times the width, and the static prompts of all blocks as
        one tensor; the functions are the same. The text tower never looks at the static prompt of its first block,
        which is counted among AdaCLIP's parameters all the same.

    Args:
        embed_dim: Width of the image embedding ``F``.
        width: Width of the tower's tokens.
        length: ``K``, prompt tokens per block.
        depth: ``J``, blocks with a prompt.

    Example:
        >>> HybridPrompts(embed_dim=8, width=4, length=5, depth=3)(torch.randn(2, 8)).shape
        torch.Size([2, 3, 5, 4])
    """

    def __init__(self, embed_dim: int, width: int, length: int, depth: int) -> None:
        super().__init__()
        self.static = nn.Parameter(torch.randn(depth, length, width) * STATIC_PROMPT_STD)
        self.dynamic = nn.Linear(embed_dim, length * width)

    def forward(self, image_embedding: Float[Tensor, "batch embed_dim"]) -> Float[Tensor, "batch depth length width"]:
        """Make the prompts of each image.

        Args:
            image_embedding: CLIP's own embedding of the image, not normalised.

        Returns:
            Per image and block, counted from the first, the prompt tokens.
        """
        _, length, width = self.static.shape
        return self.dynamic(image_embedding).unflatten(-1, (1, length, width)) + self.static


def behind_patches(prompts: Float[Tensor, "batch depth length width"], num_tokens: int) -> BeforeBlock:
    """Make the seam of the image tower: prompts stand behind the patches.

    They are appended in front of block 1, without position embeddings, and exchanged in front of blocks 2 to ``J``;
    from then on they flow through. No patch is lost.

    Args:
        prompts: The prompts of each image.
        num_tokens: How many tokens are the image's own (class token and patches).

    Returns:
        What ``CLIPBackbone.tap`` calls in front of every block.
    """

    def before_block(number: int, tokens: Tensor) -> Tensor:
        if number > prompts.shape[1]:
            return tokens
        return torch.cat([tokens[:, :num_tokens], prompts[:, number - 1].to(tokens.dtype)], dim=1)

    return before_block


def over_first_words(prompts: Float[Tensor, "sentences depth length width"]) -> BeforeBlock:
    """Make the seam of the text tower: prompts take the place of the first words.

    Positions 1 to ``K``, behind the start of the text, are overwritten in front of blocks 2 to ``J``.

    Args:
        prompts: The prompts of each sentence.

    Returns:
        What ``TextTower.encode`` calls in front of every block.
    """
    _, depth, length, _ = prompts.shape

    def before_block(number: int, tokens: Tensor) -> Tensor:
        if not FIRST_OVERWRITTEN_BLOCK <= number <= depth:
            return tokens
        return torch.cat([tokens[:, :1], prompts[:, number - 1].to(tokens.dtype), tokens[:, 1 + length :]], dim=1)

    return before_block
