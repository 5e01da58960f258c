"""Score target datasets with a network: metrics, tables, maps, figures."""

import logging
import time

from omegaconf import DictConfig
from rich.console import Console

from afr_clip.data.datamodule import AnomalyDataModule
from afr_clip.metrics.protocol import DatasetMetrics
from afr_clip.reports.figures import FigureCollector
from afr_clip.reports.maps import MapWriter
from afr_clip.reports.page import write_page
from afr_clip.reports.tables import DatasetResult, ImageRow, results_table, write_results, write_scores
from afr_clip.training.loggers import log_figures
from afr_clip.training.module import AnomalyDetectionModule
from afr_clip.workflow.parts import Engine, Run

logger = logging.getLogger(__name__)


def score_targets(
    config: DictConfig, run: Run, module: AnomalyDetectionModule, data: AnomalyDataModule, engine: Engine
) -> None:
    """Score every target and write what came out after each one; at the end a page to look at.

    Args:
        config: The config of the command.
        run: Where results go.
        module: Holds the trained network.
        data: Holds the targets.
        engine: Runs the one over the other.
    """
    results: list[DatasetResult] = []
    rows: list[ImageRow] = []
    if not data.targets:
        _write(run, results, rows)
        logger.info(
            "No target was named, so none is scored. Next: python -m afr_clip.evaluate checkpoint=%s", run.folder
        )
    for name in data.targets:
        started = time.monotonic()
        result, scored = _score(config, run, module, data, engine, name)
        results.append(result)
        rows += scored
        run.note(seconds_scoring=run.manifest.get("seconds_scoring", {}) | {name: round(time.monotonic() - started, 1)})
        _write(run, results, rows)
        Console(width=None if Console().is_terminal else 160).print(results_table(result))
    if results:
        write_page(run.folder)
    if results and run.manifest["backbone"]["random_weights"]:
        logger.warning("These numbers come from RANDOM backbone weights and say nothing about the method.")


def _score(
    config: DictConfig,
    run: Run,
    module: AnomalyDetectionModule,
    data: AnomalyDataModule,
    engine: Engine,
    name: str,
) -> tuple[DatasetResult, list[ImageRow]]:
    samples = data.targets[name].samples
    metrics = DatasetMetrics([s.category for s in samples], [s.is_anomalous for s in samples])
    figures = FigureCollector(data.normalisation, config.num_figures)
    engine.predictions.sinks = (figures, MapWriter(run.folder)) if config.save_maps else (figures,)
    module.score_next(name, metrics)
    engine.trainer.test(module, dataloaders=data.target_dataloader(name), verbose=False)
    log_figures(engine.loggers, name, figures.draw(run.folder / "figures" / name))
    vanished = data.vanished_defects(data.targets[name])
    scores = metrics.image_scores().tolist()
    rows = [ImageRow(s, s.is_anomalous, score) for s, score in zip(samples, scores, strict=True)]
    return DatasetResult(name, module.results, vanished), rows


def _write(run: Run, results: list[DatasetResult], rows: list[ImageRow]) -> None:
    write_results(run.folder, results, run.manifest)
    write_scores(run.folder, rows)
