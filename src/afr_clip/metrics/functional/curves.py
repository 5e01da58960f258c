"""AUROC, average precision and maximum F1 of counts.

All three take the number of negatives and of positives at each score (or bin of scores), lowest score first, and return
a value in [0, 1]. With only one class there is nothing to rank, and the result is NaN.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor


def auroc(negatives: Int64[Tensor, " bins"], positives: Int64[Tensor, " bins"]) -> Float64[Tensor, ""]:
    r"""Estimate the chance that a positive outranks a negative; ties count half.

    .. math:: \mathrm{AUROC} = \frac{\sum_b n_b \, (2 \sum_{c > b} p_c + p_b)}{2 \, N P}

    Example:
        >>> auroc(torch.tensor([2, 1, 0]), torch.tensor([0, 1, 2]))  # 8 of 9 pairs in order, one tied
        tensor(0.9444, dtype=torch.float64)
    """
    if not _both_present(negatives, positives):
        return _undefined(negatives)
    above = _from_above(positives) - positives
    # The integers are exact in float64 up to 2 ** 53, so that a perfect ranking is exactly 1.
    wins = (negatives.double() * (2 * above + positives)).sum()
    return wins / (2 * negatives.sum().double() * positives.sum())


def average_precision(negatives: Int64[Tensor, " bins"], positives: Int64[Tensor, " bins"]) -> Float64[Tensor, ""]:
    r"""Average the precision over the recall gained at each threshold, without interpolation.

    .. math:: \mathrm{AP} = \sum_b \frac{p_b}{P} \cdot \frac{\sum_{c \ge b} p_c}{\sum_{c \ge b} (n_c + p_c)}

    Example:
        >>> average_precision(torch.tensor([1, 1, 0]), torch.tensor([0, 1, 1]))  # (1 / 1 + 2 / 3) / 2
        tensor(0.8333, dtype=torch.float64)
    """
    if not _both_present(negatives, positives):
        return _undefined(negatives)
    true_positives = _from_above(positives)
    predicted = true_positives + _from_above(negatives)
    precision = true_positives / predicted.clamp(min=1).double()  # empty bins above all scores gain no recall
    return (positives * precision).sum() / positives.sum()


def f1_max(negatives: Int64[Tensor, " bins"], positives: Int64[Tensor, " bins"]) -> Float64[Tensor, ""]:
    r"""Find the best F1 over all thresholds.

    .. math:: \mathrm{F1max} = \max_b \frac{2 \sum_{c \ge b} p_c}{P + \sum_{c \ge b} (n_c + p_c)}

    Example:
        >>> f1_max(torch.tensor([1, 1, 0]), torch.tensor([0, 1, 1]))  # two hits among three, none missed
        tensor(0.8000, dtype=torch.float64)
    """
    return best_f1(negatives, positives)[0]


def best_f1(
    negatives: Int64[Tensor, " bins"], positives: Int64[Tensor, " bins"]
) -> tuple[Float64[Tensor, ""], int | None]:
    """Find the best F1 and the bin at which it is reached, the highest of several; no bin if F1 is undefined.

    Example:
        >>> best_f1(torch.tensor([1, 1, 0]), torch.tensor([0, 1, 1]))
        (tensor(0.8000, dtype=torch.float64), 1)
    """
    if not _both_present(negatives, positives):
        return _undefined(negatives), None
    true_positives = _from_above(positives)
    predicted = true_positives + _from_above(negatives)
    f1 = 2 * true_positives / (predicted + positives.sum()).double()
    best = f1.max()
    return best, int((f1 == best).nonzero()[-1])


def _from_above(counts: Int64[Tensor, " bins"]) -> Int64[Tensor, " bins"]:
    """Count the samples that score at least as high as each bin."""
    return counts.flip(0).cumsum(0).flip(0)


def _both_present(negatives: Int64[Tensor, " bins"], positives: Int64[Tensor, " bins"]) -> bool:
    return bool(negatives.any() and positives.any())


def _undefined(like: Int64[Tensor, " bins"]) -> Float64[Tensor, ""]:
    return torch.tensor(float("nan"), dtype=torch.float64, device=like.device)
