"""One training and the scoring of its targets, continuing where an earlier run in the folder stopped."""

import logging
import math
import time
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jaxtyping import Float
from lightning.pytorch.loggers import Logger
from torch import Tensor

from afr_clip.data.disk.loaded import LoadedDataset
from afr_clip.data.disk.separation import TrainedOn
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.data.records import AnomalyBatch
from afr_clip.files import shown
from afr_clip.models.checkpoint import CheckpointError
from afr_clip.processes.place import is_first
from afr_clip.processes.stopping import StopWhenAsked
from afr_clip.processes.together import from_first
from afr_clip.reports.page import write_page
from afr_clip.reports.pictures.figures import draw_curves, draw_sheet, panels_of
from afr_clip.reports.record.results import ScoredDataset, read_scored, unchanged
from afr_clip.reports.record.run_folder import is_finished
from afr_clip.run.build import Engine, build_engine, build_loggers, build_module, data_settings, describe
from afr_clip.run.features import FeatureCaching
from afr_clip.run.job import TrainingJob
from afr_clip.run.model import build_towers, note_released_weights
from afr_clip.run.run import Run
from afr_clip.run.score import score_targets, scored_with
from afr_clip.training.callbacks import ForFirstBatchOfEpoch
from afr_clip.training.checkpoint import CheckpointWriter, checkpoint_sha256, read_progress, resume_path
from afr_clip.training.loggers import closing_mirrors, log_figures
from afr_clip.training.module import AnomalyDetectionModule

logger = logging.getLogger(__name__)


class NotTrainedError(ValueError):
    """A training that made no step."""


@dataclass(frozen=True)
class RunData:
    """What a run trains on and scores.

    Attributes:
        targets: The datasets to score that are there.
        facts: What the manifest says of every target by name: those that are there, and those that were scored before
            and have gone.
    """

    auxiliary: LoadedDataset
    targets: tuple[LoadedDataset, ...]
    facts: Mapping[str, Mapping[str, Any]]


def train_and_score(job: TrainingJob, run: Run, datasets: RunData) -> None:
    """Train the adapters and score the targets; what an earlier run finished in the folder is not repeated.

    Args:
        datasets: What to train on and what to score; they were found to share nothing.
    """
    scored = from_first(lambda: scored_before(job))
    kept = unchanged(scored or {}, datasets.facts)
    if scored is not None and kept.keys() == datasets.facts.keys():
        logger.info("%s is finished: trained, and scored on %s.", run.folder, ", ".join(kept) or "no target")
        if kept and is_first():
            write_page(run.folder)  # it may be all that was missing
        if run.earlier is not None and not is_finished(run.earlier):
            run.manifest = dict(run.earlier)  # which holds more than this command found out
            run.finish()
        return
    _require_a_batch(job, len(datasets.auxiliary.samples))
    run.note_unchanged("auxiliary", "sha256", describe(datasets.auxiliary))
    run.note(targets=dict(datasets.facts))
    towers = build_towers(job, run)
    towers.backbone.checkpointing = job.activation_checkpointing
    data = AnomalyDataModule(datasets.auxiliary, datasets.targets, data_settings(job, towers))
    module = build_module(job, towers)
    note_released_weights(job, run)
    if is_first():
        run.note(vanished_defects=data.vanished_defects(datasets.auxiliary))
    run.note(trainable_parameters=sum(p.numel() for p in module.trainable_parameters()))
    resume = from_first(lambda: resume_path(run.folder / "checkpoints") if job.resume else None)
    loggers = build_loggers(job, run, 0 if resume is None else read_progress(resume), kept)
    with closing_mirrors(loggers):
        engine = _fit(job, run, module, data, loggers, resume)
        run.note(scored_with=from_first(lambda: _scored_with(job)))
        score_targets(job, run, module, data, engine, kept)
    run.finish()


def _require_a_batch(job: TrainingJob, num_images: int) -> None:
    share, batches = job.trainer.limit_train_batches, math.ceil(num_images / job.data.batch_size)
    if isinstance(share, float) and int(batches * share) < 1:
        msg = (
            f"trainer.limit_train_batches={share} of {batches} batches is less than one, so nothing would be trained. "
            f"Write trainer.limit_train_batches=1 for one batch, or a share from {math.ceil(1e3 / batches) / 1e3}."
        )
        raise ValueError(msg)


def scored_before(job: TrainingJob) -> dict[str, ScoredDataset] | None:
    """Read what was scored in a run folder with the weights that it holds.

    Returns:
        The datasets by name; ``None`` if the training was not finished, or the datasets were scored with other options.
    """
    return read_scored(job.folder, _scored_with(job))


def _scored_with(job: TrainingJob) -> dict[str, Any]:
    return scored_with(job, checkpoint_sha256(job.folder / "checkpoints"))


def _fit(
    job: TrainingJob,
    run: Run,
    module: AnomalyDetectionModule,
    data: AnomalyDataModule,
    loggers: Sequence[Logger],
    resume: Path | None,
) -> Engine:
    figures = run.folder / "figures"

    def draw(epoch: int, batch: AnomalyBatch, maps: Float[Tensor, "b h w"], scores: Float[Tensor, " b"]) -> None:
        path = figures / "training" / f"epoch_{epoch:04d}.png"
        draw_sheet(path, panels_of(data.pictured(batch), maps, scores, data.normalisation)[: job.num_figures])
        log_figures(loggers, "training", [path])

    assert data.auxiliary is not None, "training has an auxiliary dataset"
    # What becomes known until the first epoch ends, as the precision, is in the checkpoint too.
    manifest = ChainMap({"trained_on": TrainedOn.of(data.auxiliary).as_plain()}, run.manifest)
    writer = CheckpointWriter(run.folder / "checkpoints", manifest, keep_every_epoch=job.keep_every_epoch)
    callbacks: list[pl.Callback] = [writer, StopWhenAsked(writer.save_progress)]
    if job.data.feature_cache:
        callbacks.append(FeatureCaching(job, run, data))
    if job.num_figures:
        callbacks.append(ForFirstBatchOfEpoch(draw, job.figure_every_n_epochs))
    started = time.monotonic()
    engine = build_engine(job, run, loggers, callbacks)
    try:
        with data.naming_lost_images():
            engine.trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        if resume is None or writer.has_begun:
            raise
        why = " ".join([f"{type(error).__name__}:", *str(error).split()])[:200]
        msg = (  # Lightning restores what it saved without checking it
            f"{shown(resume)} does not fit this training, so it cannot be resumed ({why}). Choose another run_dir and "
            f"train from the start."
        )
        raise CheckpointError(msg) from error
    if not engine.trainer.global_step:
        limits = f"{job.trainer.max_epochs} epochs and trainer.limit_train_batches={job.trainer.limit_train_batches}"
        msg = f"Nothing was trained: {limits} made no step, so there is nothing to score. Raise the limit."
        raise NotTrainedError(msg)
    if is_first():
        draw_curves(figures / "curves.png", run.folder / "metrics.csv")
    if "seconds_training" not in run.manifest:
        run.note(seconds_training=round(time.monotonic() - started, 1))
    return engine
