"""The types of every config key. Values live in ``conf/``, ranges in the settings classes and in ``validate``."""

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from afr_clip.config.methods import declared_by, method_names, schema_of
from afr_clip.models.method_settings import CategoryNames
from afr_clip.processes.place import is_first, place
from drawn_anomalies.settings import DrawnSet


@dataclass
class CNNConfig:
    """``backbone.cnn``: the CNN of self prompting."""

    _target_: str = MISSING
    architecture: str = MISSING
    pretrained: bool = MISSING
    weights: str | None = MISSING
    random_weights: bool = MISSING
    stages: list[int] = MISSING


@dataclass
class BackboneConfig:
    """``backbone``: which CLIP."""

    _target_: str = MISSING
    name: str = MISSING
    architecture: str = MISSING
    pretrained: str | None = MISSING
    weights: str | None = MISSING
    random_weights: bool = MISSING
    quick_gelu: bool = MISSING
    other_activation: bool = MISSING
    image_size: int = MISSING
    tap_layers: list[int] | None = MISSING
    cnn_stem: bool = MISSING
    cnn: CNNConfig = field(default_factory=CNNConfig)


@dataclass
class NetworkConfig:
    """``module.network``: what every method's network has; the rest is read off its ``NetworkSettings``."""

    _target_: str = MISSING


@dataclass
class ModuleConfig:
    """``module``: which method."""

    name: str = MISSING
    category_names: CategoryNames = MISSING
    network: NetworkConfig = field(default_factory=NetworkConfig)


@dataclass
class DrawnConfig:
    """``dataset.drawn``: a dataset that is drawn instead of downloaded."""

    _target_: str = MISSING
    categories: DrawnSet = MISSING
    images_per_category: int = MISSING
    size: int = MISSING
    defect_scale: float = MISSING
    least_contrast: float = MISSING
    least_area: float = MISSING
    seed: int = MISSING


@dataclass
class DatasetConfig:
    """``dataset``: what is read from disk; ``drawn`` is for the few that are written there first."""

    name: str = MISSING
    layout: str = MISSING
    root: str | None = MISSING
    categories: list[str] | None = MISSING
    drawn: DrawnConfig | None = MISSING


@dataclass
class DataConfig:
    """``data``: how it is loaded."""

    batch_size: int = MISSING
    eval_batch_size: int = MISSING
    num_workers: int = MISSING
    augment: bool = MISSING
    mosaic: float = MISSING
    cache: bool = MISSING
    feature_cache: bool = MISSING
    feature_dtype: str = MISSING


@dataclass
class LossConfig:
    """``loss``."""

    _target_: str = MISSING
    image_weight: float = MISSING
    focal_weight: float = MISSING
    dice_weight: float = MISSING
    complement_weight: float = MISSING
    focal_gamma: float = MISSING
    image_gamma: float = MISSING


@dataclass
class OptimizerConfig:
    """``optimizer``."""

    _target_: str = MISSING
    _partial_: bool = MISSING
    lr: float = MISSING
    betas: list[float] = MISSING
    weight_decay: float = MISSING


@dataclass
class ScheduleConfig:
    """``schedule``: the learning rate over the epochs."""

    _target_: str = MISSING
    _partial_: bool = MISSING


@dataclass
class CosineScheduleConfig(ScheduleConfig):
    """``schedule``: a learning rate that depends on how many epochs there will be."""

    num_epochs: int = MISSING


@dataclass
class TrainerConfig:
    """``trainer``: Lightning's Trainer."""

    _target_: str = MISSING
    accelerator: str = MISSING
    devices: int | str = MISSING
    num_nodes: int = MISSING
    strategy: str = MISSING
    precision: str = MISSING
    max_epochs: int = MISSING
    accumulate_grad_batches: int = MISSING
    gradient_clip_val: float | None = MISSING
    limit_train_batches: int | float = MISSING
    log_every_n_steps: int = MISSING
    deterministic: bool | str = MISSING


@dataclass
class WandbConfig:
    """``logger.wandb``."""

    project: str = MISSING
    entity: str | None = MISSING
    group: str | None = MISSING
    tags: list[str] = MISSING


@dataclass
class TensorBoardConfig:
    """``logger.tensorboard``."""

    flush_secs: int = MISSING


@dataclass
class MLflowConfig:
    """``logger.mlflow``."""

    experiment: str = MISSING
    tracking_uri: str | None = MISSING


@dataclass
class LoggerConfig:
    """``logger``: where metrics go besides the run folder."""

    wandb: WandbConfig | None = MISSING
    tensorboard: TensorBoardConfig | None = MISSING
    mlflow: MLflowConfig | None = MISSING


