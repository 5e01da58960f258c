"""What a sweep would cost: images from the datasets, seconds from finished cells or a short probe."""

import functools
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from rich.text import Text

from afr_clip.clip.load import load_towers
from afr_clip.clip.precision import choose_precision
from afr_clip.data.disk.layouts import dataset_row, title_of
from afr_clip.data.disk.loaded import LoadedDataset, load_dataset
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.data.disk.separation import TrainedOn, refuse_overlap
from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.data.records import AnomalyBatch
from afr_clip.files import counted, shown
from afr_clip.losses.total import AnomalyLoss
from afr_clip.models.interface import StagedNetwork
from afr_clip.processes.memory import measuring_memory
from afr_clip.reports.layout.text import terminal
from afr_clip.reports.record.schema import CellEnd, Durations, read_record
from afr_clip.run.build import build_module, data_settings, dataset_spec
from afr_clip.run.job import EvaluationJob, ProtocolJob, TrainingJob
from afr_clip.run.model import check_model
from afr_clip.settings import DatasetSettings
from afr_clip.sweep.cells import DONE, state_of
from afr_clip.sweep.job import Cell, SweepJob
from afr_clip.training.module import AnomalyDetectionModule
from afr_clip.training.schedule import optimizer_factory, optimizer_of

logger = logging.getLogger(__name__)

PROBE_REPEATS = 3
"""Steps and batches that a probe times; it takes the quickest."""

PROBE_SECONDS = 6.0
"""A probe that has run longer than this stops after its second repeat."""

LARGE = 336
"""Pixels from which a CPU takes as long for a batch as for its images one by one."""

BYTES_OF_PICTURES = 20e6
"""What a run writes in addition to its weights, roughly."""


class Images(NamedTuple):
    """The images of some cells: those trained on, once per epoch, and those scored."""

    trained: int
    scored: int


class Pace(NamedTuple):
    """Seconds per image and epoch of training, per scored image and per start of a cell, and how they are known.

    Attributes:
        memory: MiB that training and scoring took at most, of the GPU if there is one; 0 if that was not measured.
        disk: Bytes that a run leaves on disk.
        by_ones: Whether it was measured with one image at a time.
    """

    training: float
    scoring: float
    source: str
    starting: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    by_ones: bool = False

    def seconds(self, images: Images, num_cells: int = 1) -> float:
        """Return how long some cells with these images take."""
        return self.starting * num_cells + self.training * images.trained + self.scoring * images.scored


@functools.cache
def missing(dataset: DatasetSpec) -> MissingDataError | None:
    """Return why a dataset cannot be read, if files of it are missing.

    Raises:
        DataError: If it is damaged.
    """
    try:
        read_samples(dataset)
    except MissingDataError as error:
        return error
    return None


@functools.cache
def count(dataset: DatasetSpec) -> int:
    """Count the images of a dataset, once; of one that is missing, the published ones.

    Raises:
        DataError: If it is damaged, or missing without published numbers.
    """
    error = missing(dataset)
    if error is None:
        return len(read_samples(dataset))
    row = dataset_row(dataset.layout)
    if row.total is None:
        raise error
    return sum(sum(row.counts.get(name, ())) for name in dataset.categories or ()) or sum(row.total)


@functools.cache
def _loaded(dataset: DatasetSpec) -> LoadedDataset | DataError:
    try:
        return load_dataset(dataset)
    except DataError as error:
        return error


def find_faults(cells: Sequence[Cell], *, with_data: bool, may_lack: bool = False) -> dict[str, list[str]]:
    """Find out before any cell starts which cannot run: their models and, in addition, their datasets.

    A protocol with legs may lack datasets.

    Args:
        may_lack: Whether others may lack them too, as where nothing will run.

    Returns:
        The settings that share a fault, by the fault.
    """
    faults: dict[str, list[str]] = {}
    for cell in cells:
        for job in cell.runs:
            try:
                check_model(job)
            except ValueError as error:
                faults.setdefault(str(error), []).append(cell.setting)
        if with_data and not isinstance(cell.job, ProtocolJob):
            for fault in _faults_of_data(cell.job):
                if not (may_lack and isinstance(fault, MissingDataError)):
                    faults.setdefault(str(fault), []).append(cell.setting)
    return faults


