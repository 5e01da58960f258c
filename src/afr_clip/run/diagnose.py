"""Measure what the text does in a network: how much its terms weigh, and how the metrics change with another text."""

import logging
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from afr_clip.data.disk.loaded import LoadedDataset, load_dataset
from afr_clip.data.disk.separation import TrainedOn, refuse_overlap
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.data.records import AnomalyBatch
from afr_clip.metrics.average import METRICS, CategoryResult, macro_average
from afr_clip.metrics.image_only import image_only_bound, partners_of
from afr_clip.metrics.protocol import DatasetMetrics
from afr_clip.models.afr_clip.network import AFRCLIP
from afr_clip.models.afr_clip.terms import Terms, recorded_terms, without_text_term
from afr_clip.models.checkpoint import read_checkpoint
from afr_clip.models.interface import TappedNetwork
from afr_clip.models.method_settings import CategoryNames
from afr_clip.models.text_seam import (
    Text,
    TextSource,
    changed_text,
    has_text,
    named,
    stateful_of,
    with_prototypes_swapped,
    without_stateless,
)
from afr_clip.processes.signals import interruptible
from afr_clip.reports.compare.paired import bootstrap_interval
from afr_clip.reports.diagnosis import (
    AS_IT_IS,
    NO_STATELESS,
    NO_TERM,
    OBJECT,
    OTHER_CATEGORY,
    PARTNER,
    SWAPPED,
    TERMS,
    WRONG_CATEGORY,
    diagnosis_file,
    diagnosis_parts,
)
from afr_clip.reports.layout.text import terminal, to_rich
from afr_clip.reports.page import write_page
from afr_clip.reports.record.manifest import build_manifest
from afr_clip.reports.record.results import RESULTS, read_results
from afr_clip.reports.record.run_folder import RunFolderError, hold, write_json
from afr_clip.run.build import build_engine, data_settings, dataset_spec, describe
from afr_clip.run.evaluate import build_scoring
from afr_clip.run.job import DiagnosisJob
from afr_clip.run.model import check_model, provenance
from afr_clip.run.run import Run, finish_run, prepare
from afr_clip.training.module import AnomalyDetectionModule

logger = logging.getLogger(__name__)

Intervention = Callable[[Any], AbstractContextManager[None]]
"""Opens a block in which the text of a network is changed."""


def read_finished(folder: Path) -> dict[str, Any]:
    """Read the manifest of a finished train or evaluate run.

    Raises:
        RunFolderError: If the folder does not hold one.
    """
    path = folder / RESULTS
    manifest: dict[str, Any] = read_results(path)[0]["manifest"] if path.is_file() else {}
    if manifest.get("command") in ("train", "evaluate"):
        return manifest
    inside = sorted(str(found.parent) for found in folder.glob(f"*/{RESULTS}"))
    if inside:
        advice = f"Pass one of the runs inside it, for example {inside[0]}."
    elif (folder / "checkpoints").is_dir():
        advice = "Its training has not finished: continue it with the same command and resume=true."
    else:
        advice = "Pass the folder of a train or evaluate run, or diagnose an untrained network with untrained=true."
    msg = f"{folder} must be the folder of a finished train or evaluate run, but holds no {RESULTS} of one. {advice}"
    raise RunFolderError(msg)


def diagnose(job: DiagnosisJob) -> None:
    """Run ``afr-clip diagnose``."""
    with interruptible():
        check_model(job)
        if not os.access(job.folder, os.W_OK):  # scoring takes minutes, so not only when it is over
            msg = (
                f"{job.folder} is not writable, but the diagnosis is saved there. "
                "Copy the run, or change the folder's permissions."
            )
            raise RunFolderError(msg)
        hold(job.folder, "diagnose")
        content = measure_text(job)
        write_json(job.folder / diagnosis_file(untrained=job.untrained), content)
        console = terminal(200)
        for heading, grids, notes in diagnosis_parts(content):
            for grid in grids:
                console.print(to_rich([grid], f"{heading}: {grid.name}"))
            for note in notes:
                console.print(note, markup=False, highlight=False)
        results = job.folder / RESULTS
        if results.exists() and read_results(results)[0]["results"]:  # a page is about a scored run
            write_page(job.folder)
        if content["manifest"]["backbone"]["random_weights"]:
            logger.warning("These numbers come from RANDOM backbone weights and say nothing about the method.")
        finish_run(job.folder)


