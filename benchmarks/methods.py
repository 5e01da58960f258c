"""Seconds per image and peak memory of every method in its published setting, on the CPU.

Weights are random, since times and memory do not depend on their values. Each method runs in its own process, so that
the peak is its own. AFR-CLIP is measured before and after each method, for the ratio.

python benchmarks/methods.py --threads 1
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from timing import seconds
from torch import nn

from afr_clip.clip.load import Towers, load_towers
from afr_clip.config.nodes import config_dir, method_names, register
from afr_clip.reports.record.manifest import build_manifest

REFERENCE = "afr_clip"
CATEGORY = "screw"


def peak_gib() -> float:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def build_method(overrides: list[str]) -> tuple[Towers, nn.Module]:
    """Build the towers and the network of a config, with random weights."""
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = compose("evaluate", ["backbone.random_weights=true", "backbone.cnn.random_weights=true", *overrides])
    backbone, method = OmegaConf.to_object(config.backbone), OmegaConf.to_object(config.module).network
    towers = load_towers(backbone, needs_cnn=method.needs_cnn)
    return towers, method.build(towers)


def measure(method: str, threads: int, rounds: int) -> None:
    """Print time and memory of one method for one image, as JSON."""
    torch.set_num_threads(threads)
    towers, network = build_method([f"module={method}"])
    network.eval()
    size = towers.settings.image_size
    image = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        first = seconds(lambda: network(image, [CATEGORY]))  # also encodes the category, where that is done once
        times = [seconds(lambda: network(image, [CATEGORY])) for _ in range(rounds)]
    facts = {"architecture": towers.settings.architecture, "size": size, "first": first}
    print(json.dumps(facts | {"seconds": statistics.median(times), "gib": peak_gib()}))


def measured_apart(method: str, threads: int, rounds: int) -> dict[str, float | str]:
    """Measure a method in its own process."""
    words = [sys.executable, __file__, "--only", method, "--threads", str(threads), "--rounds", str(rounds)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure all methods, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="how often each method scores an image")
    parser.add_argument("--only", choices=method_names(), help="one method, as JSON")
    arguments = parser.parse_args()
    if arguments.only is not None:
        measure(arguments.only, arguments.threads, arguments.rounds)
        return
    manifest = build_manifest("methods", [], {"seed": 0})
    print(f"commit {manifest['commit']}, torch {manifest['packages']['torch']}")
    print(f"{manifest['machine']['processor']}, {arguments.threads} threads, one image at a time, random weights")
    print("method           backbone                      px  s/image  first  GiB    over AFR-CLIP")
    before = measured_apart(REFERENCE, arguments.threads, arguments.rounds)
    for method in method_names():
        found = measured_apart(method, arguments.threads, arguments.rounds)
        after = measured_apart(REFERENCE, arguments.threads, arguments.rounds)
        ratio = 2 * found["seconds"] / (before["seconds"] + after["seconds"])
        before = after
        print(
            f"{method:16} {found['architecture']:28} {found['size']:4} {found['seconds']:7.2f} {found['first']:7.2f} "
            f"{found['gib']:5.2f} {ratio:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
