"""From the config of a command to its job: the only place that converts one into the other."""

import copy
import functools
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from afr_clip.clip.settings import BackboneSettings
from afr_clip.config.axes import quoted
from afr_clip.config.nodes import (
    CalibrateConfig,
    CommandConfig,
    DiagnoseConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    TrainConfig,
    config_dir,
    register,
)
from afr_clip.config.restore import FILES, is_packaged, known_group, plain_values, restored_group
from afr_clip.config.validate import ConfigError, read
from afr_clip.files import natural_order, shown
from afr_clip.inspection.settings import InspectionSettings
from afr_clip.models.method_settings import ModuleSettings
from afr_clip.prompts.ensemble import AGNOSTIC_NAME
from afr_clip.reports.record.run_folder import holds_finished_prediction
from afr_clip.run.job import (
    CalibrationJob,
    DiagnosisJob,
    EvaluationJob,
    ExportJob,
    PredictionJob,
    ProtocolJob,
    Record,
    Spread,
    TrainingJob,
)
from afr_clip.settings import DatasetSettings, ScoringEngine, ScoringPlace

OUTPUT = ("save_maps", "map_format", "published_pro", "num_figures")
"""Keys of every command that scores datasets: what it computes and writes in addition to its usual metrics."""

_MODEL_GROUPS = ("backbone", "module")

_MAY_CHANGE = (
    "module.network.scoring.temperature",
    "module.network.scoring.image_score",
    "module.network.scoring.smoothing_sigma",
    "module.network.released_weights",
    "module.network.shots",
    "backbone.image_size",
    "backbone.weights",
    "backbone.pretrained",
    "backbone.cnn.weights",
    "backbone.cnn.pretrained",
)
"""Keys that leave the trained network as it is; the fingerprint still demands the same frozen weights."""


def training_job(config: DictConfig, folder: Path, record: Record) -> TrainingJob | ProtocolJob:
    """Make the job of ``afr-clip train``.

    Args:
        record: What was typed and chosen; its name and config are replaced.

    Returns:
        One training, or those of a protocol with legs.

    Raises:
        ConfigError: If the config is wrong, or names an unknown target.
    """
    typed = read(config, TrainConfig)
    if typed.protocol.legs:
        legs = (_leg(name, config, folder / name, record) for name in typed.protocol.legs)
        return ProtocolJob(folder, tuple(legs))
    assert typed.dataset is not None, "only legs go without"
    targets = [compose_target(name, config.protocol, config.dataset) for name in typed.protocol.targets]
    return TrainingJob(
        **_shared(typed, config, folder, record),
        targets=tuple(_dataset(node) for node in targets),
        auxiliary=typed.dataset,
        **_same(typed, "loss", "optimizer", "schedule", "resume", "requeue", *OUTPUT),
        **_same(typed, "figure_every_n_epochs", "keep_every_epoch", "activation_checkpointing"),
    )


def composed_training(*overrides: str, folder: Path = Path("outputs")) -> TrainingJob:
    """Make the job that ``afr-clip train OVERRIDES`` would run, outside a command: for benchmarks and notebooks."""
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        job = training_job(compose("train", list(overrides)), folder, Record("train", overrides, {}, {}))
    assert isinstance(job, TrainingJob), "a protocol with legs is several jobs"
    return job


def composed_model(*overrides: str) -> tuple[BackboneSettings, ModuleSettings]:
    """Compose backbone and method as ``module=NAME`` and other overrides choose them, without data.

    Raises:
        ConfigError: If a value is wrong.
    """
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = compose("evaluate", list(overrides))
    try:
        backbone, module = (OmegaConf.to_object(config[group]) for group in _MODEL_GROUPS)
    except ValueError as error:  # raised by the settings; OmegaConf's ValidationError is a ValueError too
        raise ConfigError(str(error)) from error
    assert isinstance(backbone, BackboneSettings), "as its schema is"
    assert isinstance(module, ModuleSettings), "as its schema is"
    return backbone, module


