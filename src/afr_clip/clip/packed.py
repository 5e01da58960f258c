"""Frozen linear layers that multiply with oneDNN over packed weights, for CPUs that are faster with it.

PyTorch multiplies float32 matrices with Intel's MKL. oneDNN was reported to be 2.2 times as fast on AMD CPUs with
AVX-512. No public function of PyTorch packs a weight once and supports gradients. This module calls two internal
operators of its compiler, which `is_usable` checks first.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGEST_DIFFERENCE = 1e-4
"""Largest allowed difference between the two libraries, for results around 1."""

MARGIN = 1.4
"""oneDNN must be at least this many times as fast; less may be noise."""

NARROWEST = 512
"""Towers narrower than this are not timed: they have little to multiply."""

REPETITIONS = 3


class PackedLinear(nn.Module):
    """A frozen linear layer that multiplies float32 on a CPU with oneDNN, and everything else as PyTorch does.

    The parameters are shared and keep their names. Packed weights are made on first use, need the weight's memory a
    second time (a third time where a gradient flows through the layer), and are left out of copies.

    Raises:
        ValueError: If the weight or the bias is trained.

    Example:
        >>> import torch
        >>> linear, tokens = nn.Linear(8, 4).requires_grad_(False), torch.randn(2, 5, 8, requires_grad=True)
        >>> packed = PackedLinear(linear.weight, linear.bias)(tokens)
        >>> packed.allclose(linear(tokens), atol=1e-6)
        True
        >>> torch.autograd.grad(packed.sum(), tokens)[0].shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        if weight.requires_grad or (bias is not None and bias.requires_grad):
            msg = "Only frozen layers can be packed, got one that takes a gradient. Pack the towers, not the adapters."
            raise ValueError(msg)
        self.out_features, self.in_features = weight.shape
        self.weight, self.bias = weight, bias
        self._packed: dict[bool, tuple[tuple[int, int], Tensor]] = {}

    def forward(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        """Apply the layer."""
        if x.dtype is not torch.float32 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return F.linear(x, self.weight, self.bias)
        if torch.is_grad_enabled() and x.requires_grad:
            return cast("Tensor", _Multiplied.apply(x, self))
        return self.multiplied(x, backwards=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave packed weights, which cannot be copied, out of a copy."""
        return {**self.__dict__, "_packed": {}}

    def multiplied(self, x: Float[Tensor, "*rows channels"], *, backwards: bool) -> Float[Tensor, "*rows others"]:
        """Multiply with the weight and add the bias; backwards, multiply with the transposed weight alone."""
        # An inference tensor counts no changes, and `weight.data = ...` is none.
        state = self.weight.data_ptr(), 0 if self.weight.is_inference() else self.weight._version
        known, packed = self._packed.get(backwards, (None, None))
        if packed is None or known != state:
            weight = self.weight.detach()
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous() if backwards else weight)
            self._packed[backwards] = state, packed
        bias = None if backwards else self.bias
        return cast("Tensor", torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, "none", [], ""))


class _Multiplied(torch.autograd.Function):
    """The layer's product; its gradient is a product with the transposed weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear) -> Tensor:  # noqa: ANN401 - as PyTorch declares it
        ctx.layer = layer
        return layer.multiplied(x, backwards=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return ctx.layer.multiplied(gradients[0], backwards=True), None


@cache
def is_usable() -> bool:
    """Whether this version of PyTorch has the operators, and they give what PyTorch itself does, gradients included."""
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode(mode=False), torch.enable_grad(), torch.device("cpu"):
            weight, bias = torch.randn(160, 96, generator=generator), torch.randn(160, generator=generator)
            tokens = torch.randn(2, 7, 96, generator=generator, requires_grad=True)
            direction = torch.randn(2, 7, 160, generator=generator)
            pairs = [
                (output, torch.autograd.grad((output * direction).sum(), tokens)[0])
                for output in (F.linear(tokens, weight, bias), PackedLinear(weight, bias)(tokens))
            ]
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(own, other, atol=LARGEST_DIFFERENCE) for own, other in zip(*pairs, strict=True))


@cache
def speedup(num_tokens: int, width: int) -> float:
    """Time the widest linear layer of a block with each library in turn; the fastest run of each counts.

    Returns:
        How many times as fast oneDNN is; 0 where it cannot be used.
    """
    if not is_usable():
        return 0.0
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(), torch.device("cpu"):
        tokens = torch.randn(1, num_tokens, width, generator=generator)
        weight, bias = torch.randn(4 * width, width, generator=generator), torch.zeros(4 * width)
        packed = PackedLinear(weight, bias)
        both: tuple[Callable[[], Tensor], ...] = (lambda: F.linear(tokens, weight, bias), lambda: packed(tokens))
        rounds = [[_seconds(multiply) for multiply in both] for _ in range(1 + REPETITIONS)]
    default, onednn = (min(column) for column in zip(*rounds[1:], strict=True))  # the first round warms up
    return default / onednn


def _seconds(multiply: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    multiply()
    return time.perf_counter() - started
