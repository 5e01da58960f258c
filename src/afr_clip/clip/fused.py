"""Faster forms of the parts of open_clip's blocks: the same functions of the same weights."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from afr_clip.clip.packed import PackedLinear

QUICK_GELU_SLOPE = 1.702
"""Slope of the sigmoid that stands in for the normal distribution (Hendrycks and Gimpel, arXiv:1606.08415)."""


class FusedAttention(nn.Module):
    """Self-attention with the weights of an ``nn.MultiheadAttention``, computed by ``scaled_dot_product_attention``.

    In eval mode ``nn.MultiheadAttention`` takes a path of its own that is slower than the fused kernel at CLIP's token
    counts. The parameters are adopted, not copied, under their old names.

    Args:
        attention: The module to replace; batch first, with one input projection for query, key and value.

    Raises:
        ValueError: If ``attention`` is not batch first or has separate projections.

    Example:
        >>> import torch
        >>> attention = nn.MultiheadAttention(8, num_heads=2, batch_first=True).eval()
        >>> tokens = torch.randn(1, 5, 8)
        >>> with torch.no_grad():
        ...     fused, _ = FusedAttention(attention)(tokens, tokens, tokens)
        ...     fused.allclose(attention(tokens, tokens, tokens, need_weights=False)[0], atol=1e-6)
        True
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        if not attention.batch_first or attention.in_proj_weight is None:
            msg = (
                "attention must be batch first with one input projection, as in open_clip's standard blocks; "
                "got another kind. Choose an architecture with standard blocks."
            )
            raise ValueError(msg)
        self.num_heads = attention.num_heads
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = attention.out_proj
        self._in_proj: list[PackedLinear] = []

    def forward(
        self,
        query: Float[Tensor, "batch tokens dim"],
        key: Float[Tensor, "batch tokens dim"],
        value: Float[Tensor, "batch tokens dim"],
        *,
        need_weights: bool = False,
        attn_mask: Float[Tensor, "tokens tokens"] | Float[Tensor, "batch_heads tokens tokens"] | None = None,
    ) -> tuple[Float[Tensor, "batch tokens dim"], None]:
        """Attend; the signature is the one that open_clip's blocks call, and ``None`` stands for the weights.

        Args:
            query: The tokens; ``key`` and ``value`` must be the same tensor.
            key: See ``query``.
            value: See ``query``.
            need_weights: Must be ``False``: the fused kernel returns no weights.
            attn_mask: Added to the attention logits, for example the causal mask of the text tower.

        Raises:
            ValueError: If asked for cross-attention or for weights.
        """
        if need_weights or key is not query or value is not query:
            msg = (
                "FusedAttention computes self-attention only and returns no weights, got a call that asks for more. "
                "Use nn.MultiheadAttention for that."
            )
            raise ValueError(msg)
        if self._in_proj:
            projected = self._in_proj[0](query)
        else:
            projected = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        q, k, v = self._heads(projected)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self._joined(attended), None

    def pack(self) -> None:
        """Let oneDNN multiply the input projection; see `PackedLinear`."""
        # In a list, so that `state_dict` does not name the parameters twice.
        self._in_proj = [PackedLinear(self.in_proj_weight, self.in_proj_bias)]

    def by_value(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        r"""Attend by how alike the values are, with the same weights and the same output projection.

        Each token attends most to itself and to tokens of the same content. The input is normalised by the block.

        .. math:: \mathrm{softmax}(V V^T / \sqrt{d})\, V \qquad \text{AnomalyCLIP, arXiv:2310.18961}
        """
        dim = tokens.shape[-1]
        (v,) = self._heads(F.linear(tokens, self.in_proj_weight[2 * dim :], self.in_proj_bias[2 * dim :]))
        return self._joined(F.scaled_dot_product_attention(v, v, v))

    def of_first(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch dim"]:
        """Compute only the first of the attended tokens; the input is normalised by the block."""
        dim = tokens.shape[-1]
        (q,) = self._heads(F.linear(tokens[:, :1], self.in_proj_weight[:dim], self.in_proj_bias[:dim]))
        k, v = self._heads(F.linear(tokens, self.in_proj_weight[dim:], self.in_proj_bias[dim:]))
        return self._joined(F.scaled_dot_product_attention(q, k, v))[:, 0]

    def _heads(self, projected: Float[Tensor, "batch tokens dims"]) -> Float[Tensor, "parts batch heads tokens dim"]:
        """Split projections that lie side by side into parts and heads."""
        head_dim = self.out_proj.in_features // self.num_heads
        return projected.unflatten(-1, (-1, self.num_heads, head_dim)).permute(2, 0, 3, 1, 4)

    def _joined(self, attended: Float[Tensor, "batch heads tokens head_dim"]) -> Float[Tensor, "batch tokens dim"]:
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class LeanQuickGELU(nn.Module):
    r"""QuickGELU, ``x * sigmoid(1.702 x)``, with one temporary instead of three.

    At 1370 tokens of width 4096 a temporary is 22 MB, and allocating it costs more than the arithmetic. Where a
    gradient is needed the ordinary form is used.

    Example:
        >>> import torch
        >>> LeanQuickGELU()(torch.tensor([0.0, 1.0]))
        tensor([0.0000, 0.8458])
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Apply the activation; ``x`` itself does not change."""
        if torch.is_grad_enabled() and x.requires_grad:
            return x * torch.sigmoid(QUICK_GELU_SLOPE * x)
        return (QUICK_GELU_SLOPE * x).sigmoid_().mul_(x)


def fuse(tower: nn.Module) -> int:
    """Replace attention and QuickGELU below a module, in place; returns how many modules were replaced."""
    found = [
        (parent, name, child)
        for parent in tower.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.MultiheadAttention | QuickGELU)
    ]
    for parent, name, child in found:
        setattr(parent, name, FusedAttention(child) if isinstance(child, nn.MultiheadAttention) else LeanQuickGELU())
    return len(found)


def pack(tower: nn.Module) -> int:
    """Let oneDNN multiply in all linear layers below a fused and frozen module, in place; returns how many."""
    found = [
        (parent, name, child)
        for parent in tower.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
    for parent, name, child in found:
        setattr(parent, name, PackedLinear(child.weight, child.bias))
    attentions = [module for module in tower.modules() if isinstance(module, FusedAttention)]
    for attention in attentions:
        attention.pack()
    return len(found) + len(attentions)
