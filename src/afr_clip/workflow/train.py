"""Train the adapters on the auxiliary dataset, then score the targets."""

import time

import lightning.pytorch as pl
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from afr_clip.config.assemble import build, compose_target
from afr_clip.data.datamodule import AnomalyDataModule
from afr_clip.data.loaded import LoadedDataset, load_dataset
from afr_clip.data.records import AnomalyBatch
from afr_clip.data.separation import TrainedOn, refuse_overlap
from afr_clip.reports.figures import draw_curves, draw_sheet, panels_of
from afr_clip.training.callbacks import ForFirstBatchOfEpoch
from afr_clip.training.checkpoint import CheckpointWriter, read_progress, resume_path
from afr_clip.training.loggers import log_figures
from afr_clip.training.module import AnomalyDetectionModule
from afr_clip.workflow.parts import (
    Engine,
    Run,
    build_engine,
    build_loggers,
    build_towers,
    check_model,
    data_settings,
    dataset_spec,
    describe,
    finish_run,
    start_run,
)
from afr_clip.workflow.score import score_targets


def train(config: DictConfig) -> None:
    """Run ``python -m afr_clip.train``.

    Args:
        config: The composed and validated config.
    """
    check_model(config)
    run = start_run(config, resume=config.resume)
    auxiliary = load_dataset(dataset_spec(config.dataset, config))
    targets = _load_targets(config)
    run.note_unchanged("auxiliary", "sha256", describe(auxiliary))
    run.note(targets={target.spec.name: describe(target) for target in targets})
    for target in targets:  # before the weights, which take longer
        refuse_overlap(TrainedOn.of(auxiliary), target)
    towers = build_towers(config, run)
    data = AnomalyDataModule(auxiliary, targets, data_settings(config, towers))
    module = AnomalyDetectionModule(
        build(config.module.network, towers=towers), build(config.loss), build(config.optimizer), build(config.schedule)
    )
    run.note(vanished_defects=data.vanished_defects(auxiliary))
    run.note(trainable_parameters=sum(p.numel() for p in module.trainable_parameters()))
    engine = _fit(config, run, module, data)
    score_targets(config, run, module, data, engine)
    finish_run(run)


def _load_targets(config: DictConfig) -> list[LoadedDataset]:
    nodes = [compose_target(name, config.protocol) for name in config.protocol.targets]
    return [load_dataset(dataset_spec(node, config)) for node in nodes]


def _fit(config: DictConfig, run: Run, module: AnomalyDetectionModule, data: AnomalyDataModule) -> Engine:
    checkpoints = run.folder / "checkpoints"
    resume = resume_path(checkpoints) if config.resume else None
    loggers = build_loggers(config, run, 0 if resume is None else read_progress(resume))
    figures = run.folder / "figures"

    def draw(epoch: int, batch: AnomalyBatch, maps: Float[Tensor, "b h w"], scores: Float[Tensor, " b"]) -> None:
        path = figures / "training" / f"epoch_{epoch:04d}.png"
        draw_sheet(path, panels_of(batch, maps, scores, data.normalisation)[: config.num_figures])
        log_figures(loggers, "training", [path])

    assert data.auxiliary is not None, "training has an auxiliary dataset"
    manifest = run.manifest | {"trained_on": TrainedOn.of(data.auxiliary).as_plain()}
    callbacks: list[pl.Callback] = [CheckpointWriter(checkpoints, manifest)]
    if config.num_figures:
        callbacks.append(ForFirstBatchOfEpoch(draw, config.figure_every_n_epochs))
    started = time.monotonic()
    engine = build_engine(config, run, loggers, callbacks)
    engine.trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    draw_curves(figures / "curves.png", run.folder / "metrics.csv")
    run.note(seconds_training=round(time.monotonic() - started, 1))
    return engine
