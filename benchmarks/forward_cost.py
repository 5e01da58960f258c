"""Cost of AFR-CLIP's forward pass relative to the bare open_clip image tower, and of one training step, on the CPU.

Weights are random, since times and memory do not depend on their values. Both towers run in turn in one process, so
that the ratio does not depend on what else the machine is doing.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import open_clip
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from afr_clip.clip.load import Towers, load_towers
from afr_clip.config.nodes import config_dir, register
from afr_clip.losses.total import AnomalyLoss
from afr_clip.reports.record.manifest import build_manifest

CATEGORY = "screw"


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


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


def measure_forward(towers: Towers, network: nn.Module, image: torch.Tensor, rounds: int) -> None:
    """Print the time of the full method over that of the bare tower."""
    settings = towers.settings
    bare = open_clip.create_model(settings.architecture, force_image_size=settings.image_size).visual.eval()
    network.eval()
    times = []
    with torch.inference_mode():
        prediction = network(image, [CATEGORY])  # also encodes the category once
        bare(image)
        for _ in range(rounds):
            times.append((seconds(lambda: bare(image)), seconds(lambda: network(image, [CATEGORY]))))
    tower, method = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(m / t for t, m in times)
    print(f"anomaly map {tuple(prediction.anomaly_map.shape)}, layer maps {tuple(prediction.layer_maps.shape)}")
    print(f"bare open_clip tower {tower:.2f} s, full method {method:.2f} s, ratio {ratio:.3f} (medians of {rounds})")
    print(f"peak memory with both towers {peak_gib():.2f} GiB")


def measure_step(network: nn.Module, image: torch.Tensor) -> None:
    """Print time and memory of one training step, and the number of trained parameters."""
    network.train()
    names = network.trainable_parameter_names()
    trainable = [parameter for name, parameter in network.named_parameters() if name in names]
    optimizer = torch.optim.Adam(trainable, lr=0.001)
    mask = torch.zeros(image.shape[0], *image.shape[-2:], dtype=torch.bool)
    mask[:, :50, :50] = True

    def step() -> None:
        scored = network(image, [CATEGORY] * image.shape[0])
        loss = AnomalyLoss()(scored.trained_maps, scored.image_score, mask, mask.any(dim=2).any(dim=1))
        loss.total.backward()
        optimizer.step()

    print(f"training step of {image.shape[0]} images {seconds(step):.1f} s, peak memory {peak_gib():.2f} GiB")
    print(f"trainable parameters {sum(p.numel() for p in trainable):,} in {len(names)} tensors")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often forward passes are timed; 0 skips them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1, help="images of the training step; 0 skips it")
    parser.add_argument("overrides", nargs="*", help="for example backbone=vit_b_16 ablation=no_sp")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    towers, network = build_method(arguments.overrides)
    settings = towers.settings
    manifest = build_manifest("forward_cost", arguments.overrides, {"seed": 0})
    machine = manifest["machine"]
    print(f"{settings.name} ({settings.architecture}), {settings.image_size} px, random weights")
    print(f"commit {manifest['commit']}, torch {manifest['packages']['torch']}")
    print(f"{machine['processor']}, {machine['threads']} threads")
    image = torch.randn(max(arguments.batch, 1), 3, settings.image_size, settings.image_size)
    if arguments.rounds:
        measure_forward(towers, network, image[:1], arguments.rounds)
    if arguments.batch:
        measure_step(network, image)


if __name__ == "__main__":
    main()
