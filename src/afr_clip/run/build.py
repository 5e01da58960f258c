"""From a job to the objects of a run: towers, network, data, loggers, trainer."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy

from afr_clip.clip.load import Towers
from afr_clip.data.disk.layouts import title_of
from afr_clip.data.disk.loaded import LoadedDataset
from afr_clip.data.disk.reading import DatasetSpec
from afr_clip.data.feed.datamodule import DataSettings
from afr_clip.losses.total import AnomalyLoss
from afr_clip.processes.place import is_first, place
from afr_clip.processes.together import in_turn
from afr_clip.run.job import Job, TrainingJob
from afr_clip.run.mirrors import build_mirrors
from afr_clip.run.model import precision_of_run
from afr_clip.run.run import Run
from afr_clip.settings import DatasetSettings
from afr_clip.training.callbacks import EpochInRecord, ForEachPrediction, show_progress
from afr_clip.training.loggers import MetricsCSV
from afr_clip.training.module import AnomalyDetectionModule
from afr_clip.training.schedule import optimizer_factory, schedule_factory
from drawn_anomalies.tree import drawn_dataset

logger = logging.getLogger(__name__)


class StartedProcesses(LightningEnvironment):
    """Processes that Lightning did not start, in an environment shared by all trainers of a command."""

    def teardown(self) -> None:
        """Keep the environment; Lightning would remove the number of processes from it."""


def build_module(job: Job, towers: Towers) -> AnomalyDetectionModule:
    """Build the chosen network in what trains and scores it; with loss, optimiser and schedule if it is trained."""
    training: dict[str, Any] = {}
    if isinstance(job, TrainingJob):
        training = {
            "loss": AnomalyLoss(**vars(job.loss)),
            "optimizer": optimizer_factory(job.optimizer),
            "schedule": schedule_factory(job.schedule),
        }
    return AnomalyDetectionModule(
        job.module.network.build(towers), **training, category_names=job.module.category_names
    )


def data_settings(job: Job, towers: Towers) -> DataSettings:
    """Describe how images are prepared for the towers."""
    backbone, data, here = towers.backbone, job.data, place()
    return DataSettings(
        image_size=(backbone.image_size, backbone.image_size),
        mean=backbone.mean,
        std=backbone.std,
        batch_size=data.batch_size,
        num_workers=data.num_workers,
        seed=job.seed,
        augment=data.augment,
        mosaic=data.mosaic,
        mosaic_kind=data.mosaic_kind,
        mosaic_label=data.mosaic_label,
        references=isinstance(job, TrainingJob) and job.module.network.needs_reference,
        cache=data.cache,
        cache_dir=job.cache_dir,
        eval_batch_size=data.eval_batch_size,
        process=here.rank,
        num_processes=here.world_size,
        max_pixels=data.max_pixels,
    )


def dataset_spec(dataset: DatasetSettings, job: Job) -> DatasetSpec:
    """Describe which images are wanted and where they may be; a drawn dataset is written first if it is not there."""
    root = None if dataset.root is None else Path(dataset.root)
    if root is None and dataset.drawn is not None:
        with in_turn():
            root = drawn_dataset(dataset.drawn, job.drawn_dir)
    categories = None if dataset.categories is None else tuple(dataset.categories)
    return DatasetSpec(dataset.name, dataset.layout, root, categories, data_dir=job.data_dir)


def describe(dataset: LoadedDataset) -> dict[str, Any]:
    """Describe a dataset for the manifest, down to the content of its images."""
    return {
        "name": dataset.spec.name,
        "title": title_of(dataset.spec.name, dataset.spec.layout),
        "root": str(dataset.root),
        "categories": sorted({sample.category for sample in dataset.samples}),
        "num_normal": dataset.digest.num_images - dataset.digest.num_anomalous,
        "num_anomalous": dataset.digest.num_anomalous,
        "sha256": dataset.digest.sha256,
    }


def build_loggers(
    job: Job, run: Run, drop_from_step: int | None = None, kept_targets: Collection[str] = ()
) -> list[Logger]:
    """Build the CSV logger, and what ``logger=`` adds."""
    record = MetricsCSV(
        run.folder / "metrics.csv", drop_from_step, kept_targets
    )  # first: the others read what it keeps
    if not is_first():
        return [record]
    return [record, *build_mirrors(asdict(job.logger), run.folder, run.manifest, drop_from_step)]


@dataclass(frozen=True)
class Engine:
    """What runs a network over data, for all of a command.

    Attributes:
        predictions: Hands scored batches to the sinks that are set on it.
    """

    trainer: pl.Trainer
    loggers: list[Logger]
    predictions: ForEachPrediction


def build_engine(job: Job, run: Run, loggers: Sequence[Logger] = (), callbacks: Sequence[pl.Callback] = ()) -> Engine:
    """Build Lightning's Trainer; checkpoints and metrics are ours."""
    arguments = vars(job.trainer) | {"precision": precision_of_run(job, run)}
    if place().world_size > 1:  # the processes were started before, and not by Lightning
        # In each stage of a training, the weights of the others take no gradient.
        in_stages = job.module.network.fewest_epochs > 1
        find_unused = in_stages or job.trainer.strategy == "ddp_find_unused_parameters_true"
        arguments["strategy"] = DDPStrategy(cluster_environment=StartedProcesses(), find_unused_parameters=find_unused)
    predictions = ForEachPrediction()
    records = [EpochInRecord(record) for record in loggers if isinstance(record, MetricsCSV)]
    trainer = pl.Trainer(
        **arguments,
        default_root_dir=str(run.folder),
        logger=list(loggers),
        callbacks=[show_progress(), predictions, *records, *callbacks],
        use_distributed_sampler=False,  # the data module shares images out, and never one twice
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    return Engine(trainer, list(loggers), predictions)
