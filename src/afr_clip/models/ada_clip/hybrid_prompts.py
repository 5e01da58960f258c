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

    Static prompts learn what anomalies have in common everywhere, dynamic ones adapt to the image at hand. The dynamic
    prompt is the same in front of every block.

    .. math:: P_i = P^S_i + P^D, \quad P^D = \mathrm{Concat}([\mathrm{Linear}_k(F)]_{k=1}^{K}), \quad i = 1, \dots, J

    Note:
        The ``K`` linear layers are held as one layer of ``K`` times the width, and the static prompts of all blocks as
        one tensor; the functions are the same. The text tower never uses the static prompt of its first block, which
        still counts among AdaCLIP's parameters.

    Args:
        embed_dim: Width of the image embedding ``F``.
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
        """Make the prompts of each image from CLIP's own embedding of it, not normalised."""
        _, length, width = self.static.shape
        return self.dynamic(image_embedding).unflatten(-1, (1, length, width)) + self.static


def behind_patches(prompts: Float[Tensor, "batch depth length width"], num_tokens: int) -> BeforeBlock:
    """Put prompts behind the patches of the image tower.

    They are appended in front of block 1, without position embeddings, and replaced in front of blocks 2 to ``J``;
    later blocks see the last ones. No patch is lost.

    Args:
        num_tokens: How many tokens are the image's own.
    """

    def before_block(number: int, tokens: Tensor) -> Tensor:
        if number > prompts.shape[1]:
            return tokens
        return torch.cat([tokens[:, :num_tokens], prompts[:, number - 1].to(tokens.dtype)], dim=1)

    return before_block


def over_first_words(prompts: Float[Tensor, "sentences depth length width"], start: int = 1) -> BeforeBlock:
    """Overwrite the first ``K`` words of each sentence, from position ``start``, in front of blocks 2 to ``J``."""
    _, depth, length, _ = prompts.shape

    def before_block(number: int, tokens: Tensor) -> Tensor:
        if not FIRST_OVERWRITTEN_BLOCK <= number <= depth:
            return tokens
        overwritten = prompts[:, number - 1].to(tokens.dtype)
        return torch.cat([tokens[:, :start], overwritten, tokens[:, start + length :]], dim=1)

    return before_block