def evaluation_job(config: DictConfig, folder: Path, record: Record) -> EvaluationJob:
    """Make the job of ``afr-clip evaluate``; the config holds the checkpoint's own model already."""
    typed = read(config, EvaluateConfig)
    shared = _shared(typed, config, folder, record)
    own = _same(typed, "resume", "every_epoch", "pixel_threshold", *OUTPUT)
    return EvaluationJob(**shared, targets=(typed.dataset,), **own)


def composed_evaluation(
    trained_with: Mapping[str, Any], *overrides: str, folder: Path = Path("outputs")
) -> EvaluationJob:
    """Make the job that ``afr-clip evaluate OVERRIDES`` would run, outside a command: for benchmarks and notebooks.

    Args:
        trained_with: The config in the checkpoint that is scored.
    """
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = restore_model(compose("evaluate", list(overrides)), trained_with, overrides)
        return evaluation_job(config, folder, Record("evaluate", overrides, {}, {}))


def prediction_job(config: DictConfig, folder: Path, record: Record) -> PredictionJob:
    """Make the job of ``afr-clip predict``; the config holds the checkpoint's own model already."""
    typed = read(config, PredictConfig)
    shared = _shared(typed, config, folder, record)
    spread, images = None, () if typed.runs_on is ScoringPlace.ray else tuple(expanded_images(typed.images))
    if typed.runs_on is ScoringPlace.ray:
        given = tuple(placed_images(typed.images))
        spread = Spread(given, typed.workers, typed.shard_size, typed.ray_address)
    return PredictionJob(
        **shared,
        images=images,
        spread=spread,
        inspection=typed.inspection(),
        formats=tuple(typed.formats),
        resume=resumes(typed, folder),
        category=typed.category or AGNOSTIC_NAME,
        is_named=typed.category is not None,
        **_same(typed, "map_format", "fail_on", "xlsx"),
    )


def resumes(typed: CommandConfig, folder: Path) -> bool:
    """Whether a command continues the run in its folder: on request, or to write a finished one in more formats."""
    wants_more = isinstance(typed, PredictConfig) and (typed.xlsx or len(typed.formats) > 0)
    return getattr(typed, "resume", False) or (wants_more and holds_finished_prediction(folder))


def calibration_job(config: DictConfig, folder: Path, record: Record) -> CalibrationJob:
    """Make the job of ``afr-clip calibrate``; the config holds the checkpoint's own model already."""
    typed = read(config, CalibrateConfig)
    return CalibrationJob(
        **_shared(typed, config, folder, record),
        good=Path(typed.good),
        bad=None if typed.bad is None else Path(typed.bad),
        rule=typed.rule(),
        inspection=typed.inspection(),
        category=typed.category or AGNOSTIC_NAME,
        false_alarms=typed.false_alarms,
    )


def export_job(config: DictConfig, folder: Path, record: Record) -> ExportJob:
    """Make the job of ``afr-clip export``; the config holds the checkpoint's own model already."""
    typed = read(config, ExportConfig)
    shared = _shared(typed, config, folder, record)
    values: dict[str, Any] = dict.fromkeys(one.name for one in fields(InspectionSettings))
    values |= {"overlap": 0.25, "engine": ScoringEngine.torch, "calibration": typed.calibration}
    return ExportJob(
        # What a GPU computes differs too much from what a file does on a CPU.
        **shared | {"trainer": replace(typed.trainer, accelerator="cpu")},
        categories=tuple(typed.categories),
        images=() if typed.images is None else tuple(expanded_images(typed.images)),
        inspection=InspectionSettings(**values),
        good=None if typed.good is None else Path(typed.good),
        **_same(typed, "to", "precision", "dataset", "licence"),
    )