@dataclass
class ProtocolConfig:
    """``protocol``: which datasets are scored after training, or trainings by auxiliary dataset, each with its targets.

    Roots and categories are by dataset name.
    """

    targets: list[str] = MISSING
    legs: dict[str, list[str]] = MISSING
    roots: dict[str, str] = MISSING
    categories: dict[str, list[str]] = MISSING


@dataclass
class CommandConfig:
    """What every command takes."""

    task_name: str = MISSING
    seed: int = MISSING
    num_threads: int | None = MISSING
    data_dir: str | None = MISSING
    drawn_dir: str = MISSING
    run_dir: str | None = MISSING
    cache_dir: str = MISSING
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    module: ModuleConfig = field(default_factory=ModuleConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


@dataclass
class TrainConfig(CommandConfig):
    """``python -m afr_clip.train``."""

    resume: bool = MISSING
    requeue: bool = MISSING
    save_maps: bool = MISSING
    num_figures: int = MISSING
    figure_every_n_epochs: int = MISSING
    activation_checkpointing: bool = MISSING
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)


@dataclass
class SearchConfig:
    """``search``: what a search looks for; where it looks are the intervals of its experiment file."""

    objective: str = MISSING
    direction: str = MISSING
    seed: int = MISSING
    num_startup_trials: int = MISSING


@dataclass
class SweepConfig(TrainConfig):
    """``python -m afr_clip.sweep``: what is passed on to every cell, and the sweep's own."""

    seeds: list[int] = MISSING
    sweep_dir: str = MISSING
    jobs: int = MISSING
    leave_out: list[str] = MISSING
    dry_run: bool = MISSING
    num_trials: int = MISSING
    cell: str | None = MISSING
    search: SearchConfig = field(default_factory=SearchConfig)


@dataclass
class EvaluateConfig(CommandConfig):
    """``python -m afr_clip.evaluate``."""

    checkpoint: str = MISSING
    save_maps: bool = MISSING
    num_figures: int = MISSING
    dataset: DatasetConfig = field(default_factory=DatasetConfig)


@dataclass
class PredictConfig(CommandConfig):
    """``python -m afr_clip.predict``."""

    checkpoint: str = MISSING
    images: str = MISSING
    category: str = MISSING


def first_given(*values: Any) -> Any:  # noqa: ANN401 - OmegaConf hands over whatever the config holds
    """Return the first value that is neither ``None`` nor empty; gives ``run_dir`` a default in Hydra's own key."""
    return next((value for value in values if value not in (None, "")), None)


def for_dataset(name: str, usual: Any, others: Mapping[str, Any]) -> Any:  # noqa: ANN401 - values of any type
    """Return what a recipe says for a dataset: a value of its own, or the usual one."""
    return others.get(name, usual)


def on_first(value: Any, otherwise: Any) -> Any:  # noqa: ANN401 - values of any type
    """Return what holds for the first process of a run, or what holds for the others."""
    return value if is_first() else otherwise


def process_suffix() -> str:
    """Return what tells the log of a process from that of the first one."""
    return "" if is_first() else f".rank{place().rank}"


def module_schema(method: str) -> type:
    """Return the schema of ``module=METHOD``.

    Args:
        method: A folder of ``models/``.

    Returns:
        A ``ModuleConfig`` whose network has the keys of the method's ``NetworkSettings``.
    """
    network = schema_of(declared_by(f"afr_clip.models.{method}"), bases=(NetworkConfig,))
    return make_dataclass(
        f"{method}_module", [("network", network, field(default_factory=network))], bases=(ModuleConfig,)
    )


def register() -> None:
    """Make the schemas known to Hydra; every YAML file of a group starts from its schema."""
    store = ConfigStore.instance()
    commands = {
        "train_schema": TrainConfig,
        "sweep_schema": SweepConfig,
        "evaluate_schema": EvaluateConfig,
        "predict_schema": PredictConfig,
    }
    for name, node in commands.items():
        store.store(name=name, node=node)
    groups = {
        "backbone": BackboneConfig,
        "dataset": DatasetConfig,
        "data": DataConfig,
        "loss": LossConfig,
        "optimizer": OptimizerConfig,
        "schedule": ScheduleConfig,
        "trainer": TrainerConfig,
        "logger": LoggerConfig,
        "protocol": ProtocolConfig,
    }
    for group, schema in groups.items():
        store.store(group=group, name="schema", node=schema)
    store.store(group="schedule", name="cosine_schema", node=CosineScheduleConfig)
    for method in method_names():
        store.store(group="module", name=f"{method}_schema", node=module_schema(method))
    OmegaConf.register_new_resolver("first_given", first_given, replace=True)
    OmegaConf.register_new_resolver("for_dataset", for_dataset, replace=True)
    OmegaConf.register_new_resolver("on_first", on_first, replace=True)
    OmegaConf.register_new_resolver("process_suffix", process_suffix, replace=True)
