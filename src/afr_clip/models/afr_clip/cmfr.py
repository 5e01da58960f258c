"""Cross-modal feature rectification (CMFR)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from afr_clip.models.afr_clip.mpfa import grid_to_tokens, tokens_to_grid
from afr_clip.models.afr_clip.settings import check_odd


class CrossModalFeatureRectification(nn.Module):
    r"""Write what each patch shows into the stateless text embedding (CMFR).

    CLIP aligns images with *what* an object is, not with *how* it is. The stateless embedding leaves the condition
    open and the image fills it in; the result is still text and is compared with text.

    .. math::
        F_i &= \mathrm{Concat}(F_{v,i}, F_t^s) \qquad \text{Eq. (3), AFR-CLIP} \\
        \tilde{F}_i &= \mathrm{Linear}(\mathrm{Sigmoid}(\mathrm{Conv}(\mathrm{ReLU}(\mathrm{Conv}(F_i)))))
        \qquad \text{Eq. (4)} \\
        M_{v,i}, M_{t,i} &= \mathrm{Split}(\tilde{F}_i) \qquad \text{Eq. (5)} \\
        F_{t,i}^s &= F_t^s + F_{v,i} \odot M_{v,i} \qquad \text{Eqs. (6), (10)}

    Note:
        The paper computes ``M_t`` and never uses it. Here the half of the linear layer that makes it exists only if
        ``symmetric``. Then the text also writes into the image, ``F_{v,i} + F_t^s * M_{t,i}``, and both results are
        averaged. With 1 x 1 convolutions the text's share of Eq. (4) is the same for all patches of an image and is
        computed once.

    Args:
        dim: Width ``D`` of the shared embedding space (768 for ViT-L/14).
        inner_dim: Channels between the two convolutions; ``None`` is ``dim``.
        kernel_size: Side of both convolutions over the patch grid; odd.
        symmetric: Whether the text also writes into the image.

    Raises:
        ValueError: If ``kernel_size`` is even or below 1.

    Example:
        >>> cmfr = CrossModalFeatureRectification(dim=4).eval()
        >>> blank, stateless = torch.zeros(2, 9, 4), torch.randn(2, 4)
        >>> cmfr(blank, stateless).allclose(stateless[:, None].expand(2, 9, 4))  # nothing seen, nothing written
        True
    """

    def __init__(
        self, dim: int, inner_dim: int | None = None, kernel_size: int = 1, *, symmetric: bool = False
    ) -> None:
        super().__init__()
        check_odd("cmfr.kernel_size", kernel_size)
        inner = inner_dim or dim
        self.dim = dim
        self.symmetric = symmetric
        self.reduce = nn.Conv2d(2 * dim, inner, kernel_size, padding=kernel_size // 2)
        self.expand = nn.Conv2d(inner, 2 * dim, kernel_size, padding=kernel_size // 2)
        self.mix = nn.Linear(2 * dim, 2 * dim)
        if not symmetric:
            # Drawn as a whole and then cut, so that a seed gives M_v the same weights with and without symmetric.
            self.mix.out_features = dim
            self.mix.weight = nn.Parameter(without_text_half(self.mix.weight.detach()))
            self.mix.bias = nn.Parameter(without_text_half(self.mix.bias.detach()))

    def forward(
        self,
        patch_tokens: Float[Tensor, "batch patches dim"],
        stateless: Float[Tensor, "batch dim"],
        grid_size: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch patches dim"]:
        """Rectify the stateless embedding of each image, once per patch.

        Args:
            patch_tokens: Adapted tokens in the shared space; a class token alone is a grid of one patch.
            stateless: The stateless text embedding of each image.
            grid_size: ``(h, w)`` of the grid; needed where ``kernel_size`` exceeds 1.

        Raises:
            ValueError: If ``patch_tokens`` or ``stateless`` is not ``dim`` wide, or a needed ``grid_size`` is missing.
        """
        image_weight, text_weight = self.weights(patch_tokens, stateless, grid_size)
        text = stateless[:, None]  # (B, 1, D), the same for every patch
        rectified = text + patch_tokens * image_weight
        return rectified if text_weight is None else (rectified + patch_tokens + text * text_weight) / 2

    def weights(
        self,
        patch_tokens: Float[Tensor, "batch patches dim"],
        stateless: Float[Tensor, "batch dim"],
        grid_size: tuple[int, int] | None = None,
    ) -> tuple[Float[Tensor, "batch patches dim"], Float[Tensor, "batch patches dim"] | None]:
        """Compute ``M_v``, and ``M_t`` if it is used, from the arguments of ``forward``: Eqs. (3)-(5)."""
        mixed = self.mix(self._gates(patch_tokens, stateless, grid_size))
        return mixed[..., : self.dim], mixed[..., self.dim :] if self.symmetric else None

    def _gates(
        self,
        patch_tokens: Float[Tensor, "batch patches dim"],
        stateless: Float[Tensor, "batch dim"],
        grid_size: tuple[int, int] | None,
    ) -> Float[Tensor, "batch patches twice_dim"]:
        if patch_tokens.shape[-1] != self.dim or stateless.shape[-1] != self.dim:
            msg = (
                f"patch_tokens and stateless must be {self.dim} wide, got {patch_tokens.shape[-1]} and "
                f"{stateless.shape[-1]}. Bring both into the shared space first."
            )
            raise ValueError(msg)
        if self.reduce.kernel_size == (1, 1):
            from_image, from_text = self.reduce.weight[:, :, 0, 0].split(self.dim, dim=1)
            text_share = F.linear(stateless, from_text, self.reduce.bias)[:, None]  # (B, 1, inner)
            hidden = F.relu(F.linear(patch_tokens, from_image) + text_share)
            return torch.sigmoid(F.linear(hidden, self.expand.weight[:, :, 0, 0], self.expand.bias))
        if grid_size is None:
            side = self.reduce.kernel_size[0]
            msg = f"grid_size must be given for convolutions over {side} x {side} patches, got None. Pass (h, w)."
            raise ValueError(msg)
        pair = torch.cat([patch_tokens, stateless[:, None].expand_as(patch_tokens)], dim=-1)  # (B, N, 2D)
        hidden = F.relu(self.reduce(tokens_to_grid(pair, grid_size)))
        return grid_to_tokens(torch.sigmoid(self.expand(hidden)))


def without_text_half(mix: Float[Tensor, "twice_dim ..."]) -> Float[Tensor, "dim ..."]:
    """Drop the rows that make ``M_t`` from the weight or bias of CMFR's linear layer; those of ``M_v`` come first.

    Version 0.1 kept both halves in its checkpoints, though only ``symmetric`` reads the second.
    """
    return mix.chunk(2)[0].clone()
