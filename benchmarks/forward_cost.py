"""Cost of AFR-CLIP's forward pass beside the bare open_clip image tower, and of one training step, on the CPU.

Random weights: times and memory do not depend on their values. Both towers run in turn in one process, so that the ratio does not
depend on what else the machine is doing.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from hydra import compose, initialize_config_dir

from afr_clip.clip.load import load_towers
from afr_clip.config.assemble import build
from afr_clip.config.command import config_dir
from afr_clip.config.schema import register
from afr_clip.losses.total import AnomalyLoss


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def peak_gib() -> float:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="vit_l_14_336")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1, help="images of the training step")
    parser.add_argument("--overrides", nargs="*", default=[], help="further overrides, for example ablation=no_sp")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        overrides = [f"backbone={arguments.backbone}", "backbone.random_weights=true", *arguments.overrides]
        if arguments.backbone != "tiny":
            overrides.append("backbone.cnn.random_weights=true")
        config = compose("train", overrides=overrides)
    settings = build(config.backbone)
    towers = load_towers(settings, needs_cnn=build(config.module.network.self_prompting).needs_cnn)
    network = build(config.module.network, towers=towers).eval()
    bare = open_clip.create_model(settings.architecture, force_image_size=settings.image_size).visual.eval()
    image = torch.randn(1, 3, settings.image_size, settings.image_size)

    with torch.inference_mode():
        prediction = network(image, ["screw"])
        bare(image)
        times = [
            (seconds(lambda: bare(image)), seconds(lambda: network(image, ["screw"]))) for _ in range(arguments.rounds)
        ]
    tower, method = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(m / t for t, m in times)
    print(f"backbone {settings.name} ({settings.architecture}), {settings.image_size} px, {arguments.threads} threads")
    print(f"anomaly map {tuple(prediction.anomaly_map.shape)}, layer maps {tuple(prediction.layer_maps.shape)}")
    print(
        f"bare open_clip tower {tower:.2f} s, full method {method:.2f} s, ratio {ratio:.3f} (median of {arguments.rounds})"
    )
    print(f"peak memory of forward passes {peak_gib():.2f} GiB (both towers)")

    del bare
    network.train()
    names = network.trainable_parameter_names()
    trainable = [p for name, p in network.named_parameters() if name in names]
    optimizer = torch.optim.Adam(trainable, lr=0.001)
    batch = image.expand(arguments.batch, -1, -1, -1)
    mask = torch.zeros(batch.shape[0], *image.shape[-2:], dtype=torch.bool)
    mask[:, :50, :50] = True

    def step() -> None:
        scored = network(batch, ["screw"] * batch.shape[0])
        AnomalyLoss()(scored.anomaly_map, scored.image_score, mask, mask.any(dim=(1, 2))).total.backward()
        optimizer.step()

    print(f"training step of {arguments.batch} images {seconds(step):.1f} s, peak memory {peak_gib():.2f} GiB")
    print(f"trainable parameters {sum(p.numel() for p in trainable):,} in {len(names)} tensors")
    print(f"processor {_processor()}")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