def expanded_images(images: str | Sequence[str]) -> Iterator[Path]:
    """Yield the files and folders that ``images`` names; the name of an existing file is not taken for a pattern.

    Raises:
        ConfigError: If a pattern matches nothing.
    """
    for name in [images] if isinstance(images, str) else images:
        if os.path.lexists(name) or not glob.has_magic(name):
            yield Path(name)
            continue
        found = sorted(map(Path, glob.glob(name, recursive=True)), key=natural_order)  # noqa: PTH207 - a pattern of any root
        if not found:
            msg = f"images={shown(name)} matches no file. Check the pattern, or write images=FOLDER."
            raise ConfigError(msg)
        yield from found


def placed_images(images: str | Sequence[str]) -> Iterator[str]:
    """Yield what ``images`` names for ``runs_on=ray``: URLs as they are, and else what `expanded_images` yields.

    Raises:
        ConfigError: If a pattern matches nothing.
    """
    for name in [images] if isinstance(images, str) else images:
        if "://" in name:
            yield name
        else:
            yield from map(str, expanded_images(name))


def diagnosis_job(config: DictConfig, run: Mapping[str, Any] | None, folder: Path, record: Record) -> DiagnosisJob:
    """Make the job of ``afr-clip diagnose``.

    Args:
        run: The manifest of the run in the folder, which provides the model, and seed, precision and datasets unless
            they are typed; ``None`` if the folder holds no run.

    Raises:
        ConfigError: If the config is wrong, the model typed is not the run's, or there is nothing to score.
    """
    checkpoint, recorded = None, {}
    targets: tuple[DatasetSettings, ...] = ()
    if run is not None:
        config = restore_model(config, run["config"], record.overrides)
        typed_keys = {override.lstrip("+").split("=", 1)[0] for override in record.overrides}
        for key in {"seed", "trainer.precision"} - typed_keys:
            OmegaConf.update(config, key, OmegaConf.select(OmegaConf.create(dict(run["config"])), key))
        recorded = {name: facts["sha256"] for name, facts in run["targets"].items()}
        if "dataset" not in typed_keys:
            if not recorded:
                msg = f"The run in {folder} scored no dataset. Add dataset=NAME."
                raise ConfigError(msg)
            has_moved = not typed_keys.isdisjoint({"data_dir", "drawn_dir"})
            targets = tuple(_dataset(node) for node in _scored_datasets(run, has_moved=has_moved))
            config.dataset = None
        if not config.untrained:
            source = run.get("checkpoint")
            own = folder / "checkpoints" / "last.ckpt" if run["command"] == "train" else None
            checkpoint = own if source is None else Path(source["path"])
    typed = read(config, DiagnoseConfig)
    return DiagnosisJob(
        **_shared(typed, config, folder, record),
        **_same(typed, "untrained", "wrong_category"),
        targets=targets if typed.dataset is None else (typed.dataset,),
        checkpoint=checkpoint,
        recorded=recorded,
    )


def composed_diagnosis(
    folder: Path, run: Mapping[str, Any], *overrides: str, dataset: str | None = None
) -> DiagnosisJob:
    """Make the job that ``afr-clip diagnose FOLDER OVERRIDES`` would run, outside a command.

    Args:
        run: The manifest of the run in the folder.
        dataset: The one to load: one that the run scored, where it lay then, or any other of ``dataset=``.
    """
    if dataset in run["targets"]:
        run = {**run, "targets": {dataset: run["targets"][dataset]}}
    elif dataset is not None:
        overrides = (*overrides, f"dataset={quoted(dataset)}")
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = compose("diagnose", list(overrides))
        return diagnosis_job(config, run, folder, Record("diagnose", overrides, {}, {}))


def _scored_datasets(run: Mapping[str, Any], *, has_moved: bool) -> Iterator[DictConfig]:
    """Yield the datasets that a run scored, at the root that it recorded if there still is such a folder.

    Args:
        has_moved: Whether another place was typed, so that recorded roots do not count.
    """
    own = compose_groups(dataset="folder").dataset
    own.merge_with(plain_values(run["config"]["dataset"]))
    for name, facts in run["targets"].items():
        is_own = run["command"] == "evaluate"
        node = own.copy() if is_own else compose_target(name, OmegaConf.create(run["config"]["protocol"]), own)
        if not has_moved and Path(facts["root"]).is_dir():
            node.root = facts["root"]
        yield node


