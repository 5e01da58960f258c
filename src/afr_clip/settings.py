"""The settings of datasets, loading, training and logging: one class for each config node.

The classes are the schema of their nodes, check their ranges, and are the values that the program works with. Defaults
live in ``conf/``. Backbone, methods and drawn datasets have such classes in their own packages. None needs torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from drawn_anomalies.settings import DrawnSettings

ACCELERATORS = ("auto", "cpu", "gpu")
DETERMINISTIC = (True, False, "warn")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "auto")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
FEATURE_DTYPES = ("float32", "float16")
OPTIMIZERS = ("adam", "adamw")
MOSAIC_LABELS = ("any", "replaced")
MOSAIC_KINDS = ("by_type", "class_aware")
DICE_PER = ("image", "row")
DIRECTIONS = ("maximize", "minimize")
FAIL_ON = ("anomalous", "undecided")
SCHEDULES = ("constant", "inverse_epoch", "cosine", "steps")

METHOD_PACKAGES = "afr_clip.methods"
"""The group of entry points by which installed packages add methods."""


LARGEST_LR = 1e30
"""Beyond it a step leaves the range of float32."""


class MapFormat(Enum):
    """How anomaly maps are saved: rounded to 16 bits, or as unrounded float32 values."""

    png = "png"
    tiff = "tiff"


class ExportFormat(Enum):
    """What runs an exported model."""

    onnx = "onnx"
    openvino = "openvino"


class ExportPrecision(Enum):
    """The number format of the large matrix products and convolutions of an exported model."""

    float32 = "float32"
    int8 = "int8"


class AnnotationFormat(Enum):
    """The tools for whose import regions can be written."""

    coco = "coco"
    label_studio = "label_studio"
    cvat = "cvat"
    labelme = "labelme"
    yolo = "yolo"
    fiftyone = "fiftyone"


class ImageRule(Enum):
    """Which anomalous images a figure shows."""

    seeded = "seeded"
    best = "best"
    median = "median"
    worst = "worst"


class ScoringEngine(Enum):
    """What computes the forward pass when photographs are scored."""

    torch = "torch"
    openvino = "openvino"
    onnxruntime = "onnxruntime"
    auto = "auto"


class ScoringPlace(Enum):
    """Where photographs are scored."""

    local = "local"
    ray = "ray"


class DecideBy(Enum):
    """What decides about a part: its image score, the maximum of its map, or either of them."""

    image = "image"
    region = "region"
    either = "either"


@dataclass
class DatasetSettings:
    """``dataset``: what is read from disk; ``drawn`` is for the few that are written there first."""

    name: str
    layout: str
    root: str | None
    categories: list[str] | None
    drawn: DrawnSettings | None

    def __post_init__(self) -> None:
        if self.categories is not None and not self.categories:
            msg = "dataset.categories must name at least one category, got none. Use null for all."
            raise ValueError(msg)


@dataclass
class LoadingSettings:
    """``data``: how images are loaded. ``batch_size`` counts the images of all processes together."""

    batch_size: int
    eval_batch_size: int
    num_workers: int
    augment: bool
    mosaic: float
    mosaic_kind: str
    mosaic_label: str
    cache: bool
    feature_cache: bool
    feature_dtype: str
    max_pixels: int

    def __post_init__(self) -> None:
        refuse(
            *(positive(f"data.{key}", getattr(self, key)) for key in ("batch_size", "eval_batch_size", "max_pixels")),
            not_negative("data.num_workers", self.num_workers),
            None
            if 0 <= self.mosaic <= 1
            else f"data.mosaic must be from 0 to 1, got {self.mosaic}. Change data.mosaic=VALUE.",
            one_of("data.mosaic_kind", self.mosaic_kind, MOSAIC_KINDS, "UniADet uses class_aware."),
            one_of("data.mosaic_label", self.mosaic_label, MOSAIC_LABELS, "AdaCLIP's public code uses replaced."),
            one_of("data.feature_dtype", self.feature_dtype, FEATURE_DTYPES, "float32 loses nothing."),
        )


@dataclass
class LossSettings:
    """``loss``: the weights of the terms, their focusing exponents and label smoothing, and what Dice is taken over."""

    image_weight: float
    focal_weight: float
    dice_weight: float
    complement_weight: float
    l1_weight: float
    alignment_weight: float
    separation_weight: float
    separation_margin: float | None
    focal_gamma: float
    image_gamma: float
    focal_smoothing: float
    image_smoothing: float
    dice_per: str

    def __post_init__(self) -> None:
        numbers = {key: value for key, value in vars(self).items() if key not in ("dice_per", "separation_margin")}
        refuse(
            *(not_negative(f"loss.{key}", value) for key, value in numbers.items()),
            *(
                f"loss.{key} must be below 0.5, got {numbers[key]}. Try 1e-5, as the compared methods do."
                for key in ("focal_smoothing", "image_smoothing")
                if numbers[key] >= 0.5
            ),
            one_of("loss.dice_per", self.dice_per, DICE_PER, "Use image, or row as in AdaCLIP's public code."),
        )
        if not any(value for key, value in numbers.items() if key.endswith("_weight")):
            msg = "The loss weights must not all be 0, got 0 for each. Set at least one, for example to 1."
            raise ValueError(msg)


@dataclass
class OptimizerSettings:
    """``optimizer``."""

    name: str
    lr: float
    betas: list[float]
    weight_decay: float

    def __post_init__(self) -> None:
        refuse(
            one_of("optimizer.name", self.name, OPTIMIZERS, "Choose optimizer=adam or optimizer=adamw."),
            positive("optimizer.lr", self.lr),
            f"optimizer.lr must be at most {LARGEST_LR:g}, got {self.lr}. The paper's is 0.001."
            if self.lr > LARGEST_LR
            else None,
            not_negative("optimizer.weight_decay", self.weight_decay),
            None
            if len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
            else f"optimizer.betas must be two numbers in [0, 1), got {self.betas}. Adam's own are [0.9,0.999].",
        )


@dataclass
class ScheduleSettings:
    """``schedule``: the learning rate over the epochs."""

    name: str

    def __post_init__(self) -> None:
        refuse(one_of("schedule.name", self.name, SCHEDULES, "Choose schedule=NAME."))


@dataclass
class CosineScheduleSettings(ScheduleSettings):
    """``schedule=cosine``, which depends on how many epochs there will be."""

    num_epochs: int


@dataclass
class StepScheduleSettings(ScheduleSettings):
    """``schedule=steps``: the share of the rate that applies from each of some epochs on."""

    starts: list[int]
    shares: list[float]

    def __post_init__(self) -> None:
        super().__post_init__()
        ascends = all(first < second for first, second in pairwise(self.starts))
        refuse(
            None
            if self.starts[:1] == [0] and ascends
            else f"schedule.starts must be epochs that ascend from 0, got {self.starts}. Write schedule.starts=[0,5].",
            None
            if len(self.shares) == len(self.starts) and all(share > 0 for share in self.shares)
            else f"schedule.shares must be a positive share of optimizer.lr for each of schedule.starts={self.starts}, "
            f"got {self.shares}. Write schedule.shares=[1.0,0.1] for a tenth from the second on.",
        )


@dataclass
class TrainerSettings:
    """``trainer``: the arguments of Lightning's Trainer; ``devices`` counts processes on each machine."""

    accelerator: str
    devices: int | str
    num_nodes: int
    strategy: str
    precision: str
    max_epochs: int
    accumulate_grad_batches: int
    gradient_clip_val: float | None
    limit_train_batches: int | float
    log_every_n_steps: int
    deterministic: bool | str

    def __post_init__(self) -> None:
        for key in ("devices", "num_nodes"):
            value = getattr(self, key)
            if not (str(value).isdecimal() and int(value) > 0):
                msg = f"trainer.{key} must be a whole number of 1 or more, got {value}. It counts processes to start."
                raise ValueError(msg)
        several = self.num_processes > 1
        share = self.limit_train_batches
        refuse(
            one_of("trainer.accelerator", self.accelerator, ACCELERATORS, "Write trainer.accelerator=gpu or cpu."),
            None
            if (0 < share <= 1 if isinstance(share, float) else share >= 1)
            else f"trainer.limit_train_batches must be a share of an epoch's batches above 0 and up to 1.0, or their "
            f"number from 1 up, got {share}. Write trainer.limit_train_batches=1.0 for all.",
            positive("trainer.gradient_clip_val", self.gradient_clip_val),
            None
            if self.deterministic in DETERMINISTIC
            else f"trainer.deterministic must be true, false or warn, got {self.deterministic}. The default is warn.",
            *(
                positive(f"trainer.{key}", getattr(self, key))
                for key in ("max_epochs", "accumulate_grad_batches", "log_every_n_steps")
            ),
            one_of("trainer.precision", self.precision, PRECISIONS, "Scores are always float32."),
            one_of("trainer.strategy", self.strategy, STRATEGIES, "Use ddp.", " with several processes")
            if several
            else None,
        )

    @property
    def num_processes(self) -> int:
        """How many processes a run has, on all machines together."""
        return int(self.devices) * self.num_nodes


