"""A whole protocol: one training after the other, each scored on its own targets, then one report over all."""

import functools
import gc
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from afr_clip.data.disk.layouts import title_of
from afr_clip.data.disk.loaded import LoadedDataset, load_dataset
from afr_clip.data.disk.reading import DatasetSpec
from afr_clip.data.disk.separation import TrainedOn, refuse_overlap
from afr_clip.data.errors import MissingDataError
from afr_clip.processes.place import is_first
from afr_clip.processes.signals import note_run
from afr_clip.processes.together import from_first, require_same
from afr_clip.reports.compare.report import compare
from afr_clip.reports.record.results import as_content
from afr_clip.reports.record.run_folder import holds_run, open_run, write_json
from afr_clip.run.build import dataset_spec, describe
from afr_clip.run.fit import RunData, scored_before, train_and_score
from afr_clip.run.job import ProtocolJob, TrainingJob
from afr_clip.run.run import start_run

logger = logging.getLogger(__name__)

LookUp = Callable[[DatasetSpec], LoadedDataset | str]
"""Finds a dataset, or says in a sentence why it is not there."""

Absence = dict[str, str]
"""Title and reason of a dataset that is not there."""


@dataclass(frozen=True)
class Leg:
    """One training of a protocol.

    Attributes:
        job: The job that a separate training would have.
        datasets: What it trains on and scores; ``None`` if its auxiliary dataset is absent.
        absent: The datasets that are, by name.
    """

    job: TrainingJob
    datasets: RunData | None
    absent: dict[str, Absence]


def train_legs(protocol: ProtocolJob) -> Path:
    """Finish every leg that can run, and write a report on all of them.

    Raises:
        MissingDataError: If there is no dataset to train on, or an unfinished leg lost the one it was trained on.
        RunFolderError: If a folder holds a run with another config.
    """
    folder = protocol.folder
    note_run(folder, repeats=True)
    from_first(
        lambda: open_run(folder, resume=False, config={"task_name": "train"})
    )  # a single run may have been written there
    jobs = [_open_leg(job) for job in protocol.legs]
    look_up = functools.cache(_look_up)
    legs = [_plan(job, look_up) for job in jobs]
    for leg in legs:
        require_same(_digests(leg))
    if all(leg.datasets is None for leg in legs):
        reasons = " ".join(leg.absent[leg.job.auxiliary.name]["reason"] for leg in legs)
        msg = f"A protocol needs a dataset to train on, but none was found. {reasons}"
        raise MissingDataError(msg)
    for leg in legs:
        _warn_of_absence(leg)
    for leg in legs:
        _run(leg)
        gc.collect()  # networks and trainers hold each other, and the next leg needs their memory
        torch.cuda.empty_cache()
    return from_first(lambda: compare([leg.job.folder for leg in legs]).write(folder / "report").path)


def _open_leg(job: TrainingJob) -> TrainingJob:
    job = job.resuming(from_first(lambda: holds_run(job.folder)))  # repeating the command resumes
    from_first(lambda: open_run(job.folder, resume=job.resume, config=job.record.config))
    return job


def _digests(leg: Leg) -> dict[str, str]:
    data = () if leg.datasets is None else (leg.datasets.auxiliary, *leg.datasets.targets)
    return dict.fromkeys(leg.absent, "absent") | {dataset.spec.name: dataset.digest.sha256 for dataset in data}


def _look_up(spec: DatasetSpec) -> LoadedDataset | str:
    """Load a dataset; one that lacks files counts as absent, because a number on part of it would be different."""
    try:
        return load_dataset(spec)
    except MissingDataError as error:
        return str(error)


def _plan(job: TrainingJob, look_up: LookUp) -> Leg:
    """Find the datasets of a leg before anything is trained."""
    auxiliary = look_up(dataset_spec(job.auxiliary, job))
    if isinstance(auxiliary, str):
        return _without_training(job, auxiliary)
    before = from_first(lambda: scored_before(job)) or {}
    targets: list[LoadedDataset] = []
    facts: dict[str, Mapping[str, Any]] = {}
    absent: dict[str, Absence] = {}
    for wanted in job.targets:
        name, target = wanted.name, look_up(dataset_spec(wanted, job))
        if isinstance(target, LoadedDataset):
            refuse_overlap(TrainedOn.of(auxiliary), target)
            targets.append(target)
            facts[name] = describe(target)
        elif name in before:
            facts[name] = before[name].facts
        else:
            absent[name] = {"title": title_of(name, wanted.layout), "reason": target}
    return Leg(job, RunData(auxiliary, tuple(targets), facts), absent)


def _without_training(job: TrainingJob, reason: str) -> Leg:
    if from_first(lambda: holds_run(job.folder)):
        raise MissingDataError(reason)  # a finished training must not be recorded as absent
    title = title_of(job.auxiliary.name, job.auxiliary.layout)
    absent = {job.auxiliary.name: {"title": title, "reason": reason}}
    for target in job.targets:
        why = f"There is no model to score it with, because {title} is absent."
        absent[target.name] = {"title": title_of(target.name, target.layout), "reason": why}
    return Leg(job, None, absent)


def _warn_of_absence(leg: Leg) -> None:
    auxiliary = leg.job.auxiliary.name
    if auxiliary in leg.absent:
        logger.warning("Nothing is trained in %s: %s", leg.job.folder, leg.absent[auxiliary]["reason"])
        return
    for absence in leg.absent.values():
        logger.warning("%s is left out of %s: %s", absence["title"], leg.job.folder, absence["reason"])


def _run(leg: Leg) -> None:
    run = start_run(leg.job)
    run.manifest["absent"] = leg.absent
    if leg.datasets is None:
        run.note(targets={})
        if is_first():
            write_json(leg.job.folder / "results.json", as_content([], run.manifest))
        run.finish()
        return
    logger.info("Next: %s, training on %s.", leg.job.folder, leg.job.auxiliary.name)
    train_and_score(leg.job, run, leg.datasets)