def _shared(typed: CommandConfig, config: DictConfig, folder: Path, record: Record) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    by_dataset = tuple(_chosen_by_dataset(OmegaConf.to_container(config)))
    values = {**plain, "run_dir": str(folder)}
    return _same(typed, "seed", "num_threads", "backbone", "module", "data", "trainer", "logger") | {
        "folder": folder,
        "data_dir": None if typed.data_dir is None else Path(typed.data_dir),
        "drawn_dir": Path(typed.drawn_dir),
        "cache_dir": Path(typed.cache_dir),
        "record": Record(typed.task_name, record.overrides, record.choices, values, by_dataset),
    }


def _chosen_by_dataset(node: Any, key: str = "") -> Iterator[str]:  # noqa: ANN401 - any part of a config
    """Yield the keys that a recipe sets with ``for_dataset`` and that nothing else has set since."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _chosen_by_dataset(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, str) and node.startswith("${for_dataset:"):
        yield key


def _same(typed: CommandConfig, *names: str) -> dict[str, Any]:
    return {name: getattr(typed, name) for name in names}


def _dataset(node: DictConfig) -> DatasetSettings:
    settings = OmegaConf.to_object(node)
    assert isinstance(settings, DatasetSettings), "each file of the group starts from its schema"
    return settings


def _leg(auxiliary: str, config: DictConfig, folder: Path, record: Record) -> TrainingJob:
    """Make one leg of a protocol: the job that ``dataset=`` and ``protocol.targets=`` would give."""
    protocol, targets = config.protocol, list(config.protocol.legs[auxiliary])
    leg = copy.deepcopy(config)
    leg.dataset = compose_target(auxiliary, protocol)
    leg.protocol.legs, leg.protocol.targets = {}, targets
    for key in ("roots", "categories"):
        leg.protocol[key] = {name: value for name, value in protocol[key].items() if name in targets}
    job = training_job(leg, folder, record)
    assert isinstance(job, TrainingJob), "a leg has no legs"
    return job


def compose_target(name: str, protocol: DictConfig, auxiliary: DictConfig | None = None) -> DictConfig:
    """Make the dataset node of a target: ``conf/dataset/NAME.yaml``, or a folder of the user's own under that name.

    Args:
        name: An entry of ``protocol.targets`` or a key of ``protocol.legs``.
        protocol: Its ``roots`` and ``categories`` go into the node.
        auxiliary: What is trained on; a target of the same name is other categories of the same files.

    Raises:
        ConfigError: If there is no such config and no root for it.
    """
    if auxiliary is not None and auxiliary.name == name:
        node = copy.deepcopy(auxiliary)
        node.categories = None
    else:
        known = known_datasets()
        own = name if name in known else "folder"
        if own != name and name not in protocol.roots:
            msg = (
                f"protocol.targets must name datasets ({', '.join(known)}), got {name}. To use a folder of your own "
                f"under that name, add +protocol.roots.{name}=DIR."
            )
            raise ConfigError(msg)
        node = copy.deepcopy(_dataset_file(own, GlobalHydra.instance().config_loader()))
    node.name = name
    node.root = protocol.roots.get(name, node.root)
    node.categories = protocol.categories.get(name, node.categories)
    return node


def known_datasets() -> list[str]:
    """List the datasets that have a file, of which there may be more with ``--config-dir``."""
    return _dataset_files(GlobalHydra.instance().config_loader())


@functools.cache
def _dataset_files(_loader: object) -> list[str]:
    return group_options("dataset")


@functools.cache
def _dataset_file(name: str, _loader: object) -> DictConfig:
    """Compose a dataset once for all legs and cells that score it.

    Args:
        _loader: Hydra's; another one may read other files.
    """
    return compose_groups(dataset=name).dataset


def compose_groups(**choices: str) -> DictConfig:
    """Read each ``conf/GROUP/NAME.yaml`` with its schema, as ``GROUP=NAME`` would.

    Raises:
        ConfigError: If there is no such file.
    """
    for group, name in choices.items():
        known = group_options(group)
        if name not in known:
            named = ", ".join(one for one in known if not one.endswith("_schema"))
            package = " If a package brings that method, install it." if group == "module" else ""
            msg = f"{group} must be one of {named}, got {name}. Add your own file with --config-dir.{package}"
            raise ConfigError(msg)
    # A method's file chooses its backbone too, so it is composed where there is one.
    return compose("evaluate", overrides=[f"{group}={name}" for group, name in choices.items()])


def group_options(group: str, overrides: Sequence[str] = ()) -> list[str]:
    """List the files of a config group; ``hydra.searchpath`` among the overrides adds folders."""
    loader = GlobalHydra.instance().config_loader()
    options = loader.get_group_options(group, config_name="train", overrides=list(overrides))
    return [option for option in options if option != "schema"]


def typed_overrides() -> list[str]:
    """Return the overrides on this command line, as ``key=value``."""
    return list(HydraConfig.get().overrides.task)


def current_record() -> Record:
    """Return the record of the running command; its name and config are added when the job is made."""
    hydra = HydraConfig.get()
    choices = {group: name for group, name in hydra.runtime.choices.items() if not group.startswith("hydra/")}
    for override in hydra.overrides.task:  # Hydra does not count a list of files as a choice
        group, _, names = override.partition("=")
        if group not in choices and "." not in group and re.fullmatch(r"\[[\w, /]+\]", names):
            choices[group] = [name.strip() for name in names[1:-1].split(",")]
    return Record("", typed_overrides(), choices, {})


def output_dir() -> Path:
    """Return the run folder that Hydra made for this command."""
    return Path(HydraConfig.get().runtime.output_dir)


def restore_model(
    config: DictConfig, trained_with: Mapping[str, Any], overrides: Sequence[str], *, reads_files: bool = True
) -> DictConfig:
    """Put a checkpoint's own model into the config of a command.

    Backbone and module become what the checkpoint was trained with. Where the frozen weights lie, how similarities
    become scores and the input size may be typed; nothing that would make it another network. Import paths in old
    checkpoints are ignored: what runs is decided by names that this version knows. So are files: those that a
    checkpoint names must be typed.

    Args:
        config: The composed config of the command.
        trained_with: The resolved config in the checkpoint.
        reads_files: Whether the files that it names will be read. An exported model needs none of them.

    Returns:
        A copy with the model replaced.

    Raises:
        ConfigError: If another model was typed than the checkpoint has, its config does not fit this version, or it
            names a file that was not typed.
    """
    keys = [override.lstrip("+~").split("=", 1)[0] for override in overrides]
    restored = copy.deepcopy(config)
    names = {group: trained_with[group]["name"] for group in _MODEL_GROUPS}
    for group, own in names.items():
        typed = config[group].name
        if group in keys and typed != own:
            msg = f"The checkpoint was trained with {group}={own}, got {group}={typed}. Leave {group}= out."
            raise ConfigError(msg)
    is_ours = all(is_packaged(group, name) for group, name in names.items())  # reading is faster than composing
    known = {group: known_group(group, name) for group, name in names.items()} if is_ours else compose_groups(**names)
    for group in _MODEL_GROUPS:
        restored[group] = restored_group(group, known[group], trained_with[group], keys if reads_files else FILES)
    learned = OmegaConf.select(restored, "module.network.scoring.learnable_temperature", default=False)
    for key in (key for key in keys if key.split(".")[0] in _MODEL_GROUPS and "." in key):
        if not key.startswith(_MAY_CHANGE) or (learned and key.endswith("temperature")):
            msg = (
                f"{key} belongs to the trained network and cannot be changed, got {key} on the command line. Leave it "
                f"out; only {', '.join(_MAY_CHANGE)} may change after training, the temperature only if it was not "
                f"learned."
            )
            raise ConfigError(msg)
        OmegaConf.update(restored, key, OmegaConf.select(config, key))
    return restored
