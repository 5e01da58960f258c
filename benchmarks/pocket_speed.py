"""Measure the speed of pocket on this machine: loading, and scoring an image on one and on two threads.

python benchmarks/pocket_speed.py
"""

import statistics
import time

import torch

from afr_clip.clip.load import load_towers
from afr_clip.config.plan import composed_training

ROUNDS, BATCH = 7, 16
"""Rounds, whose median is printed; images per forward pass."""


def main() -> None:
    """Build AFR-CLIP on pocket and time it; rounds of one and two threads take turns."""
    job = composed_training("experiment=demo")
    started = time.monotonic()
    towers = load_towers(job.backbone, needs_cnn=True)
    print(f"loading the towers: {time.monotonic() - started:.2f} s")
    network = job.module.network.build(towers).eval()
    for size in (1, BATCH):
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(ROUNDS):
            for threads, taken in seconds.items():
                torch.set_num_threads(threads)
                image = torch.randn(size, 3, 160, 160)
                started = time.monotonic()
                with torch.inference_mode():
                    network(image, ["bottle"] * size)
                taken.append((time.monotonic() - started) / size)
        for threads, taken in seconds.items():
            middle = statistics.median(taken)
            print(f"batch {size}, {threads} threads: {1000 * middle:.1f} ms an image, {1 / middle:.0f} images a second")


if __name__ == "__main__":
    main()
