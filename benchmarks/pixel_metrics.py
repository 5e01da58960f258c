"""Compare the pixel metrics with scikit-learn, torchmetrics and a sort-based AUPRO, in time, memory and value.

    python benchmarks/pixel_metrics.py --images 100 --size 518 --threads 1

Each method runs in its own process, on the same maps, after one warm-up image. Extra memory is the peak of the
resident set during the method minus the resident set before it, so it excludes imports and the maps themselves.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision, BinaryPrecisionRecallCurve

from afr_clip.metrics.pixel import PixelMetrics

Maps = NDArray[np.float32]
Masks = NDArray[np.bool_]
Values = dict[str, float]

NAMES = ("auroc", "f1_max", "ap", "aupro")
COLUMNS = ("method", "seconds", "x ours", "extra MB", *(f"|diff {name}|" for name in NAMES))
TINY = np.finfo(np.float64).tiny


def make_data(num_images: int, size: int, contrast: float, seed: int) -> tuple[Maps, Masks]:
    """Return smooth noise, as from a detector; two of three images have two rectangular defects that score higher."""
    rng = np.random.default_rng(seed)
    maps = np.empty((num_images, size, size), dtype=np.float32)
    masks = np.zeros(maps.shape, dtype=np.bool_)
    for number, (scores, mask) in enumerate(zip(maps, masks, strict=True)):
        for _ in range(2 if number % 3 else 0):
            height, width = rng.integers(size // 40 + 1, size // 8 + 2, 2)
            top, left = rng.integers(0, size - height), rng.integers(0, size - width)
            mask[top : top + height, left : left + width] = True
        noise = ndimage.gaussian_filter(rng.standard_normal((size, size)), size / 60)
        bump = ndimage.gaussian_filter(mask.astype(np.float64), size / 100)
        scores[...] = 1 / (1 + np.exp(-contrast * (noise / noise.std() + 4 * bump - 3)))
    return maps, masks


def ours(maps: Maps, masks: Masks) -> Values:
    """All four metrics from one pass."""
    metrics = PixelMetrics()
    for scores, mask in zip(torch.from_numpy(maps), torch.from_numpy(masks), strict=True):
        metrics.update(scores[None], mask[None])
    return {name.removeprefix("pixel_"): value.item() for name, value in metrics.compute().items()}


def scikit_learn(maps: Maps, masks: Masks) -> Values:
    """Three metrics of all scores, each with its own sort."""
    score, truth = maps.ravel(), masks.ravel()
    values = {"auroc": float(roc_auc_score(truth, score)), "ap": float(average_precision_score(truth, score))}
    precision, recall, _ = precision_recall_curve(truth, score)
    return {**values, "f1_max": float((2 * precision * recall / np.maximum(precision + recall, TINY)).max())}


def torchmetrics_exact(maps: Maps, masks: Masks) -> Values:
    """Three metrics that keep all scores, as with ``thresholds=None``."""
    metrics: dict[str, Any] = {
        "auroc": BinaryAUROC(thresholds=None),
        "ap": BinaryAveragePrecision(thresholds=None),
        "curve": BinaryPrecisionRecallCurve(thresholds=None),
    }
    for scores, mask in zip(torch.from_numpy(maps), torch.from_numpy(masks), strict=True):
        for metric in metrics.values():
            metric.update(scores, mask.int())
    precision, recall, _ = metrics.pop("curve").compute()
    f1_max = (2 * precision * recall / (precision + recall).clamp(min=1e-30)).max().item()
    return {**{name: metric.compute().item() for name, metric in metrics.items()}, "f1_max": f1_max}


def sorted_aupro(maps: Maps, masks: Masks, max_fpr: float = 0.3) -> Values:
    """AUPRO over all distinct thresholds, in float64, by sorting all scores once."""
    weight = np.zeros(masks.shape)
    num_regions = 0
    for image_weight, mask in zip(weight, masks, strict=True):
        labels, found = ndimage.label(mask, structure=np.ones((3, 3)))
        image_weight[mask] = 1 / np.bincount(labels[mask], minlength=found + 1)[labels[mask]]
        num_regions += found
    order = np.argsort(maps.ravel())[::-1]
    score, normal = maps.ravel()[order], ~masks.ravel()[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    fpr = np.append(0, normal.cumsum()[last_of_tie] / normal.sum())
    overlap = np.append(0, weight.ravel()[order].cumsum()[last_of_tie] / num_regions)
    inside = fpr <= max_fpr
    cut_overlap = np.append(overlap[inside], np.interp(max_fpr, fpr, overlap))
    return {"aupro": float(np.trapezoid(cut_overlap, np.append(fpr[inside], max_fpr)) / max_fpr)}


METHODS: dict[str, Callable[[Maps, Masks], Values]] = {
    "ours (all four)": ours,
    "scikit-learn (three)": scikit_learn,
    "torchmetrics exact (three)": torchmetrics_exact,
    "sort-based AUPRO (one)": sorted_aupro,
}


def resident_mb(field: str) -> float:
    """Read ``VmRSS`` (now) or ``VmHWM`` (peak) of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def measure(method: str, folder: Path, threads: int) -> dict[str, Any]:
    """Run one method in this process."""
    torch.set_num_threads(threads)
    maps, masks = np.load(folder / "maps.npy"), np.load(folder / "masks.npy")
    METHODS[method](maps[1:2], masks[1:2])  # the second image has defects
    before = resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak, see proc(5)
    start = time.perf_counter()
    values = METHODS[method](maps, masks)
    seconds = time.perf_counter() - start
    return {"method": method, "seconds": seconds, "extra_mb": resident_mb("VmHWM") - before, "values": values}


