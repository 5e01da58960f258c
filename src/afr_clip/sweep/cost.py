"""What a sweep would cost: images from the datasets, seconds from finished cells or a short probe."""

import functools
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

import torch
from rich.table import Table
from rich.text import Text

from afr_clip.clip.load import load_towers
from afr_clip.data.disk.loaded import LoadedDataset, load_dataset
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.disk.separation import TrainedOn, refuse_overlap
from afr_clip.data.errors import DataError
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.files import counted, shown
from afr_clip.losses.total import AnomalyLoss
from afr_clip.reports.layout.text import terminal
from afr_clip.reports.record.schema import CellEnd, Durations, read_record
from afr_clip.run.build import build_module, data_settings, dataset_spec
from afr_clip.run.job import ProtocolJob, TrainingJob
from afr_clip.run.model import check_model
from afr_clip.sweep.cells import DONE, state_of
from afr_clip.sweep.job import Cell, SweepJob
from afr_clip.training.schedule import optimizer_factory

logger = logging.getLogger(__name__)


class Images(NamedTuple):
    """The images of some cells: those trained on, once per epoch, and those scored."""

    trained: int
    scored: int


class Pace(NamedTuple):
    """Seconds per image and epoch of training, per scored image and per start of a cell, and how they are known."""

    training: float
    scoring: float
    source: str
    starting: float = 0.0

    def seconds(self, images: Images, num_cells: int = 1) -> float:
        """Return how long some cells with these images take."""
        return self.starting * num_cells + self.training * images.trained + self.scoring * images.scored


@functools.cache
def count(dataset: DatasetSpec) -> int:
    """Count the images of a dataset, once.

    Raises:
        DataError: If it is missing or damaged.
    """
    return len(read_samples(dataset))


@functools.cache
def _loaded(dataset: DatasetSpec) -> LoadedDataset | str:
    try:
        return load_dataset(dataset)
    except DataError as error:
        return str(error)


def find_faults(cells: Sequence[Cell], *, with_data: bool) -> dict[str, list[str]]:
    """Find out before any cell starts which cannot run: their models and, in addition, their datasets.

    A protocol with legs may lack datasets.

    Returns:
        The settings that share a fault, by the fault.
    """
    faults: dict[str, list[str]] = {}
    for cell in cells:
        for job in cell.trainings:
            try:
                check_model(job)
            except ValueError as error:
                faults.setdefault(str(error), []).append(cell.setting)
        if with_data and not isinstance(cell.job, ProtocolJob):
            for fault in _faults_of_data(cell.job):
                faults.setdefault(fault, []).append(cell.setting)
    return faults


def _faults_of_data(job: TrainingJob) -> Iterator[str]:
    auxiliary = _loaded(dataset_spec(job.auxiliary, job))
    if isinstance(auxiliary, str):
        yield auxiliary
    for target in (_loaded(dataset_spec(target, job)) for target in job.targets):
        if isinstance(target, str):
            yield target
        elif isinstance(auxiliary, LoadedDataset):
            try:
                refuse_overlap(TrainedOn.of(auxiliary), target)
            except DataError as error:
                yield str(error)


def images_of(cell: Cell) -> Images:
    """Count what a cell trains on and scores, in all its trainings."""
    trained = scored = 0
    for job in cell.trainings:
        images, limit = count(dataset_spec(job.auxiliary, job)), job.trainer.limit_train_batches
        per_epoch = min(images, limit * job.data.batch_size) if isinstance(limit, int) else round(images * limit)
        trained += per_epoch * job.trainer.max_epochs
        scored += sum(count(dataset_spec(target, job)) for target in job.targets)
    return Images(trained, scored)