def _faults_of_data(job: TrainingJob | EvaluationJob) -> Iterator[DataError]:
    auxiliary = _loaded(dataset_spec(job.auxiliary, job)) if isinstance(job, TrainingJob) else None
    if isinstance(auxiliary, DataError):
        yield auxiliary
    for target in (_loaded(dataset_spec(target, job)) for target in job.targets):
        if isinstance(target, DataError):
            yield target
        elif isinstance(auxiliary, LoadedDataset):
            try:
                refuse_overlap(TrainedOn.of(auxiliary), target)
            except DataError as error:
                yield error


def is_absent(cell: Cell) -> bool:
    """Whether a cell only scores a dataset that is missing. A sweep skips it, as a protocol does."""
    return isinstance(cell.job, EvaluationJob) and any(missing(dataset_spec(one, cell.job)) for one in cell.job.targets)


def images_of(cell: Cell) -> Images:
    """Count what a cell trains on and scores, in all its runs."""
    trained = scored = 0
    for job in cell.runs:
        if isinstance(job, TrainingJob):
            images, limit = count(dataset_spec(job.auxiliary, job)), job.trainer.limit_train_batches
            per_epoch = min(images, limit * job.data.batch_size) if isinstance(limit, int) else round(images * limit)
            trained += per_epoch * job.trainer.max_epochs
        scored += sum(count(dataset_spec(target, job)) for target in job.targets)
    return Images(trained, scored)


