"""Score target datasets with a network: metrics, tables, maps, figures."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from afr_clip.data.disk.layouts import dataset_row
from afr_clip.data.disk.loaded import LoadedDataset
from afr_clip.data.disk.saturation import read_regions
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.data.records import AnomalySample
from afr_clip.files import for_shell, natural_order, shown_below
from afr_clip.metrics.pixel import AnnotatedRegions
from afr_clip.metrics.protocol import DatasetMetrics
from afr_clip.processes.memory import measuring_memory
from afr_clip.processes.place import is_first
from afr_clip.processes.together import gathered
from afr_clip.reports.decisions import OPTIMISTIC, threshold_grid
from afr_clip.reports.layout.text import terminal, to_rich
from afr_clip.reports.page import write_page
from afr_clip.reports.pictures.figures import FigureCollector
from afr_clip.reports.pictures.heat_maps import FOLDER, write_heat_maps
from afr_clip.reports.pictures.maps import MapWriter
from afr_clip.reports.record.results import (
    DatasetResult,
    ImageRow,
    ScoredDataset,
    results_table,
    thresholds_of,
    write_results,
    write_scores,
)
from afr_clip.run.build import Engine
from afr_clip.run.job import ScoringJob
from afr_clip.run.mirrors import read_published
from afr_clip.run.run import Run
from afr_clip.settings import MapFormat
from afr_clip.training.loggers import has_mirror, log_figures, publish
from afr_clip.training.module import AnomalyDetectionModule

logger = logging.getLogger(__name__)


def score_targets(
    job: ScoringJob,
    run: Run,
    module: AnomalyDetectionModule,
    data: AnomalyDataModule,
    engine: Engine,
    kept: Mapping[str, ScoredDataset] | None = None,
) -> None:
    """Score every target of the manifest and write what came out after each one; at the end a page to look at.

    Args:
        job: What to score, and what to keep.
        engine: Runs the one over the other.
        kept: Targets that a run before scored; they are not scored again, and need not be among the data.
    """
    names, scored = list(run.manifest["targets"]), dict(kept or {})
    if scored or not names:
        _write(run, scored)
    if not names:
        logger.info(
            "There is no target to score. Next: afr-clip evaluate %s dataset=NAME",
            for_shell(f"checkpoint={run.folder}"),
        )
    for name in names:
        if name in scored:
            logger.info("%s was already scored on the same images with the same weights; its results are kept.", name)
            continue
        started = time.monotonic()
        with measuring_memory(engine.trainer.strategy.root_device) as peak:
            scored[name] = _score(job, run, module, data, engine, name)
        seconds = round(time.monotonic() - started, 1)
        run.note(seconds_scoring=run.manifest.get("seconds_scoring", {}) | {name: seconds})
        run.note(cost=run.manifest.get("cost", {}) | {name: _cost(job, module, engine, peak())})
        _write(run, scored)
        if not is_first():
            continue
        console = terminal()
        console.print(results_table(scored[name].result))
        if scored[name].result.thresholds:
            grid = threshold_grid(name, scored[name].result.thresholds)
            console.print(to_rich([grid], grid.name))
            console.print(OPTIMISTIC, markup=False, highlight=False)
    if is_first():
        publish(engine.loggers, lambda: read_published(run.folder))
    if scored and is_first():
        write_page(run.folder)
    if scored and run.manifest["backbone"]["random_weights"]:
        logger.warning("These numbers come from RANDOM backbone weights and say nothing about the method.")


def _cost(
    job: ScoringJob, module: AnomalyDetectionModule, engine: Engine, peak_memory_mib: float | None
) -> dict[str, Any]:
    """Describe what scoring took in this process; `Cost` says what is counted."""
    device, paces = engine.trainer.strategy.root_device, module.seconds_per_image
    return {
        "milliseconds_per_image": round(1000 * median(paces), 3) if paces else None,
        "peak_memory_mib": peak_memory_mib,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "batch_size": job.data.eval_batch_size,
        "image_size": job.backbone.image_size,
    }


def _score(
    job: ScoringJob,
    run: Run,
    module: AnomalyDetectionModule,
    data: AnomalyDataModule,
    engine: Engine,
    name: str,
) -> ScoredDataset:
    samples = data.targets[name].samples
    figures = FigureCollector(data.normalisation, job.num_figures)
    maps = (MapWriter(run.folder, samples, job.map_format),) if job.save_maps else ()
    vanished: dict[str, int] = {}
    with data.counting_vanished_defects(data.targets[name]) as (begin, counts):
        engine.predictions.sinks = (figures, *maps, *([begin] if is_first() else []))
        extra = {
            "published_pro": job.published_pro,
            "pixel_threshold": job.pixel_threshold,
            "annotated": _annotated(data.targets[name], data),
        }
        metrics = measure(module, data, engine, name, extra)
        if is_first():
            vanished = counts()
    collected = gathered(figures)
    if is_first():
        figures.absorb(collected[1:])
        log_figures(engine.loggers, name, figures.draw(run.folder / "figures" / name))
        if has_mirror(engine.loggers):
            write_heat_maps(run.folder / FOLDER / name, figures.sheets(), figures.scale)
    scores = metrics.image_scores().tolist()
    _warn_of_ties(name, samples, scores)
    root = data.targets[name].root
    rows = [
        ImageRow(s.dataset, s.category, shown_below(root, s.image_path), s.is_anomalous, score)
        for s, score in sorted(zip(samples, scores, strict=True), key=lambda pair: natural_order(pair[0].image_path))
    ]
    result = DatasetResult(name, module.results, vanished, thresholds_of(rows, module.results))
    return ScoredDataset(run.manifest["targets"][name], result, rows)


def _annotated(target: LoadedDataset, data: AnomalyDataModule) -> Callable[[int], AnnotatedRegions] | None:
    """Return what reads the regions of an image of a dataset that is scored by saturated overlap, or ``None``."""
    if not target.saturations:
        return None
    kinds, settings = dataset_row(target.spec.layout).saturated_types, data.settings

    def read(position: int) -> AnnotatedRegions:
        sample = target.samples[position]
        entries = target.saturations[sample.category]
        regions = read_regions(sample, entries, settings.image_size, max_pixels=settings.max_pixels)
        return AnnotatedRegions(kinds[sample.defect_type], regions)

    return read


def measure(
    module: AnomalyDetectionModule,
    data: AnomalyDataModule,
    engine: Engine,
    name: str,
    extra: Mapping[str, Any] | None = None,
) -> DatasetMetrics:
    """Score a dataset; the results by category are in the module, its images and maps went to the engine's sinks.

    Args:
        extra: What `DatasetMetrics` computes in addition to its usual metrics.
    """
    samples = data.targets[name].samples
    metrics = DatasetMetrics([s.category for s in samples], [s.is_anomalous for s in samples], **(extra or {}))
    module.score_next(name, metrics, data.reference_batches(name, module.shots) if module.shots else ())
    with data.naming_lost_images():
        engine.trainer.test(module, dataloaders=data.target_dataloader(name), verbose=False)
    return metrics


def scored_with(job: ScoringJob, checkpoint_sha256: str | None) -> dict[str, Any]:
    """Return what decides the files that a scoring leaves; earlier ones are kept only if all of it is the same."""
    return {
        "checkpoint_sha256": checkpoint_sha256,
        "save_maps": job.save_maps,
        "num_figures": job.num_figures,
        # Only if they are chosen, so that results from before these keys existed still count.
        **({"map_format": job.map_format.value} if job.map_format is not MapFormat.png else {}),
        **({"published_pro": True} if job.published_pro else {}),
        **({} if job.pixel_threshold is None else {"pixel_threshold": job.pixel_threshold}),
    }


def _warn_of_ties(name: str, samples: Sequence[AnomalySample], scores: Sequence[float]) -> None:
    """Warn of categories whose image scores are all equal, which a small temperature causes; they rank no image."""
    by_category: dict[str, list[float]] = defaultdict(list)
    for sample, score in zip(samples, scores, strict=True):
        by_category[sample.category].append(score)
    for category, of_category in by_category.items():
        if len(of_category) > 1 and len(set(of_category)) == 1:
            logger.warning(
                "%s/%s: all %d image scores are %s, so the images cannot be ranked. A larger "
                "module.network.scoring.temperature tells them apart.",
                *(name, category, len(of_category), of_category[0]),
            )


def _write(run: Run, scored: Mapping[str, ScoredDataset]) -> None:
    if not is_first():
        return
    finished = [scored[name] for name in run.manifest["targets"] if name in scored]
    # results.json goes last: it is what a continued run goes by.
    write_scores(run.folder, (row for dataset in finished for row in dataset.rows))
    write_results(run.folder, [dataset.result for dataset in finished], run.manifest)
