"""From scores to counts: a fixed order-preserving binning for pixels, exact counts for images."""

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

NUM_BINS = 65_536
"""Bins per curve; one per code of a 16-bit anomaly map."""

LAST_BIN = NUM_BINS - 1

LINEAR_FROM, LINEAR_TO = 0.1, 0.9
"""Between these scores a bin is a 16-bit code; outside, bins follow the logarithm of the distance to the end."""

TAIL_SHIFT = 15
"""Bits dropped from a float32 pattern. The exponent and 8 bits of mantissa stay: 256 bins per factor of two."""

TAIL_JOIN = 31_641
"""The shifted pattern of float32 0.1, which 1 - 0.9 shares: where both tails meet the linear part."""

LOW_TAIL_LAST = 6_553
"""Last bin of the low tail; 0.1 has code 6,554."""

HIGH_TAIL_FIRST = 58_983
"""First bin of the high tail; 0.9 has code 58,982."""


def check_probabilities(name: str, score: Float[Tensor, "*shape"]) -> None:
    """Raise a ``ValueError`` that names the scores if one is NaN or lies outside [0, 1].

    Curves need one common scale: a score outside [0, 1] has no bin, and NaN has no rank.
    """
    if score.numel() == 0:
        return
    low, high = (bound.item() for bound in torch.aminmax(score))  # either bound is NaN if any score is
    if not (low >= 0 and high <= 1):
        msg = (
            f"{name} must hold probabilities in [0, 1], got values from {low} to {high}. "
            "Apply a sigmoid or softmax to logits, and look for NaN in the model's output."
        )
        raise ValueError(msg)


def score_code(score: Float32[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Return the 16-bit code under which a probability is saved, ``round(score * 65535)``.

    The product is rounded in float32, half to even, as NumPy does for a float32 map.

    Example:
        >>> score_code(torch.tensor([0.0, 0.25, 1.0]))
        tensor([    0, 16384, 65535])
    """
    return (score * LAST_BIN).round().long()


def bin_index(score: Float32[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Map probabilities, which are not checked here, onto 0..65535; a larger score never has a smaller bin.

    From 0.1 to 0.9 the bin is the 16-bit code, so metrics of a map and of its saved copy agree exactly. A softmax with
    a low temperature piles scores up at the ends, where codes would tie them; there the same number of bins follows the
    logarithm of the distance to the end, down to about 2e-9. Scores nearer the end than that share its last bin.

    The logarithm is read off the float32 bit pattern, not computed: the same bin on every device and in every batch.

    Example:
        >>> bin_index(torch.tensor([0.0, 1e-6, 2e-6, 0.5, 1.0]))
        tensor([    0,  2316,  2572, 32768, 65535])
    """
    linear = (score * LAST_BIN).round().int()
    to_end = torch.minimum(score, 1 - score)  # exact: float32 loses nothing in 1 - score above one half
    below_join = (to_end.view(torch.int32) >> TAIL_SHIFT) - TAIL_JOIN  # 0 at the joins, falling towards the ends
    low = (below_join + LOW_TAIL_LAST).clamp_(min=0)
    high = LAST_BIN - (below_join + (LAST_BIN - HIGH_TAIL_FIRST)).clamp_(min=0)
    upper = torch.where(score > LINEAR_TO, high, linear)
    return torch.where(score < LINEAR_FROM, low, upper).long()


def counts_by_score(
    score: Float[Tensor, " samples"], is_positive: Bool[Tensor, " samples"]
) -> tuple[Int64[Tensor, " distinct"], Int64[Tensor, " distinct"]]:
    """Count negatives and positives at each distinct score, lowest score first; for small samples such as images.

    Raises:
        ValueError: If a score is NaN or lies outside [0, 1].

    Example:
        >>> counts_by_score(torch.tensor([0.7, 0.2, 0.7]), torch.tensor([True, False, False]))
        (tensor([1, 1]), tensor([0, 1]))
    """
    check_probabilities("score", score)
    distinct, rank = score.unique(sorted=True, return_inverse=True)
    total = torch.bincount(rank, minlength=len(distinct))
    positives = torch.bincount(rank[is_positive], minlength=len(distinct))
    return total - positives, positives