@dataclass
class WandbSettings:
    """``logger.wandb``."""

    project: str
    entity: str | None
    group: str | None
    tags: list[str]


@dataclass
class TensorBoardSettings:
    """``logger.tensorboard``."""

    flush_secs: int

    def __post_init__(self) -> None:
        refuse(positive("logger.tensorboard.flush_secs", self.flush_secs))


@dataclass
class MLflowSettings:
    """``logger.mlflow``."""

    experiment: str
    tracking_uri: str | None


@dataclass
class LoggerSettings:
    """``logger``: where metrics go in addition to the run folder."""

    wandb: WandbSettings | None
    tensorboard: TensorBoardSettings | None
    mlflow: MLflowSettings | None


@dataclass
class SearchSettings:
    """``search``: what a search optimises; its intervals are in the experiment file."""

    objective: str
    direction: str
    seed: int
    num_startup_trials: int

    def __post_init__(self) -> None:
        refuse(
            one_of("search.direction", self.direction, DIRECTIONS, "Choose one of them."),
            not_negative("search.seed", self.seed),
            positive("search.num_startup_trials", self.num_startup_trials),
        )


def refuse(*faults: str | None) -> None:
    """Raise all faults of a node at once.

    Raises:
        ValueError: If there is a fault; one line for each.
    """
    if found := [fault for fault in faults if fault]:
        raise ValueError("\n".join(found))


def positive(key: str, value: int | float | None) -> str | None:
    """Describe what is wrong with a value that is not positive, as NaN is not."""
    return None if value is None or value > 0 else f"{key} must be positive, got {value}. Change {key}=VALUE."


def not_negative(key: str, value: int | float) -> str | None:
    """Describe what is wrong with a value below 0 or NaN."""
    return None if value >= 0 else f"{key} must be 0 or more, got {value}. Change {key}=VALUE."


def one_of(key: str, value: str, known: Iterable[str], advice: str, when: str = "") -> str | None:
    """Describe what is wrong with a word that is not one of the known ones."""
    return None if value in known else f"{key} must be one of {', '.join(known)}{when}, got {value}. {advice}"
