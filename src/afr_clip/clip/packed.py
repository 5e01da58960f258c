"""Frozen linear layers that multiply with oneDNN over packed weights, for CPUs that are faster with it.

PyTorch multiplies float32 matrices with Intel's MKL, which leaves half of the arithmetic units of some AMD CPUs idle.
oneDNN uses them. PyTorch offers no public way to it that keeps gradients and packs a weight once, so two operators of
its compiler are called, which `is_usable` tries out before anything relies on them.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

LARGEST_DIFFERENCE = 1e-4
"""Between what the two libraries make of numbers around 1."""

MARGIN = 1.4
"""How many times as fast oneDNN must be. Where it helps it is twice as fast; less may be noise."""

NARROWEST = 512
"""Width of a tower below which neither is measured: there is little to multiply."""

REPETITIONS = 3


class Libraries(NamedTuple):
    """What was measured before one was chosen.

    Attributes:
        default: Seconds of a block's widest layer with what PyTorch calls by itself.
        onednn: The same with packed weights; infinite where they cannot be used.
    """

    default: float
    onednn: float

    @property
    def is_onednn_faster(self) -> bool:
        """Whether it is by more than `MARGIN`."""
        return self.onednn * MARGIN < self.default


class PackedLinear(nn.Module):
    """A frozen linear layer that multiplies float32 on a CPU with oneDNN, and everything else as PyTorch does.

    The parameters are adopted, not copied, under their old names. Packed weights take their memory again, and once more
    where a gradient flows through the layer. They are made on first use and left out of copies.

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
        self._packed: dict[bool, tuple[int, Tensor]] = {}

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
        version = 0 if self.weight.is_inference() else self.weight._version  # an inference tensor counts no changes
        known, packed = self._packed.get(backwards, (-1, None))
        if packed is None or known != version:
            weight = self.weight.detach()
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous() if backwards else weight)
            self._packed[backwards] = version, packed
        bias = None if backwards else self.bias
        return cast("Tensor", torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, "none", [], ""))


class _Multiplied(torch.autograd.Function):
    """The layer's product, whose gradient with respect to the tokens is another one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear) -> Tensor:  # noqa: ANN401 - as PyTorch declares it
        ctx.layer = layer
        return layer.multiplied(x, backwards=False)

    @staticmethod
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
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):
        return False
    return all(torch.allclose(own, other, atol=LARGEST_DIFFERENCE) for own, other in zip(*pairs, strict=True))


@cache
def measure(num_tokens: int, width: int) -> Libraries:
    """Time the layer that widens an image's tokens in a block, with either library in turn, at best of some runs."""
    if not is_usable():
        return Libraries(0.0, float("inf"))
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(), torch.device("cpu"):
        tokens = torch.randn(1, num_tokens, width, generator=generator)
        weight, bias = torch.randn(4 * width, width, generator=generator), torch.zeros(4 * width)
        packed = PackedLinear(weight, bias)
        both: tuple[Callable[[], Tensor], ...] = (lambda: F.linear(tokens, weight, bias), lambda: packed(tokens))
        rounds = [[_seconds(multiply) for multiply in both] for _ in range(1 + REPETITIONS)]
    return Libraries(*(min(column) for column in zip(*rounds[1:], strict=True)))  # the first round warms up


def _seconds(multiply: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    multiply()
    return time.perf_counter() - started