def measure_text(job: DiagnosisJob) -> dict[str, Any]:
    """Build the network, score the datasets with every change of the text, and return the content of the JSON file."""
    checkpoint = None if job.checkpoint is None else read_checkpoint(job.checkpoint)
    prepare(job)
    record = job.record
    run = Run(job.folder, build_manifest(record.command, record.overrides, record.config), is_written=False)
    targets = [load_dataset(dataset_spec(dataset, job)) for dataset in job.targets]
    for target in targets:
        _warn_of_other_images(job, target)
        if checkpoint is not None:
            refuse_overlap(TrainedOn.from_plain(checkpoint.manifest["trained_on"]), target)
    run.note(checkpoint=provenance(checkpoint), targets={target.spec.name: describe(target) for target in targets})
    module, towers = build_scoring(job, run, checkpoint)
    if not has_text(module.network):
        msg = f"module={job.module.name} has no text to diagnose. Choose a method that compares images with text."
        raise ValueError(msg)
    diagnosing = DiagnosingModule(module.network, job)
    data = AnomalyDataModule(None, targets, data_settings(job, towers))
    engine = build_engine(job, run)
    found = []
    for target in targets:
        started, name = time.monotonic(), target.spec.name
        diagnosing.start(target, data.reference_batches(name, module.shots) if module.shots else ())
        with data.naming_lost_images():
            engine.trainer.test(diagnosing, dataloaders=data.target_dataloader(name), verbose=False)
        found.append(diagnosing.finding() | {"seconds": round(time.monotonic() - started, 1)})
    return {
        "untrained": job.untrained,
        "wrong_category": job.wrong_category,
        "datasets": found,
        "manifest": run.manifest,
    }


def _warn_of_other_images(job: DiagnosisJob, target: LoadedDataset) -> None:
    name = target.spec.name
    if job.recorded.get(name, target.digest.sha256) != target.digest.sha256:
        logger.warning("%s has changed since the run scored it, so the metrics here differ from the run's own.", name)


