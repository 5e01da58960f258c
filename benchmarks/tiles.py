"""Plant a defect of 12 x 12 pixels in a large and in a narrow picture, and look for it with tiles and without.

python benchmarks/tiles.py [GOOD_PHOTOGRAPH [CATEGORY]]

Without a photograph the picture is a brushed sheet: lines along its width, and noise. Then, how memory grows with the
size of a tiled photograph.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import afr_clip

SIDE = 12
CASES = {"large": (4000, 6000), "narrow": (500, 6000)}
"""Heights and widths."""

GROWING = ((2000, 3000), (4000, 6000), (8000, 12000), (12000, 16000))
LARGE_TILE = 800
"""Side of the tiles there: memory does not depend on it, and time does."""

NEAR = 24
"""Pixels around the defect in which the highest score must lie."""


def brushed(size: tuple[int, int]) -> np.ndarray:
    """Draw a good sheet."""
    random, (height, width) = np.random.default_rng(0), size
    lines = random.normal(150, 6, (height, 1)).astype(np.float32)
    grey = lines + random.standard_normal((height, width), dtype=np.float32) * 2
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def enlarged(path: str, size: tuple[int, int]) -> np.ndarray:
    """Return the middle of a photograph, enlarged to a size."""
    height, width = size
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = max(height / image.height, width / image.width)
    larger = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (larger.width - width) // 2, (larger.height - height) // 2
    return np.array(larger.crop((left, top, left + width, top + height)))


def planted(good: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a picture with a dark spot, and where it is."""
    row, column = round(0.37 * good.shape[0]), round(0.61 * good.shape[1])
    bad = good.copy()
    bad[row : row + SIDE, column : column + SIDE] = 10
    return bad, (row, column)


def measure(path: str, category: str, case: str, tile: str) -> None:
    """Print what one process finds, how long it takes, and the memory it needs beyond a small photograph."""
    torch.set_num_threads(1)
    detector = afr_clip.load("pocket", tile=None if tile == "none" else "auto", batch_size=16)
    detector.inspect(np.zeros((200, 200), dtype=np.uint8), category)
    good = enlarged(path, CASES[case]) if path else brushed(CASES[case])
    bad, (row, column) = planted(good)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    found = detector.inspect(bad, category)
    anomaly_map = found.anomaly_map
    seconds = time.monotonic() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    highest = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    place = anomaly_map[row - NEAR : row + SIDE + NEAR, column - NEAR : column + SIDE + NEAR]
    is_there = abs(highest[0] - row) <= NEAR + SIDE and abs(highest[1] - column) <= NEAR + SIDE
    clean = detector.inspect(good, category).anomaly_map
    values = {
        "photograph": f"{CASES[case][1]} x {CASES[case][0]} ({case})",
        "tile": tile,
        "highest_is_the_defect": bool(is_there),
        "score_at_the_defect": round(float(place.max()), 4),
        "highest_of_the_good_photograph": round(float(clean.max()), 4),
        "seconds": round(seconds, 1),
        "peak_MiB_beyond_loading": round(peak),
    }
    print(json.dumps(values))


def measure_memory(height: int, width: int) -> None:
    """Print the memory that one process needs for a tiled photograph, beyond its pixels and its map."""
    torch.set_num_threads(1)
    detector = afr_clip.load("pocket", tile=LARGE_TILE, batch_size=16, max_pixels=10**9)
    detector.inspect(np.zeros((1000, 2000), dtype=np.uint8), "metal sheet")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photograph.jpg")
        Image.fromarray(np.tile(brushed((500, 500)), (height // 500, width // 500, 1))).save(path)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here
        before, started = memory("VmRSS"), time.monotonic()
        anomaly_map = detector.inspect(path, "metal sheet").anomaly_map
        seconds, peak = time.monotonic() - started, memory("VmHWM") - before
    pixels = height * width * 3 / 2**20
    values = {
        "photograph": f"{width} x {height}",
        "seconds": round(seconds, 1),
        "MiB_of_its_pixels": round(pixels),
        "MiB_of_its_map": round(anomaly_map.nbytes / 2**20),
        "peak_MiB_beyond_both": round(peak - pixels - anomaly_map.nbytes / 2**20),
    }
    print(json.dumps(values), flush=True)


def memory(name: str) -> float:
    """Return a line of Linux's account of this process in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Run every case in a process of its own, whose peak memory is its own."""
    path, category = (sys.argv[1:2] or [""])[0], (sys.argv[2:3] or ["metal sheet"])[0]
    if len(sys.argv) == 5:
        measure(path, category, *sys.argv[3:])
        return
    if len(sys.argv) == 4:
        measure_memory(int(sys.argv[2]), int(sys.argv[3]))
        return
    for case in CASES:
        for tile in ("none", "auto"):
            subprocess.run([sys.executable, __file__, path, category, case, tile], check=True)
    for height, width in GROWING:
        subprocess.run([sys.executable, __file__, "memory", str(height), str(width)], check=True)


if __name__ == "__main__":
    main()
