"""Compare the pixel metrics with scikit-learn and a sort-based AUPRO on 42 distributions of float32 probabilities.

    python benchmarks/score_distributions.py --images 16 --size 518

Every distribution is scored on the same masks. Prints the differences of each metric and, at the end, the largest.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from pixel_metrics import Maps, Masks, ours, scikit_learn, sorted_aupro

from afr_clip.metrics.pixel import PixelMetrics

Logits = NDArray[np.float64]
NAMES = ("auroc", "f1_max", "ap", "aupro")

SHARES = (0.03, 1e-3, 1e-6)
"""Shares of anomalous pixels; every distribution is drawn with the first, the plain ones with all."""


def sigmoid(logits: Logits) -> Logits:
    """Logistic function, exact at both ends."""
    return np.where(
        logits > 0, 1 / (1 + np.exp(-np.abs(logits))), np.exp(-np.abs(logits)) / (1 + np.exp(-np.abs(logits)))
    )


def mixed(rng: np.random.Generator, share: float, some: Logits, others: Logits) -> Logits:
    """Take a share of the places from ``some``, and the others from ``others``."""
    return np.where(rng.random(some.shape) < share, some, others)


Draw = Callable[[Logits, np.random.Generator], Logits]

PLAIN: dict[str, Draw] = {
    "logits N(-3, 1)": lambda z, _: sigmoid(z - 3),
    "logits N(0, 1)": lambda z, _: sigmoid(z),
    "uniform, shifted by the truth": lambda z, rng: rng.random(z.shape) * 0.7 + 0.3 * (z > 1.5),
}

DISTRIBUTIONS: dict[str, Draw] = {
    **{
        f"logits N({mean}, 3)": lambda z, _, mean=mean: sigmoid(3 * z + mean)
        for mean in (-18, -22, -26, -30, 12, 17, 30)
    },
    **{f"logits N(0, {width})": lambda z, _, width=width: sigmoid(width * z) for width in (0.01, 10, 30)},
    **{
        f"{centre} + N(0, {w})": lambda z, _, c=centre, w=w: c + w * z
        for centre in (0.12, 0.5, 0.9)
        for w in (1e-3, 1e-5, 1e-7)
    },
    "all saturated": lambda z, _: (z > 1).astype(np.float64),
    "one value": lambda z, _: np.full(z.shape, 0.37),
    "two neighbouring values": lambda z, _: np.where(
        z > 1, np.nextafter(np.float32(0.37), np.float32(1)), np.float32(0.37)
    ),
    "0, 1 - 1e-7 and 1": lambda z, _: np.select([z > 1.5, z > 0.5], [1.0, 1 - 1e-7], 0.0),
    "1 - exp N(-14, 1)": lambda z, _: 1 - np.exp(-z - 14),
    "denormal, exp N(-95, 1)": lambda z, _: np.exp(z - 95),
    "exp N(-40, 20)": lambda z, _: np.exp(np.minimum(20 * z - 40, 0)),
    "8-bit map": lambda z, _: np.round(255 * sigmoid(z)) / 255,
    "16-bit map": lambda z, _: np.round(65535 * sigmoid(z)) / 65535,
    "float16 map": lambda z, _: sigmoid(z).astype(np.float16).astype(np.float64),
    "two decimals": lambda z, _: np.round(sigmoid(z), 2),
    "rectified, half are 0": lambda z, _: np.maximum(z, 0) / 10,
    "40 % exactly 0.3": lambda z, rng: mixed(rng, 0.4, np.full(z.shape, 0.3), sigmoid(z)),
    "50 heavy values among others": lambda z, rng: mixed(rng, 0.4, rng.integers(1, 50, z.shape) / 50, sigmoid(z)),
    "half in 0.4 + 2e-6, half wide": lambda z, rng: mixed(rng, 0.5, 0.4 + 1e-7 * np.round(20 * z), sigmoid(8 * z)),
    "95 % in 0.1193 + 1e-5, rest wide": lambda z, rng: mixed(rng, 0.95, 0.1193 + 2e-6 * np.abs(z), sigmoid(z)),
    "temperature 1, cosines of +-1": lambda z, _: sigmoid(2 * np.tanh(z - 1)),
    "Cauchy": lambda z, rng: sigmoid(z + rng.standard_cauchy(z.shape)),
    "perfect": lambda z, rng: np.where(z > 50, 0.6, 0.2) + 0.1 * rng.random(z.shape),
    "inverted": lambda z, _: sigmoid(-z),
}


def make_masks(num_images: int, size: int, share: float, rng: np.random.Generator) -> Masks:
    """Mark a rectangle in every second image, together about ``share`` of all pixels."""
    masks = np.zeros((num_images, size, size), dtype=np.bool_)
    side = max(1, round(size * np.sqrt(2 * share)))
    for mask in masks[::2]:
        top, left = rng.integers(0, size - side, 2)
        mask[top : top + side, left : left + max(1, round(2 * share * size * size / side))] = True
        if share < 1 / size**2:
            mask[:] = False
            mask[top, left] = rng.random() < 2 * share * size * size
    if not masks.any():
        masks[0, 0, 0] = True
    return masks


def differences(maps: Maps, masks: Masks) -> dict[str, float]:
    """Subtract the references' values from ours."""
    values, exact = ours(maps, masks), {**scikit_learn(maps, masks), **sorted_aupro(maps, masks)}
    return {name: values[name] - exact[name] for name in NAMES}


def main() -> None:
    """Draw, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of a distribution's name")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    worst = dict.fromkeys(NAMES, 0.0)
    metrics = PixelMetrics()
    print(f"{arguments.images} maps of {arguments.size} px, {metrics.counts.nbytes / 2**20:.1f} MiB of counts")
    print(f"{'distribution':40}{'share':>8}" + "".join(f"{name:>11}" for name in NAMES))
    cases = [(name, draw, share) for name, draw in PLAIN.items() for share in SHARES]
    cases += [(name, draw, SHARES[0]) for name, draw in DISTRIBUTIONS.items()]
    for name, draw, share in cases:
        if arguments.only not in name:
            continue
        rng = np.random.default_rng(arguments.seed)
        masks = make_masks(arguments.images, arguments.size, share, rng)
        logits = rng.normal(size=masks.shape) + (100 if name == "perfect" else 2) * masks
        maps = draw(logits, rng).clip(0, 1).astype(np.float32)
        found = differences(maps, masks)
        worst = {key: max(value, abs(found[key])) for key, value in worst.items()}
        print(f"{name:40}{share:>8.0e}" + "".join(f"{found[key]:>11.1e}" for key in NAMES), flush=True)
    print(f"{'largest of ' + str(len(cases)):48}" + "".join(f"{worst[key]:>11.1e}" for key in NAMES))


if __name__ == "__main__":
    main()