class DiagnosingModule(AnomalyDetectionModule):
    """Score each batch as it is, and again with every change of the text.

    If the network has ``tapped`` and ``score``, its image tower runs only once per batch.
    """

    def __init__(self, network: nn.Module, job: DiagnosisJob) -> None:
        super().__init__(network, category_names=job.module.category_names)
        self._job = job
        self.changed: dict[str, DatasetMetrics] = {}  # no submodules, so that they stay on the CPU

    def start(self, target: LoadedDataset, references: Sequence[AnomalyBatch] = ()) -> None:
        """Set the dataset that the next test run scores."""
        samples = target.samples
        truth = [s.category for s in samples], [s.is_anomalous for s in samples]
        self.score_next(target.spec.name, DatasetMetrics(*truth), references)
        words = self._job.module.category_names is CategoryNames.words
        name_of = {sample.category: sample.prompt_name if words else sample.category for sample in samples}
        self._left_out: dict[str, str] = {}
        self._changes = self._choose_changes(list(dict.fromkeys(name_of.values())))
        self._bound, self._partners = None, partners_of(target.digest.images, *truth)
        if self._partners:
            kept = [sample.category in self._partners for sample in samples]
            labels = zip(target.digest.images, *truth, strict=True)
            self._bound = image_only_bound(*zip(*compress(labels, kept), strict=True))
            partner = {name_of[one]: name_of[other] for one, other in self._partners.items()}
            self._changes[PARTNER] = partial(changed_text, change=named(lambda name: partner.get(name, name)))
            self._changes[OBJECT] = partial(changed_text, change=named(lambda _: "object"))
        self.changed = {name: DatasetMetrics(*truth) for name in self._changes}
        self._text = TextRecord(self._job.wrong_category)
        self._measured: list[dict[tuple[int, str], dict[str, list[float]]]] = []

    def _choose_changes(self, names: list[str]) -> dict[str, Intervention]:
        changes: dict[str, Intervention] = {}
        if not isinstance(self.network, AFRCLIP):
            why = f"module={self._job.module.name} has no stateless embedding."
        elif not self.network.cmfr:
            why = "cmfr.enabled=false: no stateless embedding is rectified."
        else:
            why = ""
            changes[NO_TERM] = without_text_term
            changes[NO_STATELESS] = partial(changed_text, change=without_stateless)
        if why:
            self._left_out |= dict.fromkeys((TERMS, NO_TERM, NO_STATELESS), why)
        changes[WRONG_CATEGORY] = partial(changed_text, change=named(lambda _: self._job.wrong_category))
        if len(names) > 1:
            following = dict(zip(names, [*names[1:], names[0]], strict=True))
            changes[OTHER_CATEGORY] = partial(changed_text, change=named(following.__getitem__))
        else:
            self._left_out[OTHER_CATEGORY] = (
                "All images have the same category name, so there is no other name to give them."
            )
        changes[SWAPPED] = partial(changed_text, change=with_prototypes_swapped)
        return changes

    def test_step(self, batch: AnomalyBatch, batch_idx: int) -> Any:  # noqa: ANN401 - Lightning's own type
        """Score a batch as it is, recording its text and terms, and then with every change of the text."""
        if isinstance(self.network, TappedNetwork):
            batch = replace(batch, tapped=self.network.tapped(batch.pictures))
        with ExitStack() as recording:
            recording.enter_context(changed_text(self.network, self._text))
            terms = recording.enter_context(recorded_terms(self.network)) if isinstance(self.network, AFRCLIP) else []
            prediction = super().test_step(batch, batch_idx)
        self._measured.append(measure(terms))
        for name, change in self._changes.items():
            with change(self.network):
                other = self(batch)
            self.changed[name].update(other.anomaly_map, other.image_score, batch.mask, batch.has_mask, batch.index)
        return prediction

    def finding(self) -> dict[str, Any]:
        """Return what was found on the dataset, as plain values."""
        as_it_is, left_out = self.results, dict(self._left_out)
        changed = {name: metrics.compute() for name, metrics in self.changed.items()}
        if not self._text.reads_category:
            for name in (WRONG_CATEGORY, OTHER_CATEGORY, *((PARTNER, OBJECT) if self._partners else ())):
                changed.pop(name, None)
                left_out[name] = "The text is the same for every category."
        return {
            "dataset": self._target,
            "terms": _summary(self._measured),
            "prototypes": self._text.prototypes(self.network, self.device),
            "metrics": list(_metric_rows({AS_IT_IS: as_it_is, **changed})),
            "differences": list(_difference_rows(as_it_is, changed)),
            "left_out": left_out,
            "names": self._reading(as_it_is, changed),
        }

    def _reading(
        self, as_it_is: Sequence[CategoryResult], changed: Mapping[str, Sequence[CategoryResult]]
    ) -> dict[str, Any] | None:
        """Compare the metrics with the right and with other names, over the categories that share pictures."""
        if self._bound is None:
            return None
        means = {
            name: macro_average([one for one in results if one.category in self._partners]).values
            for name, results in {"right": as_it_is, **changed}.items()
            if name in ("right", PARTNER, OBJECT)
        }
        if PARTNER in means:
            means["gap"] = {metric: means["right"][metric] - means[PARTNER][metric] for metric in METRICS}
        facts = {"image_only_bound": self._bound, "num_categories": len(self._partners), "partners": self._partners}
        return facts | {
            name: {metric: None if math.isnan(value) else value for metric, value in mean.items()}
            for name, mean in means.items()
        }


