"""From a validated config to the objects of a run."""

import hashlib
import logging
import sys
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from afr_clip.clip.load import Towers, check_architecture, load_towers
from afr_clip.clip.weights import weight_path
from afr_clip.config.assemble import build, optional_path, plain
from afr_clip.config.methods import settings_node
from afr_clip.config.restore import chosen_files, typed_overrides
from afr_clip.data.disk.layouts import title_of
from afr_clip.data.disk.loaded import LoadedDataset
from afr_clip.data.disk.reading import DatasetSpec
from afr_clip.data.feed.datamodule import DataSettings
from afr_clip.models.method_settings import MethodSettings
from afr_clip.processes.place import is_first, place
from afr_clip.processes.together import (
    StartedProcesses,
    from_first,
    in_turn,
    meet,
    require_same,
)
from afr_clip.reports.page import PAGE
from afr_clip.reports.record.manifest import build_manifest
from afr_clip.reports.record.run_folder import RunFolderError, open_run, write_json, write_text
from afr_clip.run.mirrors import build_mirrors
from afr_clip.run.precision import choose_precision
from afr_clip.training.callbacks import ForEachPrediction, show_progress
from afr_clip.training.loggers import MetricsCSV
from afr_clip.training.module import AnomalyDetectionModule
from drawn_anomalies.tree import drawn_dataset

logger = logging.getLogger(__name__)

EXPECTED_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode",  # the towers stay in eval mode on purpose
    r".*does not have many workers",  # data.num_workers is the user's choice
    r"The number of training batches .* is smaller than the logging interval",  # epoch means are logged all the same
    r"It is recommended to use `self.log\(.*sync_dist=True\)`",  # these are the same in all processes
    r"You're resuming from a checkpoint that ended before the epoch ended",  # and the sampler skips what was seen
    r".*LeafSpec.* is deprecated",  # Lightning 2.6 with torch 2.15; can go with Lightning 2.7
)


_MEASURED_ONCE = ("seconds_training", "seconds_scoring")
"""Facts that a continued run keeps, because it does not do again what was finished."""


@dataclass
class Run:
    """One run: its folder and its manifest, which grows as facts become known.

    Attributes:
        folder: Where everything is written.
        manifest: Plain values only.
        earlier: Manifest of the run that is continued; ``None`` for a new one.
    """

    folder: Path
    manifest: dict[str, Any]
    earlier: dict[str, Any] | None = None

    def note(self, **facts: Any) -> None:  # noqa: ANN401 - plain values of any kind
        """Add facts to the manifest; the first process of a run writes it, with the config beside it."""
        self.manifest |= facts
        if not is_first():
            return
        write_text(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(self.manifest["config"])))
        write_json(self.folder / "manifest.json", self.manifest)

    def note_unchanged(self, fact: str, key: str, values: dict[str, Any]) -> None:
        """Add a fact that a continued run must share with the one before.

        Args:
            fact: Its name in the manifest.
            key: The value that must be the same: a hash.
            values: Plain values.

        Raises:
            RunFolderError: If the earlier run had another one.
        """
        before = (self.earlier or {}).get(fact)
        if before is not None and before[key] != values[key]:
            msg = (
                f"A resumed run must meet the same {fact} as before, got another {key} ({values[key][:12]} instead of "
                f"{before[key][:12]}). Restore the files, or choose another run_dir."
            )
            raise RunFolderError(msg)
        self.note(**{fact: values})


def start_run(config: DictConfig, folder: Path, *, resume: bool = False) -> Run:
    """Open a run folder, fix seed and threads.

    Args:
        config: The config of the run.
        folder: Where everything is to be written.
        resume: Whether an earlier run in the folder is continued.

    Returns:
        The run; config and manifest are written with the first fact.

    Raises:
        RunFolderError: If the folder holds a run that is not continued, or one with another config.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    _quiet_libraries()
    meet(config.trainer.accelerator)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    values = recorded(config, folder)
    earlier = from_first(lambda: open_run(folder, resume=resume, config=values))
    manifest = build_manifest(config.task_name, typed_overrides(), values)
    run = Run(folder, manifest | {"choices": chosen_files(), "processes": place().world_size}, earlier)
    if "loss" in config:
        run.manifest["effective_batch_size"] = config.data.batch_size * config.trainer.accumulate_grad_batches
    if resume and earlier is None:
        logger.warning("resume=true found no run in %s, so this one starts from the beginning.", folder)
    if earlier is not None:
        history = [*earlier.get("resumed_from", []), {key: earlier[key] for key in ("commit", "started", "overrides")}]
        run.manifest["resumed_from"] = history
        run.manifest |= {key: earlier[key] for key in _MEASURED_ONCE if key in earlier}
    return run


def recorded(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Return a run's config as it goes on record: plain, and with the folder it got."""
    return plain(config) | {"run_dir": str(folder)}


def finish_run(folder: Path, page: Path | None = None) -> None:
    """Say where everything is, as the last line of stdout; before it where the page is, if there is one.

    Args:
        folder: The run folder.
        page: The page; the one in the folder unless given.
    """
    page = folder / PAGE if page is None else page
    if page.exists():
        sys.stdout.write(f"page: {page}\n")
    sys.stdout.write(f"run: {folder}\n")


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


def check_model(config: DictConfig) -> None:
    """Check backbone and method against each other before data or weights are read.

    Args:
        config: Its ``backbone`` and ``module`` are read.

    Raises:
        ValueError: If they contradict what open_clip knows, or each other.
    """
    tap_layers = check_architecture(build(config.backbone))
    settings: MethodSettings = build(settings_node(config.module.network))
    settings.check_taps(tap_layers)


