"""Measure how fast photographs load from files and from the pixel cache, relative to a plain loop over Pillow.

    python benchmarks/loading.py --data-dir ../shared/data

The variants take turns and load the same images at the same size in every round, so that ratios do not depend on what
else the machine is doing. Workers start before the first round, as they do before the first epoch of a training.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from afr_clip.data.disk.layouts import dataset_row
from afr_clip.data.disk.loaded import load_dataset
from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.disk.reading import DatasetSpec
from afr_clip.data.feed.cache import open_cache
from afr_clip.data.feed.dataset import AnomalyDataset, collate
from afr_clip.data.records import AnomalySample
from afr_clip.reports.record.manifest import build_manifest

MEAN, STD = (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)
BASE = "Pillow, decode and resize"


def with_pillow(sample: AnomalySample, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Decode an image and its mask and resize them, without making tensors or batches of them."""
    mask = np.zeros((size, size), dtype=bool)
    with Image.open(sample.image_path) as image:
        pixels = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    if sample.mask_path is not None:
        with Image.open(sample.mask_path) as stored:
            mask = np.asarray(stored.convert("L").resize((size, size), Image.Resampling.NEAREST)) > 0
    return pixels, mask


def run_through(batches: Iterable[object]) -> None:
    """Load everything and keep nothing."""
    for _ in batches:
        pass


def check(files: AnomalyDataset, cached: AnomalyDataset, size: int) -> int:
    """Require that files and cache give the same pixels; return by how many grey levels Pillow's differ."""
    furthest = 0
    for index, sample in enumerate(files.samples):
        ours, kept = files[index], cached[index]
        if not (torch.equal(ours.image, kept.image) and torch.equal(ours.mask, kept.mask)):
            msg = f"the cache gives other pixels than {sample.image_path}"
            raise RuntimeError(msg)
        grey = (ours.image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255
        pixels, mask = with_pillow(sample, size)
        if not np.array_equal(mask, ours.mask.numpy()):
            msg = f"Pillow gives another mask for {sample.image_path}"
            raise RuntimeError(msg)
        furthest = max(furthest, round(float(np.abs(grey.permute(1, 2, 0).numpy() - pixels).max())))
    return furthest


def ways_to_load(
    datasets: dict[str, AnomalyDataset], size: int, workers: Sequence[int], batch: int
) -> dict[str, Callable[[], None]]:
    """Return the variants by name; calling one loads all images once."""
    samples = next(iter(datasets.values())).samples
    ways = {BASE: lambda: run_through(with_pillow(sample, size) for sample in samples)}
    for name, dataset in datasets.items():
        for num in workers:
            loader = DataLoader(
                dataset, batch_size=batch, num_workers=num, collate_fn=collate, persistent_workers=num > 0
            )
            where = f"{num} workers" if num > 1 else f"{num} worker" if num else "main process"
            ways[f"{name}, {where}"] = partial(run_through, loader)
    return ways


def measure(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Time every variant in every round, after one round that starts workers and warms the disk cache."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, load in ways.items():
            started = time.perf_counter()
            load()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"), help="folder that holds the dataset")
    parser.add_argument("--dataset", default="mvtec_ad", help="best a dataset of PNG files")
    parser.add_argument("--size", type=int, default=518, help="side of an image in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


def main() -> None:
    """Check that all variants load the same pixels, then measure and print."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    loaded = load_dataset(DatasetSpec(arguments.dataset, arguments.dataset, data_dir=arguments.data_dir))
    reader = SampleReader((arguments.size, arguments.size), dataset_row(arguments.dataset).mask_threshold)
    manifest = build_manifest("loading", [], {"seed": 0})
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        cache = open_cache(loaded.samples, reader, loaded.digest, Path(folder))
        built = time.perf_counter() - started
        datasets = {
            "files": AnomalyDataset(loaded.samples, reader, MEAN, STD),
            "cache": AnomalyDataset(loaded.samples, reader, MEAN, STD, cache),
        }
        furthest = check(datasets["files"], datasets["cache"], arguments.size)
        seconds = measure(ways_to_load(datasets, arguments.size, arguments.workers, arguments.batch), arguments.rounds)
    num_images = len(loaded.samples)
    print(f"{num_images} images of {arguments.dataset} at {arguments.size} px, batches of {arguments.batch}")
    print(f"commit {manifest['commit']['hash'][:7]}, torch {torch.__version__}, {manifest['machine']['processor']}")
    print("pixels of the cache equal those of the files, masks also Pillow's", end="; ")
    print(f"images are within {furthest} grey levels of Pillow's; building the cache took {built:.1f} s")
    print(f"{'':28}{'images/s':>10}{'x Pillow':>10}   smallest and largest ratio, {arguments.rounds} rounds")
    for name, taken in seconds.items():
        ratios = [base / own for base, own in zip(seconds[BASE], taken, strict=True)]
        rate, ratio = num_images / statistics.median(taken), statistics.median(ratios)
        print(f"{name:<28}{rate:>10.1f}{ratio:>10.2f}   {min(ratios):.2f} {max(ratios):.2f}")


if __name__ == "__main__":
    main()