def print_cost(job: SweepJob) -> None:
    """Print the cells of a sweep, and what those that are not done would cost.

    Raises:
        DataError: If a dataset is missing; the cells are printed before.
    """
    console = terminal()
    table = Table(title=counted(len(job.cells), "cell"))
    for column in ("setting", "seed", "folder", "state"):
        table.add_column(column, overflow="fold")
    for cell in job.cells:
        folder = str(cell.folder.relative_to(job.folder))
        table.add_row(Text(shown(cell.setting)), str(cell.seed), Text(shown(folder)), state_of(cell.folder).name)
    console.print(table)
    times = job.num_trials if job.space else 1
    cells = {cell.folder: cell for cell in job.cells}  # two settings with the same folder run once
    todo = [images_of(cell) for folder, cell in cells.items() if state_of(folder).name != "done"]
    total = Images(sum(one.trained for one in todo) * times, sum(one.scored for one in todo) * times)
    sys.stdout.write(
        f"{counted(len(todo) * times, 'cell')} to run: {counted(total.trained, 'image')} to train on (counted once "
        f"an epoch), {counted(total.scored, 'image')} to score.\n"
    )
    if todo:
        pace = measured_pace(list(cells.values())) or probe(job.cells[0].trainings[0])
        each = ", ".join(sorted({duration(pace.seconds(one)) for one in todo}))
        whole = duration(pace.seconds(total, len(todo) * times))
        sys.stdout.write(f"Estimate: {each} a cell, {whole} one after the other, from {pace.source}.\n")


def measured_pace(cells: Sequence[Cell]) -> Pace | None:
    """Return the mean pace of finished cells; ``None`` if no manifest says how long one took."""
    seen: list[Images] = []
    starts: list[float] = []
    training = scoring = 0.0
    for cell in cells:
        manifest = cell.folder / "manifest.json"
        facts = read_record(manifest, Durations) if manifest.exists() else {}
        if state_of(cell.folder).name == "done" and facts.get("seconds_training") is not None:
            seen.append(images_of(cell))
            of_training, of_scoring = facts["seconds_training"], sum((facts.get("seconds_scoring") or {}).values())
            training, scoring = training + of_training, scoring + of_scoring
            whole = read_record(cell.folder / DONE, CellEnd).get("seconds")
            if whole is not None and "resumed_from" not in facts:  # not of a cell that was run in pieces
                starts.append(max(0.0, whole - of_training - of_scoring))
    if not seen:
        return None
    trained, scored = (max(1, sum(images)) for images in zip(*seen, strict=True))
    source = f"{counted(len(seen), 'finished cell')} of this sweep{'' if starts else ', without starting up'}"
    return Pace(training / trained, scoring / scored, source, fmean(starts) if starts else 0.0)


def probe(job: TrainingJob) -> Pace:
    """Time the start of a cell, one training step and one scored batch on this machine."""
    logger.info("No cell is finished yet, so a start, one training step and one batch are timed.")
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import afr_clip.run.train"], check=False, capture_output=True)
    if job.num_threads is not None:
        torch.set_num_threads(job.num_threads)
    torch.manual_seed(job.seed)
    auxiliary, *targets = (load_dataset(dataset_spec(one, job)) for one in (job.auxiliary, *job.targets[:1]))
    device = torch.device("cuda" if torch.cuda.is_available() and job.trainer.accelerator != "cpu" else "cpu")
    towers = load_towers(job.backbone, needs_cnn=job.module.network.needs_cnn)
    data = AnomalyDataModule(auxiliary, targets, replace(data_settings(job, towers), num_workers=0))
    module, loss = build_module(job, towers).to(device), AnomalyLoss(**vars(job.loss))
    optimizer = optimizer_factory(job.optimizer)(module.trainable_parameters())

    started = time.perf_counter()
    starting = started - begun
    batch = next(iter(data.train_dataloader())).to(device)
    prediction = module(batch)
    loss(prediction.trained_maps, prediction.trained_scores, batch.mask, batch.is_anomalous).total.backward()
    optimizer.step()
    step = (time.perf_counter() - started) / len(batch.samples)
    started, scored = time.perf_counter(), 0.0
    for name in data.targets:
        with torch.inference_mode():
            batch = next(iter(data.target_dataloader(name))).to(device)
            float(module(batch).anomaly_map.sum())  # waits for the GPU
        scored = (time.perf_counter() - started) / len(batch.samples)
    source = "a start, one training step and one scored batch on this machine, the first, so rather too long"
    return Pace(step, scored, source, starting)


def duration(seconds: float) -> str:
    """Write seconds in the unit that reads best."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
