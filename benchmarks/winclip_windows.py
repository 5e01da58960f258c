"""Cost of WinCLIP's windows on the CPU: batched, against one at a time through open_clip's own modules.

python benchmarks/winclip_windows.py --threads 1

Weights are random, since times do not depend on their values. One at a time is timed on some windows of each size;
both run in turn in one process, so that the ratio does not depend on what else the machine is doing.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import open_clip
import torch
from torch import Tensor

from afr_clip.clip.backbone import CLIPBackbone
from afr_clip.models.winclip.windows import embed_windows, window_positions
from afr_clip.reports.record.manifest import build_manifest

ARCHITECTURE = "ViT-B-16-plus-240"
SIZES = (2, 3)


def milliseconds(function: Callable[[], object], num_windows: int) -> tuple[float, float]:
    """Time one call that embeds windows; return wall-clock and CPU time per window."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return 1000 * (time.perf_counter() - wall) / num_windows, 1000 * (time.process_time() - cpu) / num_windows


def one_at_a_time(visual: Any, tokens: Tensor, positions: Tensor) -> Tensor:  # noqa: ANN401 - open_clip's tower
    """Embed windows as the paper describes it, each in its own pass."""
    seen = (visual.transformer(tokens[:, shown]) for shown in positions)
    return torch.stack([visual.ln_post(one[0, 0]) @ visual.proj for one in seen])


def gflop(visual: Any, num_tokens: int) -> float:  # noqa: ANN401 - open_clip's tower
    """Count the arithmetic of the blocks' linear layers, 12 D^2 weights in each."""
    return 2 * 12 * visual.transformer.width**2 * len(visual.transformer.resblocks) * num_tokens / 1e9


def measure(plain: Any, backbone: CLIPBackbone, size: int, rounds: int, num_alone: int) -> tuple[list[float], int]:  # noqa: ANN401 - open_clip's tower
    """Time both in turn and print the result; return their medians (wall, CPU; wall, CPU) and the windows."""
    positions = window_positions(backbone.grid_size, size)
    some = positions[torch.linspace(0, len(positions) - 1, num_alone).long()]
    tokens = plain._embeds(torch.randn(1, 3, backbone.image_size, backbone.image_size))
    difference = one_at_a_time(plain, tokens, some) - embed_windows(backbone, tokens, some)[0]
    times = []
    for _ in range(rounds):
        alone = milliseconds(lambda: one_at_a_time(plain, tokens, some), len(some))
        times.append((*alone, *milliseconds(lambda: embed_windows(backbone, tokens, positions), len(positions))))
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    work = gflop(plain, positions.shape[1])
    print(f"{size} x {size}: {len(positions)} windows of {positions.shape[1]} tokens, {work:.2f} GFLOP each")
    print(f"  largest difference between both ways {difference.abs().max():.1e}")
    for name, wall, cpu in (("one at a time", *medians[:2]), ("batched", *medians[2:])):
        print(f"  {name}: {wall:.1f} ms a window, {cpu:.1f} ms of CPU, {1000 * work / cpu:.0f} GFLOP per CPU second")
    print(f"  ratio {medians[0] / medians[2]:.2f}, of CPU time {medians[1] / medians[3]:.2f}", flush=True)
    return medians, len(positions)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alone", type=int, default=20, help="windows of each size that are timed one at a time")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    manifest = build_manifest("winclip_windows", [], {"seed": 0})
    machine = manifest["machine"]
    print(f"{ARCHITECTURE}, random weights, commit {manifest['commit']}, torch {manifest['packages']['torch']}")
    print(f"{machine['processor']}, {machine['threads']} threads, medians of {arguments.rounds}", flush=True)
    plain, twin = (open_clip.create_model(ARCHITECTURE).eval() for _ in range(2))
    twin.load_state_dict(plain.state_dict())
    backbone = CLIPBackbone(twin, open_clip.get_tokenizer(ARCHITECTURE))
    with torch.inference_mode():
        measured = [measure(plain.visual, backbone, size, arguments.rounds, arguments.alone) for size in SIZES]
    totals = [sum(medians[i] * num for medians, num in measured) / 1000 for i in range(4)]
    for clock, alone, batched in (("wall", *totals[::2]), ("CPU", *totals[1::2])):
        print(f"all windows of an image, {clock}: {alone:.1f} s and {batched:.1f} s, {alone / batched:.2f} times")


if __name__ == "__main__":
    main()
