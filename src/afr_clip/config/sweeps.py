"""From the config of a sweep to its job: all cells are composed and checked before the first of them runs."""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from afr_clip.config.axes import Axes, files_of, keys_of_file, quoted, read_axes, typed_values
from afr_clip.config.plan import compose_target, evaluation_job, known_datasets, training_job
from afr_clip.config.validate import ConfigError
from afr_clip.files import counted, shown
from afr_clip.reports.record.identity import WITHOUT_INFLUENCE, flat
from afr_clip.reports.record.run_folder import MANIFEST
from afr_clip.reports.record.schema import Setup, read_record
from afr_clip.run.job import Record
from afr_clip.settings import SearchSettings
from afr_clip.sweep.job import Cell, SweepJob, describe_faults

OWN_KEYS = ("seeds", "sweep_dir", "jobs", "leave_out", "dry_run", "num_trials", "search")
"""Keys of the sweep that its cells do not get."""

_OF_A_RUN = {"seed": "seeds=[...]", "run_dir": "sweep_dir=DIR", "resume": "the same command again", "task_name": "none"}
"""Keys of one training, and what a sweep has in their place."""

_DECIDED = (WITHOUT_INFLUENCE - {"dataset.root"}) | {"task_name", "logger"}
"""What two trainings may differ in and still be the same; other folders may hold other images."""

_DIGITS = 12

