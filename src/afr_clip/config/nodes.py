"""The config schema of each command, built from the settings classes, and its registration with Hydra."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from omegaconf import ListConfig, OmegaConf

from afr_clip.clip.settings import BackboneSettings
from afr_clip.inspection.settings import InspectionSettings, Rule, is_exported, share
from afr_clip.models.method_settings import MethodSettings, ModuleSettings
from afr_clip.processes.place import is_first, place
from afr_clip.settings import (
    FAIL_ON,
    METHOD_PACKAGES,
    AnnotationFormat,
    CosineScheduleSettings,
    DatasetSettings,
    DecideBy,
    ExportFormat,
    ExportPrecision,
    LoadingSettings,
    LoggerSettings,
    LossSettings,
    MapFormat,
    OptimizerSettings,
    ScheduleSettings,
    ScoringEngine,
    ScoringPlace,
    SearchSettings,
    StepScheduleSettings,
    TrainerSettings,
    not_negative,
    one_of,
    positive,
    refuse,
)

logger = logging.getLogger(__name__)


def _unchosen(kind: Any) -> Any:  # noqa: ANN401 - the field has the type
    """Stand for a group that is not chosen yet: a node whose keys are all missing.

    OmegaConf takes the class itself for that. A node that is missing as a whole could not be merged into where a key is
    a union of types.
    """
    return field(default=kind)


@dataclass
class ProtocolNode:
    """``protocol``: datasets to score after training, or several trainings by auxiliary dataset (``legs``).

    ``roots`` and ``categories`` are by dataset name.
    """

    targets: list[str]
    legs: dict[str, list[str]]
    roots: dict[str, str]
    categories: dict[str, list[str]]

    def __post_init__(self) -> None:
        refuse(*self._faults())

    def _faults(self) -> Iterator[str]:
        if self.legs and self.targets:
            yield (
                f"protocol.legs and protocol.targets exclude each other, got both; the targets are {self.targets}. "
                f"Leave the targets out, or choose protocol=no_targets."
            )
        for auxiliary, scored in self.legs.items():
            if auxiliary in scored:
                yield (
                    f"protocol.legs.{auxiliary} must not score what its model is trained on, got {scored}. Take it out."
                )
        lists = {"protocol.targets": self.targets} | {f"protocol.legs.{key}": leg for key, leg in self.legs.items()}
        for key, scored in lists.items():
            for repeated in {name for name in scored if scored.count(name) > 1}:
                yield f"{key} must name each dataset once, got {repeated} twice. Remove one."
        kind, given = ("legs", str(self.legs)) if self.legs else ("targets", str(self.targets))
        named = self.legs.keys() | {name for scored in lists.values() for name in scored}
        for key, by_name in (("roots", self.roots), ("categories", self.categories)):
            for name in by_name.keys() - named:
                yield f"protocol.{key} may only name datasets of protocol.{kind}={given}, got {name}. Add it there."


@dataclass(kw_only=True)
class CommandConfig:
    """The keys that every command takes."""

    task_name: str
    seed: int
    num_threads: int | None
    data_dir: str | None
    drawn_dir: str
    run_dir: str | None
    cache_dir: str
    backbone: BackboneSettings = _unchosen(BackboneSettings)
    module: ModuleSettings = _unchosen(ModuleSettings)
    data: LoadingSettings = _unchosen(LoadingSettings)
    trainer: TrainerSettings = _unchosen(TrainerSettings)
    logger: LoggerSettings = _unchosen(LoggerSettings)

    def __post_init__(self) -> None:
        refuse(positive("num_threads", self.num_threads), not_negative("seed", self.seed))


@dataclass(kw_only=True)
class TrainConfig(CommandConfig):
    """``afr-clip train``."""

    label: str | None
    resume: bool
    requeue: bool
    save_maps: bool
    map_format: MapFormat
    published_pro: bool
    num_figures: int
    figure_every_n_epochs: int
    keep_every_epoch: bool
    activation_checkpointing: bool
    dataset: DatasetSettings | None = _unchosen(DatasetSettings)
    loss: LossSettings = _unchosen(LossSettings)
    optimizer: OptimizerSettings = _unchosen(OptimizerSettings)
    schedule: ScheduleSettings = _unchosen(ScheduleSettings)
    protocol: ProtocolNode = _unchosen(ProtocolNode)

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(
            not_negative("num_figures", self.num_figures),
            positive("figure_every_n_epochs", self.figure_every_n_epochs),
            format_without_maps(self.map_format, save_maps=self.save_maps),
            "run_dir must be given with requeue=true, so that the requeued job finds it again. Add run_dir=DIR."
            if self.requeue and self.run_dir is None
            else None,
        )


@dataclass(kw_only=True)
class SweepConfig(TrainConfig):
    """``afr-clip sweep``: the keys that every cell gets, and the sweep's own."""

    seeds: list[int]
    sweep_dir: str
    jobs: int
    leave_out: list[str]
    dry_run: bool
    num_trials: int
    search: SearchSettings = _unchosen(SearchSettings)


