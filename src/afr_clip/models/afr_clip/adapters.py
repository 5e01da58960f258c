"""The adapters of the first author's later public code (AD-DINOv3), as another reading of Eqs. (1)-(2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

STANDARDISING_FLOOR = 1e-6
"""Added to the standard deviation of a channel, which is 0 if all patches are alike."""


class SplitAdapter(nn.Module):
    """Adapt the first of several embeddings with one layer and the others with another.

    Separates the class token from the patches of a tap, and the normal from the abnormal text embedding.
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.first = leaky_layer(in_dim, dim)
        self.others = leaky_layer(in_dim, dim)

    def forward(self, embeddings: Float[Tensor, "batch rows in_dim"]) -> Float[Tensor, "batch rows dim"]:
        """Adapt embeddings of images or of categories."""
        return torch.cat([self.first(embeddings[:, :1]), self.others(embeddings[:, 1:])], dim=1)


def leaky_layer(in_dim: int, dim: int) -> nn.Module:
    """Make a linear layer without bias in front of a LeakyReLU with a slope of 0.01."""
    return nn.Sequential(nn.Linear(in_dim, dim, bias=False), nn.LeakyReLU(0.01))


def standardised(patch_tokens: Float[Tensor, "batch patches dim"]) -> Float[Tensor, "batch patches dim"]:
    """Give every channel a mean of 0 and a standard deviation of 1 over the patches of an image.

    Example:
        >>> standardised(torch.tensor([[[1.0], [3.0]]])).flatten()
        tensor([-0.7071,  0.7071])
    """
    centred = patch_tokens - patch_tokens.mean(dim=1, keepdim=True)
    return centred / (patch_tokens.std(dim=1, keepdim=True) + STANDARDISING_FLOOR)
