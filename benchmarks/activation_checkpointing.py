"""Peak memory and time of one training step, with and without activation checkpointing, and without self prompting.

    python benchmarks/activation_checkpointing.py --threads 2

Each variant takes its step (forward, backward, optimizer) in its own process, because the peak of a process never
falls; the memory before the step, with the networks loaded, is printed next to it. Weights are random, since neither
memory nor time depends on their values. The losses of the variants with self prompting must be equal.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from afr_clip.clip.load import load_towers
from afr_clip.config.plan import composed_training
from afr_clip.losses.total import AnomalyLoss
from afr_clip.reports.record.manifest import build_manifest
from afr_clip.training.schedule import optimizer_factory

WAYS = {
    "all activations kept": [],
    "activation_checkpointing=true": ["activation_checkpointing=true"],
    "ablation=no_sp": ["ablation=no_sp"],
}
RANDOM = ("backbone.random_weights=true", "backbone.cnn.random_weights=true", "data.batch_size=1")


def peak_gib() -> float:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def take_step(overrides: list[str], threads: int) -> dict[str, float]:
    """Take one step on one image; return time, memory, loss and the size of the gradient."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    job = composed_training(*RANDOM, *overrides)
    towers = load_towers(job.backbone, needs_cnn=job.module.network.needs_cnn)
    towers.backbone.checkpointing = job.activation_checkpointing
    network = job.module.network.build(towers).train()
    names = network.trainable_parameter_names()
    trainable = [parameter for name, parameter in network.named_parameters() if name in names]
    optimizer, loss = optimizer_factory(job.optimizer)(trainable), AnomalyLoss(**vars(job.loss))
    size = towers.backbone.image_size
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, :50, :50] = True
    network.text(["screw"], image.device)  # encoded once, outside the measured step
    loaded, started, used = peak_gib(), time.perf_counter(), time.process_time()
    scored = network(image, ["screw"])
    forward = time.perf_counter() - started
    total = loss(scored.trained_maps, scored.image_score, mask, mask.any(dim=2).any(dim=1)).total
    total.backward()
    gradient = torch.stack([p.grad.norm() for p in trainable if p.grad is not None]).norm().item()
    optimizer.step()
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "cpu": time.process_time() - used,
        "forward": forward,
        "loaded": loaded,
        "peak": peak_gib(),
        "loss": total.item(),
        "gradient": gradient,
    }


def in_a_process_of_its_own(overrides: list[str], threads: int) -> dict[str, float]:
    """Take a step in a fresh process."""
    command = [sys.executable, __file__, "--step", "--threads", str(threads), "--", *overrides]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure every variant in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--step", action="store_true", help="take one step in this process and print it as JSON")
    parser.add_argument("overrides", nargs="*", help="for example backbone=vit_b_16")
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(take_step(arguments.overrides, arguments.threads)))
        return
    manifest = build_manifest("activation_checkpointing", arguments.overrides, {"seed": 0})
    print(f"commit {manifest['commit']['hash'][:7]}, torch {torch.__version__}, {manifest['machine']['processor']}")
    print(f"{arguments.threads} threads, one image, {' '.join(arguments.overrides) or 'backbone=vit_l_14_336'}")
    for number in range(arguments.rounds):
        first = None
        for name, overrides in WAYS.items():
            step = in_a_process_of_its_own([*arguments.overrides, *overrides], arguments.threads)
            first = first or step
            print(
                f"round {number + 1}, {name:<30} peak {step['peak']:.2f} GiB ({step['peak'] - step['loaded']:.2f} over "
                f"{step['loaded']:.2f} loaded), {step['seconds']:.1f} s ({step['seconds'] / first['seconds']:.2f} x), "
                f"CPU {step['cpu']:.1f} s ({step['cpu'] / first['cpu']:.2f} x), "
                f"forward {step['forward']:.1f} s, loss {step['loss']:.8f}, gradient {step['gradient']:.8f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