@dataclass(kw_only=True)
class EvaluateConfig(CommandConfig):
    """``afr-clip evaluate``."""

    label: str | None
    checkpoint: str | None
    every_epoch: bool
    resume: bool
    save_maps: bool
    map_format: MapFormat
    published_pro: bool
    pixel_threshold: float | None
    num_figures: int
    dataset: DatasetSettings = _unchosen(DatasetSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse(
            not_negative("num_figures", self.num_figures),
            None
            if self.pixel_threshold is None or 0 <= self.pixel_threshold <= 1
            else f"pixel_threshold must be from 0 to 1, got {self.pixel_threshold}. Maps lie in [0, 1].",
            format_without_maps(self.map_format, save_maps=self.save_maps),
        )


def format_without_maps(map_format: MapFormat, *, save_maps: bool) -> str | None:
    """Describe what is wrong where a format is chosen for maps that are not saved."""
    if save_maps or MapFormat(map_format) is MapFormat.png:
        return None
    return f"map_format={MapFormat(map_format).value} must come with save_maps=true, got save_maps=false. Add it."


@dataclass(kw_only=True)
class InspectConfig(CommandConfig):
    """The keys of the commands that look at photographs; see `InspectionSettings`."""

    checkpoint: str | None
    category: str | None
    engine: ScoringEngine
    tile: int | str | None
    overlap: float
    references: str | None
    roi: str | None
    ignore: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.category is not None and not self.category.strip():
            msg = f"category must say what the photographs show, got {self.category!r}. Write category='metal nut'."
            raise ValueError(msg)
        self.inspection()

    def inspection(self) -> InspectionSettings:
        """Return how photographs are inspected.

        Raises:
            ValueError: If keys are out of range or contradict each other; one sentence for each.
        """
        values: dict[str, Any] = {one.name: getattr(self, one.name, None) for one in fields(InspectionSettings)}
        for key, value in values.items():  # while OmegaConf builds this node, its lists are its own
            values[key] = list(value) if isinstance(value, ListConfig) else value
        return InspectionSettings(**values)


def check_images(images: Any) -> None:  # noqa: ANN401 - a text or a list of texts
    """Refuse what names no photographs.

    Raises:
        ValueError: If it does not.
    """
    names = [images] if isinstance(images, str) else images
    is_text = isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
    if not is_text or not names or not all(name.strip() for name in names):
        # An unset variable of a shell; as a path it would be the current folder.
        got = "nothing" if is_text else repr(images)
        msg = f"images must name photographs or folders, got {got}. Write images=FOLDER, or images=[ONE,OTHER]."
        raise ValueError(msg)


@dataclass(kw_only=True)
class PredictConfig(InspectConfig):
    """``afr-clip predict``."""

    resume: bool
    images: Any  # a text or a list of texts, which OmegaConf has no name for
    map_format: MapFormat
    calibration: str | None
    region_threshold: float | None
    mm_per_pixel: float | None
    min_area_mm2: float | None
    defects: list[str] | None
    compare_names: list[str] | None
    formats: list[AnnotationFormat]
    xlsx: bool
    fail_on: str | None
    runs_on: ScoringPlace
    workers: int
    shard_size: int
    ray_address: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_images(self.images)
        one_machine = [
            key for key in ("formats", "xlsx", "compare_names", "references", "roi", "ignore") if getattr(self, key)
        ]
        refuse(
            positive("workers", self.workers),
            positive("shard_size", self.shard_size),
            f"runs_on=ray writes scores and regions as Parquet, got {one_machine[0]} too. Leave it out, or "
            f"write runs_on=local."
            if ScoringPlace(self.runs_on) is ScoringPlace.ray and one_machine
            else None,
            None
            if self.fail_on in (None, *FAIL_ON)
            else one_of("fail_on", str(self.fail_on), FAIL_ON, "Write fail_on=anomalous."),
            "fail_on needs a decision, got no calibration. Add calibration=FILE; afr-clip calibrate writes one."
            if self.fail_on is not None and self.calibration is None and not is_exported(self.checkpoint or "")
            else None,
        )


@dataclass(kw_only=True)
class CalibrateConfig(InspectConfig):
    """``afr-clip calibrate``."""

    good: str
    false_alarms: float
    decide_by: DecideBy
    undecided: float | None
    bad: str | None
    escape: float | None
    best_f1: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rule()
        needs_bad = self.escape is not None or self.best_f1
        refuse(
            share("false_alarms", self.false_alarms),
            *(
                f"{key} must name a folder of photographs, got nothing. Write {key}=FOLDER."
                for key in ("good", "bad")
                if getattr(self, key) is not None and not getattr(self, key).strip()
            ),
            f"{'best_f1' if self.best_f1 else 'escape'} needs labelled bad parts, got none. Add bad=FOLDER."
            if needs_bad and self.bad is None
            else None,
        )

    def rule(self) -> Rule:
        """Return how thresholds are found."""
        return Rule(DecideBy(self.decide_by), self.undecided, self.escape, self.best_f1)


@dataclass(kw_only=True)
class ExportConfig(CommandConfig):
    """``afr-clip export``."""

    checkpoint: str | None
    categories: list[str]
    to: ExportFormat
    precision: ExportPrecision
    good: str | None
    calibration: str | None
    images: Any  # as those of `PredictConfig`, or null
    licence: str | None
    dataset: DatasetSettings | None = _unchosen(DatasetSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [str(name) for name in self.categories]
        is_int8 = ExportPrecision(self.precision) is ExportPrecision.int8
        only_int8 = [key for key in ("dataset", "good") if getattr(self, key) is not None]
        got = "nothing" if not names else f"[{','.join(names)}]"
        refuse(
            None
            if 0 < len({*filter(str.strip, names)}) == len(names)
            else f"categories must be different words, got {got}. Write categories=['metal nut'], or [a,b].",
            f"calibration belongs to one category, got {len(names)}. Write categories=[ONE], or leave it out."
            if self.calibration is not None and len(names) > 1
            else None,
            f"An export computes in float32, got trainer.precision={self.trainer.precision}. Leave it out."
            if self.trainer.precision != "32-true"
            else None,
            "precision=int8 changes scores, so it needs labelled photographs to measure how much, got no dataset. Add "
            "dataset=NAME, or dataset=folder dataset.root=DIR."
            if is_int8 and self.dataset is None
            else None,
            "precision=int8 changes scores, so a calibration of the checkpoint does not hold for it. Leave out "
            "calibration, and run afr-clip calibrate with the exported model."
            if is_int8 and self.calibration is not None
            else None,
            f"{only_int8[0]} is read for precision=int8 only, got precision=float32. Leave it out, or add "
            f"precision=int8."
            if only_int8 and not is_int8
            else None,
        )
        if self.images is not None:
            check_images(self.images)


@dataclass(kw_only=True)
class DiagnoseConfig(CommandConfig):
    """``afr-clip diagnose``."""

    untrained: bool
    wrong_category: str
    dataset: DatasetSettings | None = _unchosen(DatasetSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.wrong_category.strip():
            msg = f"wrong_category must be a word, got {self.wrong_category!r}. Write wrong_category=banana."
            raise ValueError(msg)


COMMANDS: dict[str, type[CommandConfig]] = {
    "train": TrainConfig,
    "sweep": SweepConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "calibrate": CalibrateConfig,
    "export": ExportConfig,
    "diagnose": DiagnoseConfig,
}

GROUPS: dict[str, type] = {
    "backbone": BackboneSettings,
    "dataset": DatasetSettings,
    "data": LoadingSettings,
    "loss": LossSettings,
    "optimizer": OptimizerSettings,
    "schedule": ScheduleSettings,
    "trainer": TrainerSettings,
    "logger": LoggerSettings,
    "protocol": ProtocolNode,
}


@dataclass(frozen=True)
class Method:
    """A method that ``module=`` can choose: a folder of ``models/``, or a package that is installed.

    Attributes:
        name: What ``module=`` takes.
        package: What it is imported as; its ``settings.py`` and ``network.py`` are read.
        conf: The folder of its config files, with ``module/NAME.yaml`` in it.
    """

    name: str
    package: str
    conf: Path

    @property
    def file(self) -> Path:
        """The file that ``module=NAME`` chooses."""
        return self.conf / "module" / f"{self.name}.yaml"

    @property
    def settings(self) -> type[MethodSettings]:
        """The class of the keys of ``module.network``."""
        settings: type[MethodSettings] = import_module(f"{self.package}.settings").NetworkSettings
        return settings


@cache
def known_methods() -> Mapping[str, Method]:
    """Find all methods: the folders of ``models/``, then those of installed packages.

    A method needs no other entry anywhere. A package declares its own as an entry point of the group
    ``afr_clip.methods``; one that cannot be used is left out with a warning.
    """
    models = find_spec("afr_clip.models")
    assert models is not None, "the package has a folder of that name"
    names = [module.name for module in iter_modules(models.submodule_search_locations) if module.ispkg]
    found = {name: Method(name, f"afr_clip.models.{name}", Path(config_dir())) for name in names}
    for entry in sorted(entry_points(group=METHOD_PACKAGES), key=lambda entry: entry.name):
        try:
            found[entry.name] = _installed_method(entry.name, entry.value, found)
        except Exception as error:  # a broken third-party package must not break every command
            owner = "a package" if entry.dist is None else entry.dist.name
            said = " ".join(str(error).split())
            fault = said if isinstance(error, _UnusableError) else f"{type(error).__name__}: {said}"
            logger.warning("module=%s of %s is left out: %s. Repair or remove that package.", entry.name, owner, fault)
    return found


def method_names() -> list[str]:
    """List the names of all methods."""
    return list(known_methods())


class _UnusableError(ValueError):
    """An installed package is not a method."""


def _installed_method(name: str, package: str, taken: Mapping[str, Method]) -> Method:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        msg = f"its entry point must name a package, got {package}"
        raise _UnusableError(msg)
    method = Method(name, package, Path(spec.submodule_search_locations[0], "conf"))
    if not method.name.isidentifier() or method.name in taken:
        msg = "its name must be an identifier that no other method has"
        raise _UnusableError(msg)
    if not method.file.is_file():
        msg = f"it has no file {method.file}"
        raise _UnusableError(msg)
    if OmegaConf.select(OmegaConf.load(method.file), "name") != method.name:
        msg = f"{method.file} must hold name: {method.name}"
        raise _UnusableError(msg)
    settings: Any = import_module(f"{method.package}.settings").NetworkSettings
    if not issubclass(settings, MethodSettings):
        msg = f"{package}.settings.NetworkSettings must derive from MethodSettings"
        raise _UnusableError(msg)
    return method


@cache
def module_schema(method: str) -> type:
    """Return the schema of ``module=METHOD``, with the network keys that the method declares in its ``settings.py``."""
    network = known_methods()[method].settings
    return make_dataclass(f"{method}_module", [("network", network, _unchosen(network))], bases=(ModuleSettings,))


def config_dir() -> str:
    """Return the folder of the YAML files: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return str(installed if installed.is_dir() else package.parents[1] / "conf")


def register() -> None:
    """Make the schemas known to Hydra; each YAML file of a group starts from its schema."""
    from hydra.core.config_store import ConfigStore  # noqa: PLC0415 - the Python API needs the schemas, but not Hydra
    from hydra.core.plugins import Plugins  # noqa: PLC0415

    from afr_clip.config.search_path import MethodFolders  # noqa: PLC0415

    Plugins.instance().register(MethodFolders)
    store = ConfigStore.instance()
    for name, node in COMMANDS.items():
        store.store(name=f"{name}_schema", node=node)
    for group, schema in GROUPS.items():
        store.store(group=group, name="schema", node=schema)
    store.store(group="schedule", name="cosine_schema", node=CosineScheduleSettings)
    store.store(group="schedule", name="steps_schema", node=StepScheduleSettings)
    for method in method_names():
        store.store(group="module", name=f"{method}_schema", node=module_schema(method))
    for resolver in (first_given, on_first, process_suffix):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    for name in ("for_dataset", "for_method"):  # the same table under the name that says what its keys are
        OmegaConf.register_new_resolver(name, value_for, replace=True)


def first_given(*values: Any) -> Any:  # noqa: ANN401 - OmegaConf hands over whatever the config holds
    """Return the first value that is neither ``None`` nor empty; gives ``run_dir`` a default in Hydra's own key."""
    return next((value for value in values if value not in (None, "")), None)


def value_for(name: str | None, usual: Any, others: Mapping[str, Any]) -> Any:  # noqa: ANN401 - values of any type
    """Return what a recipe has for a dataset, or an experiment for a method: a value of its own, or the usual one."""
    return others.get(name or "", usual)


def on_first(value: Any, otherwise: Any) -> Any:  # noqa: ANN401 - values of any type
    """Return one value in the first process of a run and another in the others."""
    return value if is_first() else otherwise


def process_suffix() -> str:
    """Return what tells the log file of a process from that of the first one."""
    return "" if is_first() else f".rank{place().rank}"