LONGEST_NAME = 150
"""Letters of a cell's folder before its digest."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sweep:
    """What all cells have in common.

    Attributes:
        folders: The folders of cells by digest, shared by all experiments: the same training runs once.
    """

    experiment: str
    overrides: tuple[str, ...]
    axes: Axes
    folder: Path
    folders: dict[str, Path]


def sweep_jobs(config: DictConfig, typed: Sequence[str]) -> list[SweepJob]:
    """Make the jobs of ``afr-clip sweep``: one for each experiment, all in the same folder.

    Args:
        config: The composed config; the cells compose their own.
        typed: Everything typed except Hydra's own overrides.

    Returns:
        The jobs; each cell's config has been checked.

    Raises:
        ConfigError: If no experiment was typed, something was typed that the sweep decides itself, or a cell's config
            is wrong.
    """
    for key in ("jobs", "num_trials"):
        if config[key] < 1:
            msg = f"{key} must be positive, got {config[key]}. Change {key}=VALUE."
            raise ConfigError(msg)
    sweeps = _sweeps_of(typed, Path(config.sweep_dir).resolve(), {})
    known = [name for sweep in sweeps for name in _settings(sweep)]
    for name in config.leave_out:
        if name not in known:
            where = sweeps[0].experiment if len(sweeps) == 1 else "the sweep"
            msg = f"leave_out must name settings of {where} ({', '.join(known)}), got {name}."
            raise ConfigError(msg)
    if len(sweeps) > 1 and any(sweep.axes.space for sweep in sweeps):
        names = ", ".join(sweep.experiment for sweep in sweeps)
        msg = f"A search needs a sweep of its own, got {names}. Run them separately."
        raise ConfigError(msg)
    jobs = [job for job in (_job(config, sweep) for sweep in sweeps) if job.cells]
    if not jobs:
        msg = f"leave_out leaves no setting of {sweeps[0].experiment}. Leave out fewer."
        raise ConfigError(msg)
    return jobs


def _job(config: DictConfig, sweep: _Sweep) -> SweepJob:
    seeds, axes = list(config.seeds), sweep.axes
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        msg = f"seeds must be different numbers of 0 or more, got {seeds}. Write seeds=[0,1,2]."
        raise ConfigError(msg)
    try:
        search = OmegaConf.to_object(config.search)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    assert isinstance(search, SearchSettings), "the sweep's schema says so"

    def trial(number: int, values: Mapping[str, float]) -> Cell:
        return _cells(sweep, f"trial{number:04d}", [f"{key}={value!r}" for key, value in values.items()], seeds)[0]

    if axes.space:
        if len(seeds) > 1:
            msg = f"A search takes one seed, got seeds={seeds}. Write seeds=[0]."
            raise ConfigError(msg)
        middle = [f"{key}={interval.middle!r}" for key, interval in axes.space.items()]
        cells = _cells(sweep, "trial", middle, seeds)
    else:
        cells = _experiment(sweep, seeds, list(config.leave_out))
    hydra = HydraConfig.get()
    return SweepJob(
        experiment=sweep.experiment,
        folder=sweep.folder,
        overrides=sweep.overrides,
        decisive=_decisive(sweep.overrides),
        axes=axes.as_plain(),
        space=dict(axes.space),
        cells=tuple(cells),
        reference=_reference(sweep, cells),
        num_trials=config.num_trials,
        jobs=config.jobs,
        devices=int(config.trainer.devices),
        dry_run=config.dry_run,
        search=search,
        launcher=str(hydra.runtime.choices["hydra/launcher"]),
        launcher_settings=OmegaConf.to_container(hydra.launcher, resolve=True),  # type: ignore[arg-type]
        trial=trial,
    )


def _sweeps_of(typed: Sequence[str], folder: Path, folders: dict[str, Path]) -> list[_Sweep]:
    """Read the experiment that was typed; one that varies ``experiment`` stands for several."""
    passed_on: list[str] = []
    for (key, _), override in zip(typed_values(typed), typed, strict=True):
        if key in _OF_A_RUN:
            msg = f"{key} is set by the sweep for each cell, got {override}. Use {_OF_A_RUN[key]} instead."
            raise ConfigError(msg)
        if not _is_below(key, OWN_KEYS):
            passed_on.append(override)
    names = [value for key, value in typed_values(passed_on) if key == "experiment"]
    files = [str(name) for name in (names[-1] if names and isinstance(names[-1], list) else names[-1:])]
    if not files:
        msg = "experiment must name what to run, got nothing. Add experiment=table3, or a file of your own."
        raise ConfigError(msg)
    axes = {
        name: read_axes(compose("train", [f"experiment={name}"], return_hydra_config=True).hydra.sweeper.params)
        for name in files
    }
    varying = [name for name in files if axes[name].keys]
    if len(varying) > 1:
        msg = f"Only one experiment of a sweep may vary settings, got {', '.join(varying)}. Choose one of them."
        raise ConfigError(msg)
    name = varying[0] if varying else files[-1]
    if inner := axes[name].choices.get("experiment"):
        others = [override for override in passed_on if not override.startswith("experiment=")]
        more = "".join(f",{file}" for file in files if file != name)
        names = [f"[{each}{more}]" if more else each for each in inner]
        return [one for each in names for one in _sweeps_of([*others, f"experiment={each}"], folder, folders)]
    sweep = _Sweep(name, tuple(passed_on), axes[name], folder, folders)
    _refuse_contradictions(sweep)
    return [sweep]


def _refuse_contradictions(sweep: _Sweep) -> None:
    """Refuse overrides of what the sweep varies; a cell would no longer match the name of its setting."""
    setters = dict.fromkeys((*sweep.axes.keys, "seed"), sweep.experiment)
    if any("." in key for key, _ in typed_values(sweep.overrides)):  # reading the files takes a while
        files = dict.fromkeys(name for choice in sweep.axes.choices.get("ablation", ()) for name in files_of(choice))
        for name in reversed(files):
            setters |= dict.fromkeys(keys_of_file("ablation", name), f"ablation={name}")
    for key, value in typed_values(sweep.overrides):
        same = [varied for varied in setters if _is_below(key, (varied,)) or _is_below(varied, (key,))]
        if same and "." not in key and key not in sweep.axes.keys:
            continue  # a whole group, whose keys the ablation changes afterwards
        if same:
            msg = (
                f"{key} is varied by the sweep ({setters[same[0]]} sets it), got {key}={value}. Leave it out, or write "
                f"an experiment of your own."
            )
            raise ConfigError(msg)


def _decisive(overrides: Sequence[str]) -> list[str]:
    keys = [key for key, _ in typed_values(overrides)]
    return sorted(override for key, override in zip(keys, overrides, strict=True) if not _is_below(key, _DECIDED))


def _settings(sweep: _Sweep) -> dict[str, tuple[str, ...]]:
    return dict(sweep.axes.settings()) if sweep.axes.choices else {sweep.experiment: ()}


def _experiment(sweep: _Sweep, seeds: Sequence[int], leave_out: Sequence[str]) -> list[Cell]:
    chosen = {name: overrides for name, overrides in _settings(sweep).items() if name not in leave_out}
    logger.info("Composing %s of %s.", counted(len(chosen) * len(seeds), "cell"), shown(sweep.experiment))
    cells: list[Cell] = []
    faults: dict[str, list[str]] = {}
    kinds: list[type[ConfigError]] = []
    for name, overrides in chosen.items():
        try:
            cells += _cells(sweep, name, overrides, seeds)
        except ConfigError as error:
            faults.setdefault(str(error), []).append(name)
            kinds.append(type(error))
    if faults:
        raise kinds[0](describe_faults(faults))
    return cells


def _cells(sweep: _Sweep, setting: str, overrides: Iterable[str], seeds: Sequence[int]) -> list[Cell]:
    """Compose and check the cells of one setting; one that already has a folder, under any name, keeps it."""
    common = [*sweep.overrides, *overrides]
    config = compose("train", common)
    network: Any = OmegaConf.get_type(config.module, "network")
    if not network.trains:
        return list(_scoring_cells(sweep, setting, config, seeds[0]))
    if config.logger.wandb is not None:
        typed = {key for key, _ in typed_values(sweep.overrides)}
        tags = ",".join(quoted(tag) for tag in (sweep.experiment, setting))
        own = {"logger.wandb.group": quoted(sweep.experiment), "logger.wandb.tags": f"[{tags}]"}
        common += [f"{key}={value}" for key, value in own.items() if key not in typed]
        config = compose("train", common)
    cells = []
    for seed in seeds:
        config.seed = seed
        digest = digest_of(_plain(config))
        folder = _folder_of(sweep, f"{setting}-seed{seed}", digest)
        own_overrides = (*common, f"seed={seed}")
        job = training_job(config, folder, Record("train", own_overrides, {}, {}))
        cells.append(Cell(setting, seed, own_overrides, digest, folder, job))
    return cells


def _scoring_cells(sweep: _Sweep, setting: str, config: DictConfig, seed: int) -> Iterator[Cell]:
    """Make the cells of a method that trains nothing: ``evaluate`` on each dataset that the others score."""
    protocol = config.protocol
    scored = dict.fromkeys([*protocol.targets, *(name for leg in protocol.legs.values() for name in leg)])
    for name in scored:
        node = compose_target(name, protocol)
        dataset = name if name in known_datasets() else "folder"
        common = [f"module={config.module.name}", f"backbone={config.backbone.name}", f"dataset={dataset}"]
        common += [override for override in sweep.overrides if override.startswith("logger")]
        own = flat(_plain(config) | {"dataset": _plain(node), "seed": seed})
        known = flat(_plain(compose("evaluate", common)))
        differing = {key: value for key, value in own.items() if key in known and value != known[key]}
        overrides = (*common, *(f"{key}={json.dumps(value)}" for key, value in differing.items() if key != "task_name"))
        composed = compose("evaluate", list(overrides))
        digest = digest_of(_plain(composed))
        folder = _folder_of(sweep, f"{setting}-{name}", digest)
        job = evaluation_job(composed, folder, Record("evaluate", overrides, {}, {}))
        yield Cell(f"{setting} on {name}", seed, overrides, digest, folder, job)


def _plain(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config, resolve=True, enum_to_str=True)  # type: ignore[return-value]


def _folder_of(sweep: _Sweep, name: str, digest: str) -> Path:
    if digest not in sweep.folders:
        sweep.folders[digest] = _own_folder(sweep.folder / "cells", name, digest)
    return sweep.folders[digest]


def _own_folder(cells: Path, name: str, digest: str) -> Path:
    for folder in sorted(path for path in cells.glob("*-*") if path.is_dir()):
        # The name ends with the digest of the version that made the folder; what counts is the config that ran there.
        manifest = folder / MANIFEST
        if folder.name.endswith(f"-{digest}") or (
            manifest.is_file() and digest_of(read_record(manifest, Setup)["config"]) == digest
        ):
            return folder
    return cells / f"{re.sub(r'[^A-Za-z0-9_.+-]+', '_', name)[:LONGEST_NAME]}-{digest}"


def digest_of(config: Mapping[str, Any]) -> str:
    """Hash what influences the numbers of a training.

    Args:
        config: A recorded config, of this version or an earlier one.

    Returns:
        Hex digits; the same for two configs that differ only in folders, loading, threads and logging.
    """
    decisive = {key: value for key, value in flat(config).items() if not _is_below(key, _DECIDED)}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def _reference(sweep: _Sweep, cells: Sequence[Cell]) -> str | None:
    """Find the setting that is the full method; ``None`` if no setting is, or nothing of ``ablation`` is varied."""
    if "ablation" not in sweep.axes.choices or not cells:
        return None
    full = compose("train", [*sweep.overrides, "ablation=full"])
    full.seed = cells[0].seed
    wanted = digest_of(_plain(full))
    return next((cell.setting for cell in cells if cell.digest == wanted), None)


def _is_below(key: str, keys: Iterable[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in keys)
