"""Plot how the cost of AFR-CLIP grows with image size, batch, threads and number of images.

    python benchmarks/scaling.py --out experiments/benchmarks

ViT-L/14@336 with random weights in bfloat16 and float32; all points of a size take turns. The last panel keeps the
scores of up to 100,000 small maps, as an evaluation does.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from bench import CATEGORY, FULL, HALF, LARGE, block_gigaflop, forward, gigaflop, machine_kind
from pixel_metrics import resident_mb
from timing import seconds

from afr_clip.clip.load import load_towers
from afr_clip.config.plan import composed_training
from afr_clip.metrics.pixel import PixelMetrics
from afr_clip.reports.record.manifest import build_manifest

mpl.use("agg")
import matplotlib.pyplot as plt

SIDES, BATCHES, THREADS, IMAGES = (224, 336, 518, 700, 1036), (1, 2, 4, 8), (1, 2), (100, 1_000, 10_000, 100_000)
BATCH_SIDE, THREADS_SIDE, MAP_SIDE = 224, 518, 64
COLOURS = {FULL: "#0072B2", HALF: "#D55E00"}
NAMES = {FULL: "float32", HALF: "bfloat16"}

Point = dict[str, Any]


def networks(side: int) -> tuple[float, dict[str, tuple[str, torch.nn.Module]]]:
    """Build the network for images of a size.

    Returns:
        The GFLOP of an image, and for each precision what multiplies and the network.
    """
    job, built, amount = composed_training(*LARGE, f"backbone.image_size={side}"), {}, 0.0
    for precision in (FULL, HALF):
        towers = load_towers(job.backbone, needs_cnn=True, precision=precision)
        torch.manual_seed(0)
        network = job.module.network.build(towers).eval()
        built[precision] = towers.multiplication, network
        if precision == FULL:  # what packed weights multiply is not counted
            image = torch.randn(1, 3, side, side)
            amount = gigaflop(partial(network, image, [CATEGORY])) + block_gigaflop(towers)[1]
    return amount, built


def scored(side: int, rounds: int) -> Iterator[tuple[str, Point]]:
    """Time all points of a size in turn, and yield each with its panel; the first round warms up."""
    amount, built = networks(side)
    points = [("side", 1, max(THREADS))]
    points += [("batch", batch, max(THREADS)) for batch in BATCHES if side == BATCH_SIDE]
    points += [("threads", 1, threads) for threads in THREADS if side == THREADS_SIDE]
    times: dict[tuple[str, int, int, str], list[float]] = {}
    for _ in range(1 + rounds):
        for (panel, batch, threads), precision in product(points, built):
            torch.set_num_threads(threads)
            image, names = torch.randn(batch, 3, side, side), [CATEGORY] * batch
            work = partial(forward, built[precision][1], image, precision, names)
            times.setdefault((panel, batch, threads, precision), []).append(seconds(work))
    for (panel, batch, threads, precision), (_, *took) in times.items():
        facts = {"side": side, "batch": batch, "threads": threads, "precision": NAMES[precision]}
        facts |= {"multiplication": built[precision][0], "gigaflop": amount * batch}
        yield panel, facts | {"seconds": statistics.median(took), "lowest": min(took), "highest": max(took)}


def kept(num_images: int) -> Point:
    """Time the pixel metrics of many images, and measure what they keep in memory."""
    torch.set_num_threads(1)
    generator, metrics = torch.Generator().manual_seed(0), PixelMetrics()
    maps = torch.rand(100, MAP_SIDE, MAP_SIDE, generator=generator)
    masks = torch.zeros(100, MAP_SIDE, MAP_SIDE, dtype=torch.bool)
    masks[::3, 8:16, 8:16] = True
    metrics.update(maps, masks)
    metrics.compute()
    metrics.reset()
    before = resident_mb("VmRSS")

    def count() -> None:
        for _ in range(num_images // 100):
            metrics.update(maps, masks)
        metrics.compute()

    return {"images": num_images, "seconds": seconds(count), "extra_mb": resident_mb("VmRSS") - before}


def measure(rounds: int) -> dict[str, list[Point]]:
    """Measure all points."""
    panels: dict[str, list[Point]] = {"side": [], "batch": [], "threads": [], "images": [kept(num) for num in IMAGES]}
    for side in SIDES:
        for panel, point in scored(side, rounds):
            panels[panel].append(point)
    return panels


def plot(panels: dict[str, list[Point]], title: str, file: Path) -> None:
    """Draw four panels."""
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.8), constrained_layout=True)
    labels = {
        "side": "side of the image in pixels",
        "batch": f"images in a batch, {BATCH_SIDE} px",
        "threads": f"threads, {THREADS_SIDE} px",
    }
    for axis, (key, label) in zip(axes, labels.items(), strict=False):
        for precision, name in NAMES.items():
            points = [point for point in panels[key] if point["precision"] == name]
            x, y = [point[key] for point in points], [point["seconds"] / point["batch"] for point in points]
            axis.plot(x, y, "o-", color=COLOURS[precision], label=name)
        axis.set(xlabel=label, ylabel="seconds an image", xticks=sorted({point[key] for point in panels[key]}))
        axis.set_ylim(bottom=0)
        axis.legend()
    points, last = panels["images"], axes[-1]
    last.loglog(
        [point["images"] for point in points], [point["seconds"] for point in points], "o-", color=COLOURS[FULL]
    )
    last.set(xlabel=f"images of {MAP_SIDE} x {MAP_SIDE} pixels", ylabel="seconds for all pixel metrics")
    figure.suptitle(title)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Measure, write scaling.json and scaling.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    typed = parser.parse_args()
    panels, kind = measure(typed.rounds), machine_kind(max(THREADS))
    manifest = build_manifest("scaling", [f"rounds={typed.rounds}"], {"seed": 0})
    facts = {key: manifest[key] for key in ("commit", "overrides", "started", "machine", "packages", "seed")}
    typed.out.mkdir(parents=True, exist_ok=True)
    (typed.out / "scaling.json").write_text(json.dumps({"manifest": facts, "panels": panels}, indent=1) + "\n")
    plot(panels, f"AFR-CLIP on ViT-L/14@336, {kind}", typed.out / "scaling.png")


if __name__ == "__main__":
    main()
