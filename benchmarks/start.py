"""Seconds until a command has its first result, next to what Python and PyTorch alone take on the same machine.

python benchmarks/start.py [--rounds 5] [--other SRC]

SRC is the `src` folder of another commit (`git worktree add`), measured in turn with this one.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (256, 256)
BASE = "import torch"


def seconds(words: Sequence[str]) -> float:
    """Run one process from its start to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - started


def processes(folder: Path, source: Path, run_name: str) -> dict[str, list[str]]:
    """Return the words of each process; the last predicts one photograph. All files are written to ``folder``.

    Args:
        source: The ``src`` folder that is measured.
        run_name: Of the prediction's folder.
    """
    photograph = folder / "photograph.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(photograph)
    run_dir = f"run_dir={folder}/{run_name}"
    here = f"import sys; sys.path.insert(0, {str(source)!r}); "
    command = here + "from runpy import run_module; run_module('afr_clip', run_name='__main__')"
    return {
        BASE: ["-c", "import torch"],
        "import afr_clip": ["-c", here + "import afr_clip"],
        "afr-clip --help": ["-c", command, "--help"],
        "afr-clip predict, one photograph": [
            "-c",
            command,
            "predict",
            f"images={photograph}",
            "category=sheet",
            run_dir,
        ],
    }


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
        took: dict[str, list[float]] = {}
        for number in range(arguments.rounds + 1):
            for prefix, source in sources.items():
                run_name = f"{prefix.strip(': ')}{number}"
                for name, words in processes(Path(folder), source, run_name).items():
                    key = name if name == BASE else prefix + name
                    if not (prefix and name == BASE):
                        took.setdefault(key, []).append(seconds(words))
    for name, column in took.items():
        column.pop(0)  # files were not in memory yet
        ratio = statistics.median(own / base for own, base in zip(column, took[BASE], strict=True))
        spread = f"{statistics.median(column):6.2f} s ({min(column):.2f} to {max(column):.2f})"
        print(f"{name:40s} {spread}, {ratio:.2f} times torch")


if __name__ == "__main__":
    main()
