"""What a sweep would cost: images from the datasets, seconds from finished cells or a short probe."""

import functools
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from afr_clip.clip.load import load_towers
from afr_clip.data.disk.loaded import load_dataset
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.losses.total import AnomalyLoss
from afr_clip.run.build import build_module, data_settings, dataset_spec
from afr_clip.run.job import ProtocolJob, TrainingJob
from afr_clip.sweep.cell import state_of
from afr_clip.sweep.job import Cell
from afr_clip.training.schedule import optimizer_factory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """How many images a cell sees.

    Attributes:
        trained: Images to train on, times epochs.
        scored: Images to score.
    """

    trained: int
    scored: int

    def __add__(self, other: "Images") -> "Images":
        return Images(self.trained + other.trained, self.scored + other.scored)


@dataclass(frozen=True)
class Pace:
    """Seconds an image.

    Attributes:
        training: Of one image in one epoch.
        scoring: Of one image.
        source: How it is known.
    """

    training: float
    scoring: float
    source: str

    def seconds(self, images: Images) -> float:
        """Return what some images take."""
        return self.training * images.trained + self.scoring * images.scored


Count = Callable[[DatasetSpec], int]
"""Counts the images of a dataset."""


def check_datasets(cells: Sequence[Cell]) -> None:
    """Look for every dataset of some cells.

    Args:
        cells: Their configs name the datasets.

    Raises:
        DataError: If one is not there, or not as it must be. What a protocol with legs lacks is absent there, no error.
    """
    count = _counter()
    for cell in cells:
        if not isinstance(cell.job, ProtocolJob):
            images_of(cell, count)


def images_of(cell: Cell, count: Count) -> Images:
    """Count what a cell trains on and scores, in all its trainings."""
    total = Images(0, 0)
    for job in cell.trainings:
        images, limit = count(dataset_spec(job.auxiliary, job)), job.trainer.limit_train_batches
        trained = min(images, limit * job.data.batch_size) if isinstance(limit, int) else round(images * limit)
        scored = sum(count(dataset_spec(target, job)) for target in job.targets)
        total += Images(trained * job.trainer.max_epochs, scored)
    return total


def _counter() -> Count:
    return functools.cache(lambda spec: len(read_samples(spec)))


def print_cost(folder: Path, cells: Sequence[Cell], times: int = 1) -> None:
    """Print the cells of a sweep, and what those that are not done would cost.

    Args:
        folder: The sweep's folder.
        cells: All cells.
        times: How often each would run, with other values.

    Raises:
        DataError: If a dataset is not there; the cells are printed before.
    """
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(title=f"{len(cells)} cells")
    for column in ("setting", "seed", "folder", "state"):
        table.add_column(column, overflow="fold")
    for cell in cells:
        table.add_row(cell.setting, str(cell.seed), str(cell.folder.relative_to(folder)), state_of(cell.folder).name)
    console.print(table)
    count = _counter()
    # A cell that stands under two settings runs once.
    images = {cell.folder: images_of(cell, count) for cell in cells}
    todo = [images[path] for path in images if state_of(path).name != "done"]
    total = sum(todo, Images(0, 0))
    lines = [
        f"{len(todo) * times} cells are to run: {total.trained * times:,} images to train on (counted once an epoch), "
        f"{total.scored * times:,} images to score."
    ]
    if todo:
        pace = measured_pace([(path, images[path]) for path in images]) or probe(cells[0].trainings[0])
        each = ", ".join(sorted({_duration(pace.seconds(one)) for one in todo}))
        whole = _duration(pace.seconds(total) * times)
        lines.append(f"Estimate: {each} a cell, {whole} one after the other, from {pace.source}.")
    sys.stdout.write("\n".join(lines) + "\n")


def measured_pace(cells: Sequence[tuple[Path, Images]]) -> Pace | None:
    """Take the pace from cells that are done.

    Args:
        cells: Folders and images.

    Returns:
        The mean pace; ``None`` where no cell is done, or none says how long it took.
    """
    trained = scored = num = 0
    training = scoring = 0.0
    for folder, images in cells:
        manifest = folder / "manifest.json"
        if state_of(folder).name != "done" or not manifest.exists():
            continue
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        if "seconds_training" not in facts:
            continue
        num, trained, scored = num + 1, trained + images.trained, scored + images.scored
        training += facts["seconds_training"]
        scoring += sum(facts.get("seconds_scoring", {}).values())
    if not num:
        return None
    source = f"{num} finished cells of this sweep, without starting up"
    return Pace(training / max(1, trained), scoring / max(1, scored), source)


def probe(job: TrainingJob) -> Pace:
    """Time one training step and one scored batch on this machine; loading is included, starting up is not."""
    logger.info("No cell is finished yet, so one training step and one batch are timed.")
    if job.num_threads is not None:
        torch.set_num_threads(job.num_threads)
    torch.manual_seed(job.seed)
    auxiliary, *targets = (load_dataset(dataset_spec(one, job)) for one in (job.auxiliary, *job.targets[:1]))
    device = torch.device("cuda" if torch.cuda.is_available() and job.trainer.accelerator != "cpu" else "cpu")
    towers = load_towers(job.backbone, needs_cnn=job.module.network.needs_cnn)
    data = AnomalyDataModule(auxiliary, targets, replace(data_settings(job, towers), num_workers=0))
    module = build_module(job, towers).to(device)
    loss = AnomalyLoss(**vars(job.loss))
    optimizer = optimizer_factory(job.optimizer)(module.trainable_parameters())

    started = time.perf_counter()
    batch = next(iter(data.train_dataloader())).to(device)
    prediction = module(batch)
    loss(prediction.trained_maps, prediction.image_score, batch.mask, batch.is_anomalous).total.backward()
    optimizer.step()
    step = (time.perf_counter() - started) / len(batch.samples)
    started, scored = time.perf_counter(), 0.0
    for name in data.targets:
        with torch.inference_mode():
            batch = next(iter(data.target_dataloader(name))).to(device)
            float(module(batch).anomaly_map.sum())  # waits for the GPU
        scored = (time.perf_counter() - started) / len(batch.samples)
    return Pace(step, scored, "one training step and one scored batch on this machine, the first, so rather too long")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
