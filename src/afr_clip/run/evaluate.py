"""Score a dataset with a trained checkpoint, or with a method that needs none."""

import hashlib
import logging
from collections.abc import Sequence

from afr_clip.clip.load import Towers
from afr_clip.data.disk.loaded import load_dataset
from afr_clip.data.disk.separation import TrainedOn, refuse_overlap
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.models.checkpoint import Checkpoint, load_adapters, read_epochs
from afr_clip.processes.place import is_first
from afr_clip.processes.signals import stoppable
from afr_clip.processes.stopping import StopWhenAsked
from afr_clip.processes.together import from_first, require_same
from afr_clip.reports.record.results import EPOCHS, DatasetResult, read_scored, unchanged, write_epochs
from afr_clip.run.build import build_engine, build_loggers, build_module, data_settings, dataset_spec, describe
from afr_clip.run.job import EvaluationJob, Job
from afr_clip.run.model import build_towers, check_model, note_released_weights, provenance
from afr_clip.run.run import Run, finish_run, start_run
from afr_clip.run.score import measure, score_targets, scored_with
from afr_clip.training.loggers import closing_mirrors
from afr_clip.training.module import AnomalyDetectionModule

logger = logging.getLogger(__name__)


def evaluate(job: EvaluationJob, checkpoint: Checkpoint | None) -> None:
    """Run ``afr-clip evaluate``.

    Args:
        job: Has the model that the checkpoint was trained with.
        checkpoint: The trained weights; ``None`` for a method that needs none.
    """
    with stoppable():
        check_model(job)
        if job.every_epoch and checkpoint is None:
            msg = f"every_epoch=true needs a trained checkpoint, and module={job.module.name} has none. Leave it out."
            raise ValueError(msg)
        epochs = read_epochs(checkpoint) if job.every_epoch and checkpoint is not None else []
        run = start_run(job)
        (target,) = (load_dataset(dataset_spec(dataset, job)) for dataset in job.targets)
        require_same({target.spec.name: target.digest.sha256})
        if checkpoint is not None:
            refuse_overlap(TrainedOn.from_plain(checkpoint.manifest["trained_on"]), target)
        targets = {target.spec.name: describe(target)}
        sha256 = None if checkpoint is None else hashlib.sha256(checkpoint.path.read_bytes()).hexdigest()
        options = scored_with(job, sha256)
        before = from_first(lambda: read_scored(run.folder, options)) if run.earlier is not None else None
        kept = unchanged(before or {}, targets)
        run.note(checkpoint=provenance(checkpoint), targets=targets, scored_with=options)
        module, towers = build_scoring(job, run, checkpoint)
        run.note(trainable_parameters=sum(p.numel() for p in module.trainable_parameters()))
        data = AnomalyDataModule(None, [target], data_settings(job, towers))
        loggers = build_loggers(job, run, 0, kept)
        with closing_mirrors(loggers):
            score_targets(job, run, module, data, build_engine(job, run, loggers, [StopWhenAsked()]), kept)
        if epochs:
            _score_epochs(job, run, towers, data, epochs)
        elif is_first():
            (run.folder / EPOCHS).unlink(missing_ok=True)  # of other weights, if this run was resumed
        run.finish()
        finish_run(run.folder)


def _score_epochs(
    job: EvaluationJob, run: Run, towers: Towers, data: AnomalyDataModule, epochs: Sequence[Checkpoint]
) -> None:
    """Score the weights of every epoch. What comes out is written apart from the results, and logged nowhere."""
    engine = build_engine(job, run, [], [StopWhenAsked()])
    (name,) = data.targets
    results = {}
    for checkpoint in epochs:
        module, epoch = build_module(job, towers), checkpoint.manifest["epochs"]
        load_adapters(module.network, checkpoint, run.manifest["backbone"]["fingerprint"])
        measure(module, data, engine, name)
        results[epoch] = DatasetResult(name, module.results, {})
        logger.info("Scored %s with the weights of epoch %d, one of %d.", name, epoch, len(epochs))
    if is_first():
        write_epochs(run.folder, results)


def build_scoring(job: Job, run: Run, checkpoint: Checkpoint | None) -> tuple[AnomalyDetectionModule, Towers]:
    """Build a network that scores, with the trained weights of its checkpoint, and return the towers too."""
    towers = build_towers(job, run)
    module = build_module(job, towers)
    note_released_weights(job, run)
    if checkpoint is not None:
        load_adapters(module.network, checkpoint, run.manifest["backbone"]["fingerprint"])
    return module, towers