class TextRecord:
    """A change of the text that only records: the cosine of the prototypes, and whether they depend on the category.

    Args:
        wrong_category: Another name for the images, to see whether the text depends on it.
    """

    def __init__(self, wrong_category: str) -> None:
        self._wrong_category = wrong_category
        self._cosines: dict[str, list[float]] = {}
        self.reads_category = False

    def __call__(self, own: TextSource) -> TextSource:
        """Return a source of the same text that records it."""

        def source(category: Sequence[str], given: Any) -> Text:  # noqa: ANN401 - the network's own argument
            text = own(category, given)
            normal, abnormal = stateful_of(text).float().unbind(dim=1)
            for name, cosine in zip(category, F.cosine_similarity(normal, abnormal).tolist(), strict=True):
                self._cosines.setdefault(name, []).append(cosine)
            if not self.reads_category:
                other = own([self._wrong_category] * len(category), given)
                self.reads_category = not _is_same(text, other)
            return text

        return source

    def prototypes(self, network: nn.Module, device: torch.device) -> list[dict[str, Any]]:
        """Return the cosine of the normal and the abnormal prototype of each category, the mean over its images."""
        rows: list[dict[str, Any]] = [
            {"category": name, "cosine": statistics.fmean(cosines)} for name, cosines in self._cosines.items()
        ]
        if isinstance(network, AFRCLIP):  # before the text adapter
            frozen = network.text([row["category"] for row in rows], device).stateful
            for row, cosine in zip(rows, F.cosine_similarity(frozen[:, 0], frozen[:, 1]).tolist(), strict=True):
                row["cosine_before_adapter"] = cosine
        return rows


def _is_same(text: Text, other: Text) -> bool:
    parts, others = ((t,) if not isinstance(t, tuple) else t for t in (text, other))
    return all(part.equal(its) for part, its in zip(parts, others, strict=True))


def measure(stages: Sequence[tuple[Terms, Terms]]) -> dict[tuple[int, str], dict[str, list[float]]]:
    """Measure the terms of a batch, one value per image, by stage (from 1) and kind of token."""
    return {
        (stage, kind): {name: values.tolist() for name, values in terms.measures().items()}
        for stage, both in enumerate(stages, start=1)
        for kind, terms in zip(("class token", "patches"), both, strict=True)
    }


def _summary(measured: Sequence[Mapping[tuple[int, str], Mapping[str, list[float]]]]) -> list[dict[str, Any]]:
    """Return the medians over the images."""
    return [
        {"stage": stage, "tokens": kind}
        | {name: statistics.median(value for batch in measured for value in batch[stage, kind][name]) for name in names}
        for (stage, kind), names in (measured[0] if measured else {}).items()
    ]


def _metric_rows(results: Mapping[str, Sequence[CategoryResult]]) -> Iterator[dict[str, Any]]:
    for text, categories in results.items():
        for category in categories:
            for metric in METRICS:
                value = category.values[metric]
                shown = None if math.isnan(value) else value
                yield {"text": text, "category": category.category, "metric": metric, "value": shown}


def _difference_rows(
    as_it_is: Sequence[CategoryResult], changed: Mapping[str, Sequence[CategoryResult]]
) -> Iterator[dict[str, Any]]:
    """Yield the mean difference of each metric over the categories that define it, in percentage points."""
    for text, categories in changed.items():
        for metric in METRICS:
            pairs = zip(categories, as_it_is, strict=True)
            points = np.array([100 * (mine.values[metric] - own.values[metric]) for mine, own in pairs])
            points = points[~np.isnan(points)]
            interval = bootstrap_interval(points[None]) if points.size else None
            yield {
                "text": text,
                "metric": metric,
                "points": float(points.mean()) if points.size else None,
                "low": None if interval is None else interval.low,
                "high": None if interval is None else interval.high,
                "num_categories": int(points.size),
            }
