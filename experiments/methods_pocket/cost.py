"""CPU time of each method's forward pass on pocket: one thread, all methods in turn, so that other work hardly matters.

python experiments/methods_pocket/cost.py --out cost.csv
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import torch

from afr_clip.clip.load import load_towers
from afr_clip.clip.settings import BackboneSettings
from afr_clip.config.nodes import method_names
from afr_clip.config.plan import composed_model, composed_training
from afr_clip.models.method_settings import ModuleSettings

POCKET = ("backbone=pocket", "backbone.tap_layers=[2]")


def compose(method: str) -> tuple[BackboneSettings, ModuleSettings]:
    """Compose a method as experiment=methods_pocket does; one that trains nothing has no recipe."""
    backbone, module = composed_model(f"module={method}", *POCKET)
    if not module.network.trains:
        return backbone, module
    job = composed_training("experiment=methods_pocket", f"module={method}")
    return job.backbone, job.module


def main() -> None:
    """Measure and write one row per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="images in one forward pass")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chosen = {name: compose(name) for name in method_names()}
    towers = load_towers(chosen["afr_clip"][0], needs_cnn=True)
    networks = {name: module.network.build(towers).eval() for name, (_, module) in chosen.items()}
    image = torch.randn(arguments.batch, 3, towers.backbone.image_size, towers.backbone.image_size)
    names = ["screw"] * arguments.batch
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for _ in range(1 + arguments.rounds):  # the first also embeds the texts
            for name, network in networks.items():
                begun = time.process_time()
                network(image, names)
                times[name].append(1e3 * (time.process_time() - begun) / arguments.batch)
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "cpu_ms_an_image", "over_afr_clip"])
        own = {name: statistics.median(several[1:]) for name, several in times.items()}
        writer.writerows([name, f"{ms:.1f}", f"{ms / own['afr_clip']:.2f}"] for name, ms in own.items())


if __name__ == "__main__":
    main()
