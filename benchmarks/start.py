"""Seconds until a command has its first result, next to what Python and PyTorch alone take on the same machine.

python benchmarks/start.py [--rounds 5] [--other SRC]

SRC is the `src` folder of another commit (`git worktree add`), measured in turn with this one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (256, 256)


def seconds(words: Sequence[str], environment: Mapping[str, str]) -> float:
    """Run one process from its start to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], env=dict(environment), check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Run all processes in turn and print medians, and the median ratio to PyTorch's import."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--other", type=Path)
    arguments = parser.parse_args()
    sources = {"": Path(__file__).resolve().parents[1] / "src"}
    if arguments.other:
        sources["other: "] = arguments.other.resolve()
    with tempfile.TemporaryDirectory() as folder:
        photograph = Path(folder, "photograph.png")
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(photograph)
        took: dict[str, list[float]] = {}
        for number in range(arguments.rounds + 1):
            round_ = {"import torch": (["-c", "import torch"], os.environ)}
            for name, source in sources.items():
                environment = os.environ | {"PYTHONPATH": str(source)}
                run_dir = f"run_dir={folder}/{name.strip(': ')}{number}"
                words = ["-m", "afr_clip", "predict", f"images={photograph}", "category=sheet", run_dir]
                round_[f"{name}import afr_clip"] = (["-c", "import afr_clip"], environment)
                round_[f"{name}afr-clip --help"] = (["-m", "afr_clip", "--help"], environment)
                round_[f"{name}afr-clip predict, one photograph"] = (words, environment)
            for name, (words, environment) in round_.items():
                took.setdefault(name, []).append(seconds(words, environment))
    for name, column in took.items():
        column.pop(0)  # files were not in memory yet
        ratio = statistics.median(own / base for own, base in zip(column, took["import torch"], strict=True))
        spread = f"{statistics.median(column):6.2f} s ({min(column):.2f} to {max(column):.2f})"
        print(f"{name:40s} {spread}, {ratio:.2f} times torch")


if __name__ == "__main__":
    main()
