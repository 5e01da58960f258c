"""Anomaly maps on which PRO is easy to get wrong, the same on every machine up to the last bits of ``exp``."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from helpers.repeatable import uniform


def pro_cases() -> dict[str, tuple[Tensor, Tensor]]:
    """Draw float32 maps and masks ``(4, 32, 32)``, under the name of what makes them hard."""
    drawn = iter(uniform(f"pro.{number}", (12, 4, 32, 32), 0, 1).double().numpy().sum(0) - 6 for number in range(100))
    # Unequal regions: two in one image, two that touch at a corner, one in a stripe, none in the last image.
    some = _masks((0, 2, 2, 10, 15), (0, 20, 20, 2, 3), (1, 5, 5, 4, 4), (1, 9, 9, 4, 4), (2, 24, 1, 6, 2))
    every = _masks((0, 0, 0, 30, 31), (1, 3, 3, 2, 2), (2, 10, 15, 8, 4), (3, 30, 0, 2, 32))
    maps = {
        "ordinary": _sigmoid(next(drawn) + 1.5 * some),
        "heavy_tail": 0.02 * np.exp(1.2 * (next(drawn) + some)),
        "saturated": _sigmoid(8 * next(drawn) - 20 + 22 * some),
        "ties": np.floor(16 * _sigmoid(next(drawn) + some)) / 16,
        "nearly_constant": 0.3 + 2e-6 * (next(drawn) + 2 * some),
        "no_normal_image": _sigmoid(next(drawn) + every),
        "sum_of_four": sum(_sigmoid(3 * next(drawn) + 2 * some - 3) for _ in range(4)),
    }
    return {
        name: (
            torch.from_numpy(np.asarray(values, np.float32)),
            torch.from_numpy((every if name == "no_normal_image" else some).copy()),
        )
        for name, values in maps.items()
    }


def _masks(*blocks: tuple[int, int, int, int, int]) -> NDArray[np.bool_]:
    marked = np.zeros((4, 32, 32), bool)
    for image, y, x, height, width in blocks:
        marked[image, y : y + height, x : x + width] = True
    return marked


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-values))
