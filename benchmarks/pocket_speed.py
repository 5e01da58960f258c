"""Measure the speed of pocket on this machine: loading, and scoring an image on one and on two threads.

python benchmarks/pocket_speed.py
"""

import statistics
import time

import torch
from afr_clip.config.assemble import build
from afr_clip.config.schema import register
from hydra import compose, initialize_config_dir

from afr_clip.clip.load import load_towers
from afr_clip.config.nodes import config_dir

ROUNDS, BATCH = 7, 16
"""Rounds, whose median is printed; images per forward pass."""


def main() -> None:
    """Build AFR-CLIP on pocket and time it; rounds of one and two threads take turns."""
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = compose("train", overrides=["experiment=demo"])
    started = time.monotonic()
    towers = load_towers(build(config.backbone), needs_cnn=True)
    print(f"loading the towers: {time.monotonic() - started:.2f} s")
    network = build(config.module.network, towers=towers).eval()
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
