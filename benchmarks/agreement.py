"""Compute a run's metrics again from its saved maps and the dataset's own masks, with scikit-learn and SciPy alone.

Needs `pip install -e '.[dev]'`, and a run of `evaluate ... save_maps=true map_format=tiff` on a tree like MVTec AD's:
16-bit copies of the maps tie scores that the run told apart. Prints every metric of `results.csv` next to the
recomputed one, except `pixel_aupro_published`, and exits with 1 if any differs by more than the tolerance.
"""

import argparse
import csv
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

MAX_FPR = 0.3


def f1_max(truth: np.ndarray, score: np.ndarray) -> float:
    """Return the largest F1 over all thresholds."""
    precision, recall, _ = precision_recall_curve(truth, score)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


def aupro(masks: list[np.ndarray], maps: list[np.ndarray]) -> float:
    """Return the per-region overlap integrated over false positive rates up to 0.3, from every threshold."""
    regions = []
    for mask, anomaly_map in zip(masks, maps, strict=True):
        labels, num_regions = ndimage.label(mask, np.ones((3, 3)))
        regions += [np.sort(anomaly_map[labels == k]) for k in range(1, num_regions + 1)]
    normal = np.sort(np.concatenate([m[~mask] for mask, m in zip(masks, maps, strict=True)]))
    thresholds = np.unique(np.concatenate(maps, axis=None))[::-1]
    fpr = 1 - np.searchsorted(normal, thresholds, side="left") / normal.size
    overlap = np.mean([1 - np.searchsorted(r, thresholds, side="left") / r.size for r in regions], axis=0)
    fpr, overlap = np.concatenate([[0.0], fpr]), np.concatenate([[0.0], overlap])
    below = fpr <= MAX_FPR
    at_limit = np.interp(MAX_FPR, fpr, overlap)
    return float(np.trapezoid(np.append(overlap[below], at_limit), np.append(fpr[below], MAX_FPR)) / MAX_FPR)


def recompute(run: Path, rows: list[dict[str, str]]) -> dict[str, float]:
    """Compute all metrics of one category from scores, maps and the dataset's masks."""
    targets = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["targets"]
    roots = {name: facts["root"] for name, facts in targets.items()}
    truth = np.array([int(row["is_anomalous"]) for row in rows])
    score = np.array([float(row["image_score"]) for row in rows])
    maps, masks = [], []
    for row in rows:
        image = Path(roots[row["dataset"]], row["image"])  # version 0.1 wrote whole paths
        path = run / "maps" / row["dataset"] / row["category"] / image.parent.name / f"{image.stem}.tiff"
        if not path.is_file():
            msg = f"{path} is missing: the dataset must have MVTec AD's layout. Choose another run."
            raise SystemExit(msg)
        with Image.open(path) as saved:
            maps.append(np.asarray(saved, dtype=np.float32))
        size = maps[-1].shape[::-1]
        mask_file = image.parents[2] / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
        if row["is_anomalous"] == "1":
            with Image.open(mask_file) as mask:
                masks.append(np.asarray(mask.convert("L").resize(size, Image.Resampling.NEAREST)) > 0)
        else:
            masks.append(np.zeros(maps[-1].shape, dtype=bool))
    pixels, labels = np.concatenate(maps, axis=None), np.concatenate(masks, axis=None)
    return {
        "image_auroc": float(roc_auc_score(truth, score)),
        "image_f1_max": f1_max(truth, score),
        "image_ap": float(average_precision_score(truth, score)),
        "pixel_auroc": float(roc_auc_score(labels, pixels)),
        "pixel_f1_max": f1_max(labels, pixels),
        "pixel_ap": float(average_precision_score(labels, pixels)),
        "pixel_aupro": aupro(masks, maps),
    }


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()
    if not (arguments.run / "results.csv").is_file() or not any((arguments.run / "maps").rglob("*.tiff")):
        parser.error(f"{arguments.run} must be a run that scored a dataset with save_maps=true map_format=tiff")
    with (arguments.run / "results.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["metric"] != "pixel_aupro_published"]
    written = {(r["dataset"], r["category"], r["metric"]): float(r["value"]) for r in rows}
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    with (arguments.run / "scores.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            groups[row["dataset"], row["category"]].append(row)
    means: dict[tuple[str, str], list[float]] = defaultdict(list)
    worst = 0.0
    print(f"{'dataset':16} {'category':16} {'metric':14} {'written':>12} {'recomputed':>12} {'difference':>11}")
    recomputed = {(*key, m): v for key, rows in groups.items() for m, v in recompute(arguments.run, rows).items()}
    for (dataset, _, metric), value in recomputed.items():
        means[dataset, metric].append(value)
    recomputed |= {(dataset, "mean", metric): float(np.mean(values)) for (dataset, metric), values in means.items()}
    for key, value in recomputed.items():
        difference = abs(written[key] - value)
        worst = max(worst, difference if not math.isnan(difference) else math.inf)
        print(f"{key[0]:16} {key[1]:16} {key[2]:14} {written[key]:12.8f} {value:12.8f} {difference:11.1e}")
    print(f"largest difference {worst:.1e} of {len(recomputed)} values, tolerance {arguments.tolerance:.0e}")
    return int(worst > arguments.tolerance or len(recomputed) != len(written))


if __name__ == "__main__":
    sys.exit(main())