def build_towers(config: DictConfig, run: Run) -> Towers:
    """Build the frozen towers and note their fingerprint.

    Args:
        config: Its ``backbone`` and ``module`` are read.
        run: Gets the fingerprint.

    Returns:
        The towers.
    """
    method: MethodSettings = build(settings_node(config.module.network))
    towers = load_towers(build(config.backbone), needs_cnn=method.needs_cnn)
    settings = towers.settings
    fingerprint = towers.fingerprint()
    require_same({"fingerprint of frozen weights": fingerprint})
    facts = {
        "name": settings.name,
        "architecture": settings.architecture,
        "random_weights": settings.random_weights,
        "fingerprint": fingerprint,
    }
    run.note_unchanged("backbone", "fingerprint", facts)
    return towers


def build_module(config: DictConfig, towers: Towers, **training: Any) -> AnomalyDetectionModule:  # noqa: ANN401
    """Build the chosen network in what trains and scores it.

    Args:
        config: Its ``module`` is read.
        towers: What the network stands on.
        **training: Loss, optimiser and schedule, where it is trained.

    Returns:
        The module.
    """
    network = build(config.module.network, towers=towers)
    return AnomalyDetectionModule(network, **training, category_names=config.module.category_names)


def note_released_weights(config: DictConfig, run: Run) -> None:
    """Note the authors' weights that a method starts from, and warn that nobody knows what they have seen.

    Args:
        config: Its ``module`` is read.
        run: Gets path and SHA-256.
    """
    path = OmegaConf.select(config.module.network, "released_weights")
    if path is not None:
        sha256 = hashlib.sha256(weight_path(path).read_bytes()).hexdigest()
        run.note(released_weights={"path": str(path), "sha256": sha256})
        logger.warning("%s does not say what it was trained on; a dataset that it has seen must not be scored.", path)


def data_settings(config: DictConfig, towers: Towers) -> DataSettings:
    """Say how images are prepared for the towers."""
    backbone = towers.backbone
    return DataSettings(
        image_size=(backbone.image_size, backbone.image_size),
        mean=backbone.mean,
        std=backbone.std,
        batch_size=config.data.batch_size,
        num_workers=config.data.num_workers,
        seed=config.seed,
        augment=config.data.augment,
        mosaic=config.data.mosaic,
        cache=config.data.cache,
        cache_dir=Path(config.cache_dir),
        eval_batch_size=config.data.eval_batch_size,
        process=place().rank,
        num_processes=place().world_size,
    )


def dataset_spec(node: DictConfig, config: DictConfig) -> DatasetSpec:
    """Say which images are wanted and where they may be; a drawn dataset is written first where it is not there."""
    categories = None if node.categories is None else tuple(node.categories)
    root = optional_path(node.root)
    if root is None and node.drawn is not None:
        with in_turn():
            root = drawn_dataset(build(node.drawn), Path(config.drawn_dir))
    return DatasetSpec(
        name=node.name,
        layout=node.layout,
        root=root,
        categories=categories,
        data_dir=optional_path(config.data_dir),
    )


def build_loggers(
    config: DictConfig, run: Run, drop_from_step: int | None = None, kept_targets: Collection[str] = ()
) -> list[Logger]:
    """Build the CSV logger, and what ``logger=`` adds."""
    record = MetricsCSV(run.folder / "metrics.csv", drop_from_step, kept_targets)  # first: mirrors read what it keeps
    if not is_first():
        return [record]
    return [record, *build_mirrors(plain(config.logger), run.folder, run.manifest, drop_from_step)]


@dataclass(frozen=True)
class Engine:
    """What runs a network over data, for all of a command.

    Attributes:
        trainer: Lightning's Trainer.
        loggers: Where it logs.
        predictions: Hands scored batches to the sinks that are set on it.
    """

    trainer: pl.Trainer
    loggers: list[Logger]
    predictions: ForEachPrediction


def build_engine(
    config: DictConfig, run: Run, loggers: Sequence[Logger] = (), callbacks: Sequence[pl.Callback] = ()
) -> Engine:
    """Build Lightning's Trainer; checkpoints and metrics are ours."""
    predictions = ForEachPrediction()
    several: dict[str, Any] = {} if place().world_size == 1 else {"strategy": _strategy(config.trainer.strategy)}
    trainer = build(
        config.trainer,
        **several,
        precision=_precision(config, run),
        default_root_dir=str(run.folder),
        logger=list(loggers),
        callbacks=[show_progress(), predictions, *callbacks],
        use_distributed_sampler=False,  # the data module shares images out, and never one twice
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    return Engine(trainer, list(loggers), predictions)


def _precision(config: DictConfig, run: Run) -> str:
    """Choose the precision once for all processes; a continued run keeps what was chosen."""
    before = (run.earlier or {}).get("precision")
    choice = from_first(lambda: before or choose_precision(config.trainer.precision, config.trainer.accelerator))
    run.note(precision=choice)
    return str(choice["chosen"])


def _strategy(name: str) -> DDPStrategy:
    """DDP among processes that were started already."""
    find_unused = name == "ddp_find_unused_parameters_true"
    return DDPStrategy(cluster_environment=StartedProcesses(), find_unused_parameters=find_unused)


def _quiet_libraries() -> None:
    # Lightning reports every missing accelerator as news; the manifest says what there was.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for expected in EXPECTED_WARNINGS if is_first() else (".*",):  # of several processes the first one speaks
        warnings.filterwarnings("ignore", message=expected)
