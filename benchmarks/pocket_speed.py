"""Measure the speed of pocket on this machine at 160 and 320 px: loading, the forward pass, and JPEG file to result.

python benchmarks/pocket_speed.py
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import afr_clip
from afr_clip.clip.load import load_towers
from afr_clip.config.plan import composed_training

SIZES, THREADS, BATCHES = (160, 320), (1, 2), (1, 16)
ROUNDS, FILES, SIDE = 5, 32, 256
"""Rounds, whose median and range are printed; JPEG files that are read, and their side in pixels."""


def main() -> None:
    """Time every combination; in each round all of them take their turn."""
    started = time.monotonic()
    load_towers(composed_training("experiment=demo").backbone, needs_cnn=True)
    print(f"loading the towers: {time.monotonic() - started:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        report(forward_passes() | inspections(write_files(Path(folder))))


def forward_passes() -> dict[tuple[str, int], Callable[[], int]]:
    """Return one forward pass for each size and batch, which returns its number of images."""
    work: dict[tuple[str, int], Callable[[], int]] = {}
    for size in SIZES:
        job = composed_training("experiment=demo", f"backbone.image_size={size}")
        network = job.module.network.build(load_towers(job.backbone, needs_cnn=True)).eval()
        for batch in BATCHES:
            work[f"forward pass, batch {batch}", size] = partial(forward, network, torch.randn(batch, 3, size, size))
    return work


def forward(network: torch.nn.Module, images: torch.Tensor) -> int:
    """Score images, and count them."""
    with torch.inference_mode():
        network(images, ["bottle"] * len(images))
    return len(images)


def write_files(folder: Path) -> list[Path]:
    """Write JPEG files of smooth noise, about as many bytes as photographs of that side."""
    random, files = np.random.default_rng(0), []
    for number in range(FILES):
        coarse = Image.fromarray(random.integers(0, 256, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8))
        files.append(folder / f"{number}.jpg")
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(files[-1], quality=90)
    return files


def inspections(files: list[Path]) -> dict[tuple[str, int], Callable[[], int]]:
    """Return the inspection of all files for each size, up to score and map at the photograph's size."""
    detectors = {size: afr_clip.load("pocket", category="bottle", precision="auto", image_size=size) for size in SIZES}
    return {("JPEG file to result", size): partial(inspect, one, files) for size, one in detectors.items()}


def inspect(detector: afr_clip.Detector, files: list[Path]) -> int:
    """Inspect files, and count them."""
    return sum(1 for found in detector.inspect(files) if found.anomaly_map.size)


def report(work: dict[tuple[str, int], Callable[[], int]]) -> None:
    """Run all work in turns, and print images a second."""
    rates: dict[tuple[str, int, int], list[float]] = {}
    for number in range(1 + ROUNDS):
        for (name, size), run in work.items():
            for threads in THREADS:
                torch.set_num_threads(threads)
                started = time.monotonic()
                images = run()
                rates.setdefault((name, size, threads), []).append(images / (time.monotonic() - started))
        if number == 0:
            rates.clear()  # the first round warms up
    for (name, size, threads), found in rates.items():
        middle = statistics.median(found)
        spread = f"{min(found):.0f} to {max(found):.0f}"
        print(f"{name}, {size} px, {threads} threads: {middle:.0f} images a second ({spread})")


if __name__ == "__main__":
    main()
