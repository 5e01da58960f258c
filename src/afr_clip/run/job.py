"""Jobs: what a command has to do, typed and final. Code below the commands never sees a config."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from afr_clip.clip.settings import BackboneSettings
from afr_clip.inspection.settings import InspectionSettings, Rule
from afr_clip.models.method_settings import ModuleSettings
from afr_clip.settings import (
    AnnotationFormat,
    DatasetSettings,
    ExportFormat,
    ExportPrecision,
    LoadingSettings,
    LoggerSettings,
    LossSettings,
    MapFormat,
    OptimizerSettings,
    ScheduleSettings,
    TrainerSettings,
)


@dataclass(frozen=True)
class Record:
    """What a run writes down about the command that started it.

    Attributes:
        overrides: As typed, ``key=value``.
        choices: The file chosen from each config group.
        config: The whole config as plain values.
        by_dataset: Keys whose values a recipe chooses by the dataset that is trained on.
    """

    command: str
    overrides: Sequence[str]
    choices: Mapping[str, Any]
    config: Mapping[str, Any]
    by_dataset: Sequence[str] = ()


@dataclass(frozen=True)
class Job:
    """What every job has: a run folder, a network, and how it is run.

    Attributes:
        cache_dir: Where decoded images and tapped features are kept.
    """

    folder: Path
    seed: int
    num_threads: int | None
    data_dir: Path | None
    drawn_dir: Path
    cache_dir: Path
    backbone: BackboneSettings
    module: ModuleSettings
    data: LoadingSettings
    trainer: TrainerSettings
    logger: LoggerSettings
    record: Record


AnyJob = TypeVar("AnyJob", bound=Job)


@dataclass(frozen=True)
class ScoringJob(Job):
    """A job that scores datasets.

    Attributes:
        num_figures: Images on each sheet of figures.
        pixel_threshold: Where to compute a pixel F1 in addition to the highest.
    """

    targets: tuple[DatasetSettings, ...]
    save_maps: bool
    map_format: MapFormat
    published_pro: bool
    num_figures: int
    pixel_threshold: float | None = dataclasses.field(default=None, kw_only=True)


@dataclass(frozen=True)
class TrainingJob(ScoringJob):
    """Train on one dataset, then score others."""

    auxiliary: DatasetSettings
    loss: LossSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    resume: bool
    requeue: bool
    figure_every_n_epochs: int
    keep_every_epoch: bool
    activation_checkpointing: bool

    def resuming(self, resume: bool) -> "TrainingJob":
        """Return the same job, told whether to resume; the record says so too."""
        record = dataclasses.replace(self.record, config={**self.record.config, "resume": resume})
        return dataclasses.replace(self, resume=resume, record=record)


@dataclass(frozen=True)
class ProtocolJob:
    """Several trainings one after the other (legs), each with its own targets.

    Attributes:
        folder: Holds a run folder for each leg, named after its auxiliary dataset, and the report.
    """

    folder: Path
    legs: tuple[TrainingJob, ...]

    @property
    def requeue(self) -> bool:
        """Whether SLURM is asked to start the job again after a stop."""
        return self.legs[0].requeue


@dataclass(frozen=True)
class EvaluationJob(ScoringJob):
    """Score one dataset with a trained or training-free network.

    Attributes:
        resume: Whether a run in the folder is kept if it is finished, and repeated if it is not.
        every_epoch: Whether the checkpoints of all other epochs are scored too, to show what choosing one would gain.
    """

    resume: bool
    every_epoch: bool


@dataclass(frozen=True)
class DiagnosisJob(Job):
    """Measure what the text does in a network.

    Attributes:
        checkpoint: The trained weights; ``None`` for an untrained network, or a method that needs none.
        recorded: SHA-256 of the datasets that the run in the folder scored, by name.
        wrong_category: Replaces the category name of every image in one of the changes.
    """

    targets: tuple[DatasetSettings, ...]
    checkpoint: Path | None
    untrained: bool
    recorded: Mapping[str, str]
    wrong_category: str


@dataclass(frozen=True)
class Spread:
    """How photographs are shared out over a Ray cluster.

    Attributes:
        images: As they were typed: paths, patterns, URLs, tables of paths.
        workers: Actors, each with a model of its own.
        shard_size: Photographs in a shard; rounded down to whole batches.
        address: Of the cluster; ``None`` starts one on this machine.
    """

    images: tuple[str, ...]
    workers: int
    shard_size: int
    address: str | None


@dataclass(frozen=True)
class PredictionJob(Job):
    """Score photographs without truth.

    Attributes:
        category: What the photographs are called.
        is_named: Whether the category was given; otherwise it is the calibration's, or "object".
        formats: Annotation formats that are written.
        fail_on: The decision, or a worse one, that ends the command with an exit code of its own.
        resume: Whether photographs that an earlier run in the folder scored are left out.
        spread: ``None`` for this machine.
    """

    images: tuple[Path, ...]
    category: str
    is_named: bool
    inspection: InspectionSettings
    map_format: MapFormat
    formats: tuple[AnnotationFormat, ...]
    xlsx: bool
    fail_on: str | None
    resume: bool
    spread: Spread | None


@dataclass(frozen=True)
class ExportJob(Job):
    """Write a detector to a file.

    Attributes:
        images: Photographs with which the file is checked, in addition to its test pictures.
        licence: Of the model; ``None`` if it is not known.
        dataset: On which a model in 8 bits is measured.
        good: Photographs of good parts that show the range of values; ``None`` for those of the dataset.
    """

    categories: tuple[str, ...]
    to: ExportFormat
    precision: ExportPrecision
    dataset: DatasetSettings | None
    good: Path | None
    inspection: InspectionSettings
    images: tuple[Path, ...]
    licence: str | None

    @property
    def category(self) -> str:
        """The first category, which is also that of the calibration."""
        return self.categories[0]


@dataclass(frozen=True)
class CalibrationJob(Job):
    """Find the thresholds of a detector.

    Attributes:
        good: A folder of photographs of good parts, or one photograph.
        false_alarms: The share of good parts that may be reported.
    """

    good: Path
    bad: Path | None
    category: str
    false_alarms: float
    rule: Rule
    inspection: InspectionSettings