def measure_apart(method: str, folder: Path, threads: int) -> dict[str, Any]:
    """Run one method in a fresh process."""
    limit = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, __file__, "--threads", str(threads), "--method", method, "--folder", str(folder)]
    done = subprocess.run(command, env={**os.environ, **limit}, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def print_table(results: list[dict[str, Any]]) -> None:
    """Print one row per method; differences are to ours, and the first row gives our values."""
    base = results[0]
    print(("{:<28}{:>9}{:>9}{:>10}" + "{:>16}" * len(NAMES)).format(*COLUMNS))
    for result in results:
        is_base = result is base
        cells = [
            (f"={value:.8f}" if is_base else f"{abs(value - base['values'][name]):.1e}") if value is not None else "-"
            for name, value in ((name, result["values"].get(name)) for name in NAMES)
        ]
        timing = f"{result['seconds']:>9.2f}{result['seconds'] / base['seconds']:>9.1f}{result['extra_mb']:>10.0f}"
        print(f"{result['method']:<28}{timing}" + "".join(f"{cell:>16}" for cell in cells))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="number of maps; at least 2")
    parser.add_argument("--size", type=int, default=518, help="side of a map in pixels")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch and BLAS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contrast", type=float, default=1.0, help="factor before the sigmoid; 0.02 is a narrow band")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Make the maps once, then measure the methods in turn."""
    arguments = parse_arguments()
    if arguments.method:
        print(json.dumps(measure(arguments.method, arguments.folder, arguments.threads)))
        return
    with tempfile.TemporaryDirectory() as name:
        maps, masks = make_data(arguments.images, arguments.size, arguments.contrast, arguments.seed)
        np.save(Path(name, "maps.npy"), maps)
        np.save(Path(name, "masks.npy"), masks)
        print(
            f"{arguments.images} maps of {arguments.size} x {arguments.size} ({maps.size / 1e6:.1f} Mpx, "
            f"{masks.mean():.2%} anomalous, scores {maps.min():.2g} to {maps.max():.2g}), "
            f"{arguments.threads} thread(s), torch {torch.__version__}"
        )
        del maps, masks
        print_table([measure_apart(method, Path(name), arguments.threads) for method in METHODS])


if __name__ == "__main__":
    main()
