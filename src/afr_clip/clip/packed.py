"""Frozen linear layers that multiply with oneDNN over packed weights, for CPUs that are faster with it.

PyTorch multiplies float32 matrices with Intel's MKL. oneDNN is twice as fast on AMD CPUs with AVX-512. In bfloat16
PyTorch uses oneDNN itself, but casts and reorders the weight in every call. No public function of PyTorch packs a
weight once and supports gradients. This module calls two internal operators of its compiler, which `is_usable` checks
first.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGEST_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Largest allowed difference between the two libraries, for results around 1, in each type that is packed."""

MARGIN = {torch.float32: 1.2, torch.bfloat16: 1.1}
"""Packed weights must be at least this many times as fast; less may be noise."""

NARROWEST = 512
"""Towers narrower than this are not timed: they have little to multiply."""

REPETITIONS = 3


def becomes_a_graph() -> bool:
    """Whether the network is being exported or traced: batches may have any size, and no branch can look at data."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


class PackedLinear(nn.Module):
    """A frozen linear layer that multiplies with oneDNN on a CPU, in float32 and under autocast in bfloat16.

    Other devices and types use ``F.linear``. The parameters are shared and keep their names. Packed weights are made on
    first use, need the weight's memory again (in bfloat16 half of it; twice where a gradient flows through the layer),
    and are left out of copies.

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
        self._packed: dict[tuple[torch.dtype, bool], tuple[tuple[int, int], Tensor]] = {}

    def forward(self, x: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        """Apply the layer."""
        own = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        is_other = x.device.type != "cpu" or self.weight.dtype is not torch.float32 or own not in LARGEST_DIFFERENCE
        if is_other or becomes_a_graph():  # what runs a graph packs weights itself
            return F.linear(x, self.weight, self.bias)
        x = x.to(own)
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
        known, packed = self._packed.get((x.dtype, backwards), (None, None))
        if packed is None or known != state:
            weight = self.weight.detach().to(x.dtype)
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous() if backwards else weight)
            self._packed[x.dtype, backwards] = state, packed
        bias = None if backwards or self.bias is None else self.bias.to(x.dtype)
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
def is_usable(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this version of PyTorch has the operators, and they give what PyTorch itself does, gradients included."""
    generator, limit = torch.Generator().manual_seed(0), LARGEST_DIFFERENCE[dtype]
    try:
        with torch.inference_mode(mode=False), torch.enable_grad(), torch.device("cpu"), _cast(dtype):
            weight, bias = torch.randn(160, 96, generator=generator), torch.randn(160, generator=generator)
            tokens = torch.randn(2, 7, 96, generator=generator, requires_grad=True)
            direction = torch.randn(2, 7, 160, generator=generator)
            pairs = [
                (output, torch.autograd.grad((output * direction).sum(), tokens)[0])
                for output in (F.linear(tokens, weight, bias), PackedLinear(weight, bias)(tokens))
            ]
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(own, other, rtol=limit / 5, atol=limit) for own, other in zip(*pairs, strict=True))


@cache
def speedup(num_tokens: int, width: int, dtype: torch.dtype) -> float:
    """Time the widest linear layer of a block as PyTorch does it and packed, in turn; the fastest run of each counts.

    Args:
        dtype: float32, or bfloat16 under autocast.

    Returns:
        How many times as fast packed weights are; 0 where they cannot be used.
    """
    if not is_usable(dtype):
        return 0.0
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(), torch.device("cpu"), _cast(dtype):
        tokens = torch.randn(1, num_tokens, width, generator=generator)
        weight, bias = torch.randn(4 * width, width, generator=generator), torch.zeros(4 * width)
        packed = PackedLinear(weight, bias)
        both: tuple[Callable[[], Tensor], ...] = (lambda: F.linear(tokens, weight, bias), lambda: packed(tokens))
        rounds = [[_seconds(multiply) for multiply in both] for _ in range(1 + REPETITIONS)]
    default, onednn = (min(column) for column in zip(*rounds[1:], strict=True))  # the first round warms up
    return default / onednn


def _cast(dtype: torch.dtype) -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)


def _seconds(multiply: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    multiply()
    return time.perf_counter() - started
