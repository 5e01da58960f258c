"""What AdaptCLIP trains on top of frozen tokens: a residual MLP, and the comparison with a reference image."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.models.adapt_clip.settings import ComparisonSettings
from afr_clip.models.scoring import anomaly_probability

STRONGEST = 10
"""Places whose mean stands for the image's strongest responses, next to the mean over all places."""


class BatchNorm(nn.Module):
    """Batch normalisation that changes its running statistics in training steps only.

    Otherwise equal to PyTorch's. A pass without a gradient, which looks at what a step did, leaves them as they are; so
    does a single value per channel, which has no variance and is normalised by the running statistics.

    Args:
        dim: Channels, the second axis.
    """

    MOMENTUM, EPSILON = 0.1, 1e-5
    """PyTorch's own."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, values: Float[Tensor, "batch dim *places"]) -> Float[Tensor, "batch dim *places"]:
        """Normalise each channel over the batch and all places."""
        by_batch = self.training and values.numel() > values.shape[1]
        mean, variance = (None, None) if by_batch and not torch.is_grad_enabled() else (self.mean, self.variance)
        return F.batch_norm(values, mean, variance, self.weight, self.bias, by_batch, self.MOMENTUM, self.EPSILON)


class ResidualMLP(nn.Module):
    """Add to each token what a narrow layer makes of it.

    Args:
        dim: Width of the tokens.
        reduction: How many times narrower the layer is.
    """

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        width = max(1, dim // reduction)
        self.narrow, self.wide = nn.Linear(dim, width, bias=False), nn.Linear(width, dim, bias=False)
        self.norm = BatchNorm(width)

    def forward(self, tokens: Float[Tensor, "batch places dim"]) -> Float[Tensor, "batch places dim"]:
        """Adapt each token; in training, statistics are over the places of all images."""
        hidden = self.norm(self.narrow(tokens).flatten(0, 1)).relu()
        return tokens + self.wide(hidden).unflatten(0, tokens.shape[:2])


class Compared(NamedTuple):
    """Anomaly probabilities from the comparison with a reference, tap by tap."""

    maps: Float[Tensor, "batch layers fine_height fine_width"]
    scores: Float[Tensor, "batch layers"]


class PromptQueryAdapter(nn.Module):
    r"""Tell an anomaly from the difference between an image's patches and the most similar ones of a normal image.

    .. math::
        z_l = \mathrm{BN}_l\bigl(q_l + \lvert q_l - p_l \rvert\bigr), \quad
        M_l = \mathrm{softmax}(\mathrm{Conv}(z_l))_a, \quad
        s_l = \mathrm{softmax}\Bigl(\mathrm{MLP}\bigl(\tfrac{1}{2}(\mathrm{mean}\,z_l + \mathrm{top}_{10}\,z_l)\bigr)
        \Bigr)_a \qquad \text{AdaptCLIP, arXiv:2505.09926}

    The convolutions enlarge the grid four times. They and the MLP are the same for all taps, each of which has a batch
    norm of its own.

    Args:
        dim: Width of the patches.
        num_taps: How many taps are compared.
    """

    def __init__(self, dim: int, settings: ComparisonSettings, num_taps: int) -> None:
        super().__init__()
        width, half = settings.width, settings.width // 2
        self.norms = nn.ModuleList(BatchNorm(dim) for _ in range(num_taps))
        self.local = nn.Sequential(
            nn.Conv2d(dim, width, 3, padding=1, bias=False),
            BatchNorm(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.Conv2d(width, half, 3, padding=1, bias=False),
            BatchNorm(half),
            nn.ReLU(),
            nn.ConvTranspose2d(half, half, 2, stride=2),
            nn.Conv2d(half, 2, 1),
        )
        self.whole = nn.Sequential(
            nn.Linear(dim, width, bias=False),
            BatchNorm(width),
            nn.ReLU(),
            nn.Linear(width, half, bias=False),
            BatchNorm(half),
            nn.ReLU(),
            nn.Linear(half, 2, bias=False),
        )
        self._keeps_context = settings.keeps_context

    def forward(
        self,
        patches: Sequence[Float[Tensor, "batch patches dim"]],
        nearest: Sequence[Float[Tensor, "batch patches dim"]],
        grid_size: tuple[int, int],
    ) -> Compared:
        """Compare the unit patches of every tap with the unit patches of references that are most like them."""
        maps, scores = [], []
        for norm, query, reference in zip(self.norms, patches, nearest, strict=True):
            difference = (query - reference).abs()
            fused = norm((query + difference if self._keeps_context else difference).transpose(1, 2))  # (B, D, N)
            maps.append(anomaly_probability(self.local(fused.unflatten(2, grid_size)).movedim(1, -1)))
            strongest = fused.topk(min(STRONGEST, fused.shape[2]), dim=2).values
            scores.append(anomaly_probability(self.whole((fused.mean(dim=2) + strongest.mean(dim=2)) / 2)))
        return Compared(torch.stack(maps, dim=1), torch.stack(scores, dim=1))