def print_cost(jobs: Sequence[SweepJob]) -> None:
    """Print the cells of a sweep, what is missing on disk, and what those that are not done would cost.

    Raises:
        DataError: If a dataset is damaged; the cells are printed before.
    """
    table = Table(title=counted(sum(len(job.cells) for job in jobs), "cell"))
    for column in ("setting", "seed", "folder", "state"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        for cell in job.cells:
            where = str(cell.folder.relative_to(job.folder))
            table.add_row(Text(shown(cell.setting)), str(cell.seed), Text(shown(where)), state_of(cell.folder).name)
        table.add_section()
    terminal().print(table)
    cells = {cell.folder: cell for job in jobs for cell in job.cells}  # two settings with the same folder run once
    for sentence in _absences(cells.values()):
        sys.stdout.write(f"{sentence}\n")
    todo = {folder: images_of(cell) for folder, cell in cells.items() if state_of(folder).name != "done"}
    times = jobs[0].num_trials if jobs[0].space else 1
    trained, scored = (times * sum(one[number] for one in todo.values()) for number in (0, 1))
    sys.stdout.write(
        f"{counted(len(todo) * times, 'cell')} to run: {counted(trained, 'image')} to train on (counted once "
        f"an epoch), {counted(scored, 'image')} to score.\n"
    )
    if todo:
        _print_estimate(jobs[0], cells.values(), todo, times)


def _print_estimate(job: SweepJob, cells: Iterable[Cell], todo: Mapping[Path, Images], times: int) -> None:
    """Print time, memory and disk; cells of one method on one backbone are taken to need the same for an image."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.runs[0].module.name, cell.runs[0].backbone.name), []).append(cell)
    whole, memory, disk, by_ones = 0.0, 0.0, 0.0, False
    for (method, backbone), group in groups.items():
        own = [cell for cell in group if cell.folder in todo]
        if not own:
            continue
        pace = measured_pace(group) or probe(own[0].runs[0])
        each = sorted(pace.seconds(todo[cell.folder]) for cell in own)
        span = " to ".join(dict.fromkeys((duration(each[0]), duration(each[-1]))))
        seconds = times * sum(pace.seconds(todo[cell.folder], 1) for cell in own)
        whole, memory, by_ones = whole + seconds, max(memory, pace.memory), by_ones or pace.by_ones
        disk += times * pace.disk * sum(len(cell.runs) for cell in own)
        name = f" of {method} on {backbone}" if len(groups) > 1 else ""
        sys.stdout.write(
            f"Estimate{name}: {span} a cell, {duration(seconds)} one after the other ({pace.training:.3g} s for an "
            f"image of training, {pace.scoring:.3g} s for a scored one), from {pace.source}.\n"
        )
    if len(groups) > 1 or job.jobs > 1:
        sys.stdout.write(f"Together: {duration(whole / job.jobs)} with jobs={job.jobs}.\n")
    free = shutil.disk_usage(job.folder).free
    sys.stdout.write(f"Disk: about {disk / 1e9:.2g} GB for the runs; {free / 1e9:.0f} GB are free.\n")
    if memory:
        kind = "of a GPU" if torch.cuda.is_available() else "of the machine"
        small = " with one image at a time; a batch takes more" if by_ones else ""
        sys.stdout.write(f"Memory {kind}: {memory / 2**10:.1f} GiB for a cell{small}. Cells at a time: {job.jobs}.\n")


def _absences(cells: Iterable[Cell]) -> Iterator[str]:
    """Yield a sentence on the datasets that are missing."""
    specs = [
        dataset_spec(one, job)
        for cell in cells
        for job in cell.runs
        for one in (*((job.auxiliary,) if isinstance(job, TrainingJob) else ()), *job.targets)
    ]
    absent = {title_of(spec.name, spec.layout): error for spec in specs if (error := missing(spec)) is not None}
    if absent:
        yield f"Not on disk, and counted as published: {', '.join(absent)}. See afr-clip datasets list."


def measured_pace(cells: Sequence[Cell]) -> Pace | None:
    """Return the mean pace of finished cells; ``None`` if no manifest says how long one took."""
    seen: list[Images] = []
    starts: list[float] = []
    training = scoring = 0.0
    cells = [cell for cell in cells if state_of(cell.folder).name == "done"]
    for cell in cells:
        manifests = [path for path in (run / "manifest.json" for run in _run_folders(cell)) if path.exists()]
        facts = [read_record(path, Durations) for path in manifests]
        of_training = sum(fact.get("seconds_training") or 0.0 for fact in facts)
        of_scoring = sum(sum((fact.get("seconds_scoring") or {}).values()) for fact in facts)
        if of_training or of_scoring:
            seen.append(images_of(cell))
            training, scoring = training + of_training, scoring + of_scoring
            whole = read_record(cell.folder / DONE, CellEnd).get("seconds")
            if whole is not None and not any("resumed_from" in fact for fact in facts):  # not of one run in pieces
                starts.append(max(0.0, whole - of_training - of_scoring))
    if not seen:
        return None
    trained, scored = (max(1, sum(images)) for images in zip(*seen, strict=True))
    source = f"{counted(len(seen), 'finished cell')} of this sweep{'' if starts else ', without starting up'}"
    sizes = [path.stat().st_size for cell in cells for path in cell.folder.rglob("*") if path.is_file()]
    disk = sum(sizes) / sum(len(cell.runs) for cell in cells)
    return Pace(training / trained, scoring / scored, source, fmean(starts) if starts else 0.0, disk=disk)


def _run_folders(cell: Cell) -> list[Path]:
    return [leg.folder for leg in cell.runs] if isinstance(cell.job, ProtocolJob) else [cell.folder]


def probe(job: TrainingJob | EvaluationJob) -> Pace:
    """Time the start of a cell, a training step and a scored batch on this machine, of at most `PROBE_REPEATS` each."""
    logger.info("No cell of %s is finished yet, so a start, a training step and a batch are timed.", job.module.name)
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import afr_clip.run.train"], check=False, capture_output=True)
    if job.num_threads is not None:
        torch.set_num_threads(job.num_threads)
    torch.manual_seed(job.seed)
    device = torch.device("cuda" if torch.cuda.is_available() and job.trainer.accelerator != "cpu" else "cpu")
    precision = choose_precision(job.trainer.precision, job.trainer.accelerator)["chosen"]
    towers = load_towers(job.backbone, needs_cnn=job.module.network.needs_cnn, precision=precision)
    settings = replace(data_settings(job, towers), num_workers=0)
    if is_slow := device.type == "cpu" and job.backbone.image_size >= LARGE:
        settings = replace(settings, batch_size=1, eval_batch_size=1)
    half = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(precision)
    starting = time.perf_counter() - begun
    autocast = torch.autocast(device.type, half, enabled=half is not None)
    with TemporaryDirectory() as folder, measuring_memory(device) as peak, autocast:
        auxiliary, target = _probe_data(job, Path(folder))
        data = AnomalyDataModule(auxiliary, [target], settings)
        module = build_module(job, towers).to(device)
        step = _time_step(job, module, data) if isinstance(job, TrainingJob) else 0.0
        module.eval()
        with torch.inference_mode():
            name = next(iter(data.targets))
            scored = _quickest(
                lambda: data.target_dataloader(name), lambda b: float(module(b).anomaly_map.sum()), device
            )
        used = peak() or 0.0
    small = ", one image at a time" if is_slow else ""
    source = f"a start, one training step and one scored batch on this machine{small}"
    weights = sum(p.numel() for p in module.trainable_parameters())
    disk = 16 * weights + BYTES_OF_PICTURES  # weights twice, two moments
    return Pace(step, scored, source, starting, used, disk, is_slow)


def _time_step(job: TrainingJob, module: AnomalyDetectionModule, data: AnomalyDataModule) -> float:
    loss = AnomalyLoss(**vars(job.loss))
    optimizer = optimizer_of(module.network, optimizer_factory(job.optimizer))
    if isinstance(module.network, StagedNetwork):
        module.network.begin_epoch(job.trainer.max_epochs - 1)  # the last stage takes most epochs

    def train(batch: AnomalyBatch) -> None:
        prediction = module(batch)
        optimizer.zero_grad()
        seen, truth = (prediction.trained_maps, prediction.trained_scores), (batch.mask, batch.is_anomalous)
        total = loss(*seen, *truth, prediction.patch_tokens, prediction.prototypes).total
        total.backward()
        optimizer.step()
        float(total.detach())  # waits for the GPU

    return _quickest(data.train_dataloader, train, module.device)


def _quickest(
    loader: Callable[[], Iterable[AnomalyBatch]], work: Callable[[AnomalyBatch], object], device: torch.device
) -> float:
    """Return the seconds an image that loading a batch and working on it takes; the first time may take longer."""
    best, begun = inf, time.perf_counter()
    for repeat in range(PROBE_REPEATS):
        started = time.perf_counter()
        batch = next(iter(loader())).to(device)
        work(batch)
        best = min(best, (time.perf_counter() - started) / len(batch.samples))
        if repeat and time.perf_counter() - begun > PROBE_SECONDS:  # the first one also embeds the prompts
            break
    return best


def _noise(folder: Path, side: int, seed: int) -> DatasetSpec:
    """Write two good pictures of noise, so that each has a reference, and a bad one."""
    pixels = np.random.default_rng(seed).integers(256, size=(side, side, 3), dtype=np.uint8)
    for name in ("test/good/0.png", "test/good/1.png", "test/defect/2.png", "ground_truth/defect/2_mask.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels if "test" in name else (pixels[..., 0] > 250).astype(np.uint8) * 255).save(path)
        pixels = 255 - pixels
    return DatasetSpec(folder.name, "folder", folder)


def _probe_data(job: TrainingJob | EvaluationJob, folder: Path) -> tuple[LoadedDataset | None, LoadedDataset]:
    """Load what a job trains on, if anything, and what it scores first; noise stands in for what is missing."""

    def pictures(wanted: Sequence[DatasetSettings], number: int) -> LoadedDataset:
        found = _loaded(dataset_spec(wanted[0], job)) if wanted else None
        if found is None or isinstance(found, MissingDataError):  # other noise for what is scored than for training
            return load_dataset(_noise(folder / str(number), job.backbone.image_size, number))
        if isinstance(found, DataError):
            raise found
        return found

    auxiliary = pictures([job.auxiliary], 0) if isinstance(job, TrainingJob) else None
    return auxiliary, pictures(job.targets, 1)


def duration(seconds: float) -> str:
    """Write seconds in the unit that reads best."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if hours < 72 else f"{hours // 24} days {hours % 24} h"
