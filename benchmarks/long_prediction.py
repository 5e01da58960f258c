"""Predict 5,000 photographs, 25 of them broken, on one and on two processes, each killed twice with SIGKILL.

python benchmarks/long_prediction.py FOLDER [NUMBER]

FOLDER is made and holds the photographs and the runs. Every run must leave the same files, byte for byte, and its
memory must not grow with what it has scored.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

BROKEN = (b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"%PDF-1.7")
SIDE = 96
POLL = 1.0


def draw(folder: Path, number: int) -> None:
    """Write the photographs; every two-hundredth is broken, each fifth of those in the same way."""
    folder.mkdir(parents=True)
    random_numbers = np.random.default_rng(0)
    for index in range(number):
        path = folder / f"{index % 50:02}" / f"part {index}, Löt.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.full((SIDE, SIDE, 3), 120, dtype=np.uint8) + random_numbers.integers(
            0, 40, (SIDE, SIDE, 3), np.uint8
        )
        if index % 3 == 0:
            pixels[40:52, 30:60] = 250
        Image.fromarray(pixels).save(path, compress_level=1)
        if index % 200 == 7:
            sound = path.read_bytes()
            path.write_bytes([*BROKEN, sound[: len(sound) // 2]][index // 200 % 6])


def command(photographs: Path, run: Path, devices: int, *more: str) -> list[str]:
    """Return the words of a prediction."""
    return [
        *(sys.executable, "-m", "afr_clip.predict", f"images={photographs}", "category=part", f"run_dir={run}"),
        *("num_threads=1", "data.num_workers=0", "data.eval_batch_size=16", "region_threshold=0.6"),
        *("formats=[coco,label_studio]", "trainer.accelerator=cpu", f"trainer.devices={devices}", *more),
    ]


def watch(words: list[str], run: Path, kill_at: int | None) -> tuple[int, dict[int, float]]:
    """Run a command and kill it once so many photographs are scored; return its exit code and MiB by photographs."""
    process = psutil.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    memory: dict[int, float] = {}
    while process.poll() is None:
        time.sleep(POLL)
        maps = sum(1 for _ in (run / "maps").rglob("*.png")) if (run / "maps").exists() else 0
        family: list[psutil.Process] = []
        resident = 0
        try:
            family = [process, *process.children(recursive=True)]
            resident = max(one.memory_info().rss for one in family)
        except psutil.Error:
            continue
        memory[maps] = max(memory.get(maps, 0), round(resident / 2**20))
        if kill_at is not None and maps >= kill_at:
            for one in family:
                one.send_signal(signal.SIGKILL)
            process.wait()
            return -9, memory
    return process.returncode, memory


def contents(run: Path) -> dict[str, bytes]:
    """Read what a run left, without what tells when and how it ran."""
    own = ("config.yaml", "manifest.json", ".lock", ".lock.json", "predict.log")
    files = (path for path in run.rglob("*") if path.is_file() and path.name not in own)
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


def main() -> None:
    """Draw, predict undisturbed, then killed on one and on two processes; compare."""
    folder, number = Path(sys.argv[1]), int((sys.argv[2:] or ["5000"])[0])
    photographs = folder / "photographs"
    if not photographs.exists():
        draw(photographs, number)
    moments = random.Random(0)
    expected: dict[str, bytes] = {}
    for name, devices, kills in (("whole", 1, 0), ("killed, 1 process", 1, 2), ("killed, 2 processes", 2, 2)):
        run = folder / name
        shutil.rmtree(run, ignore_errors=True)
        started, memory = time.monotonic(), {}
        for attempt in range(kills + 1):
            again = ["resume=true"] if attempt else []
            kill_at = (
                moments.randint(number * (attempt + 1) // 5, number * (attempt + 2) // 5) if attempt < kills else None
            )
            code, own = watch(command(photographs, run, devices, *again), run, kill_at)
            memory |= own
        found = contents(run)
        expected = expected or found
        differing = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        steps = {step: memory[min(memory, key=lambda at: abs(at - step))] for step in (500, 2500, number) if memory}
        values = {"run": name, "exit code": code, "files": len(found), "differing": differing[:5]}
        print(json.dumps(values | {"seconds": round(time.monotonic() - started), "MiB": steps}), flush=True)


if __name__ == "__main__":
    main()
