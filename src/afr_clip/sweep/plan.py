"""Which cells a sweep has: their names, overrides, configs and folders, all known before the first of them runs."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig

from afr_clip.config.assemble import compose_leg, plain
from afr_clip.config.axes import Axes, keys_of_file, quoted, read_axes, typed_values
from afr_clip.config.validate import ConfigError, validate
from afr_clip.reports.record.identity import WITHOUT_INFLUENCE, flat
from afr_clip.reports.record.run_folder import MANIFEST

OWN_KEYS = ("seeds", "sweep_dir", "jobs", "leave_out", "dry_run", "num_trials", "cell", "search")
"""What a command line says to the sweep and not to its cells."""

_OF_A_RUN = {"seed": "seeds=[...]", "run_dir": "sweep_dir=DIR", "resume": "the same command again", "task_name": "none"}
"""Keys of one training, and what a sweep has in their place."""

_DECIDED = (WITHOUT_INFLUENCE - {"dataset.root"}) | {"task_name", "logger"}
"""What two trainings may differ in and still be the same; other folders may hold other images."""

DIGITS = 12


@dataclass(frozen=True)
class Cell:
    """One training of a sweep.

    Attributes:
        setting: Name of what it tries.
        seed: Its seed.
        overrides: What its own command is given, but for the folder.
        digest: Stands for everything that influences its numbers; the same training has the same in every sweep.
        folder: Its run folder.
        config: What it resolves to.
    """

    setting: str
    seed: int
    overrides: tuple[str, ...]
    digest: str
    folder: Path
    config: DictConfig = field(compare=False, repr=False)


@dataclass(frozen=True)
class Plan:
    """What a sweep is to run.

    Attributes:
        experiment: Its name.
        overrides: What was typed and is passed on to every cell.
        axes: What is varied.
        folder: The sweep's folder.
    """

    experiment: str
    overrides: tuple[str, ...]
    axes: Axes
    folder: Path

    @property
    def decisive_overrides(self) -> list[str]:
        """The overrides that influence numbers, sorted; a sweep goes on with these and no others."""
        keys = [key for key, _ in typed_values(self.overrides)]
        kept = zip(keys, self.overrides, strict=True)
        return sorted(override for key, override in kept if not _is_below(key, _DECIDED))


def make_plan(typed: Sequence[str], folder: Path) -> Plan:
    """Read from a command line what a sweep is to run.

    Args:
        typed: Everything typed but Hydra's own.
        folder: The sweep's folder.

    Returns:
        The plan.

    Raises:
        ConfigError: If no experiment was typed, or something that the sweep decides itself.
    """
    passed_on = tuple(_passed_on(typed))
    names = [value for key, value in typed_values(passed_on) if key == "experiment"]
    files = [str(name) for name in (names[-1] if names and isinstance(names[-1], list) else names[-1:])]
    if not files:
        msg = "experiment must name what is to be run, got nothing. Add experiment=table3, or a file of your own."
        raise ConfigError(msg)
    axes = {name: _axes_of(name) for name in files}
    varying = [name for name in files if axes[name].keys]
    if len(varying) > 1:
        msg = f"One experiment of a sweep may vary settings, got {', '.join(varying)}. Choose one of them."
        raise ConfigError(msg)
    name = varying[0] if varying else files[-1]
    plan = Plan(name, passed_on, axes[name], folder)
    _refuse_contradictions(plan)
    return plan


def _passed_on(typed: Sequence[str]) -> Iterator[str]:
    for (key, _), override in zip(typed_values(typed), typed, strict=True):
        if key in _OF_A_RUN:
            msg = f"{key} is each cell's own and must not be typed, got {override}. A sweep has {_OF_A_RUN[key]}."
            raise ConfigError(msg)
        if not _is_below(key, OWN_KEYS):
            yield override


def _axes_of(experiment: str) -> Axes:
    return read_axes(compose("train", [f"experiment={experiment}"], return_hydra_config=True).hydra.sweeper.params)


def _refuse_contradictions(plan: Plan) -> None:
    setters = dict.fromkeys((*plan.axes.keys, "seed"), plan.experiment)
    if any("." in key for key, _ in typed_values(plan.overrides)):  # to look into the files takes a while
        for name in reversed(plan.axes.choices.get("ablation", ())):
            setters |= dict.fromkeys(keys_of_file("ablation", name), f"ablation={name}")
    for key, value in typed_values(plan.overrides):
        same = [varied for varied in setters if _is_below(key, (varied,)) or _is_below(varied, (key,))]
        if same and "." not in key and key not in plan.axes.keys:
            continue  # a whole group, whose keys the ablation changes afterwards
        if same:
            msg = (
                f"{key} is what the sweep varies ({setters[same[0]]} sets it), and {key}={value} was typed. Leave it "
                f"out, or write an experiment of your own."
            )
            raise ConfigError(msg)


def plan_cells(plan: Plan, seeds: Sequence[int], leave_out: Sequence[str] = ()) -> list[Cell]:
    """Compose and check every cell.

    Args:
        plan: What is varied.
        seeds: Each setting runs with each of them.
        leave_out: Settings that are not run.

    Returns:
        The cells, settings in the order of the experiment.

    Raises:
        ConfigError: If a config does not hold, a setting that is left out does not exist, or a seed comes twice.
    """
    settings = dict(plan.axes.settings()) if plan.axes.choices else {plan.experiment: ()}
    for name in leave_out:
        if name not in settings:
            msg = f"leave_out must name settings of {plan.experiment} ({', '.join(settings)}), got {name}."
            raise ConfigError(msg)
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        msg = f"seeds must be different numbers from 0, got {list(seeds)}. Use seeds=[0,1,2]."
        raise ConfigError(msg)
    chosen = {name: overrides for name, overrides in settings.items() if name not in leave_out}
    return [cell for name, overrides in chosen.items() for cell in make_cells(plan, name, overrides, seeds)]


def make_cells(plan: Plan, setting: str, overrides: Iterable[str], seeds: Sequence[int]) -> list[Cell]:
    """Compose and check the cells of one setting.

    Args:
        plan: Has what was typed for all.
        setting: Its name.
        overrides: Its own.
        seeds: One cell each.

    Returns:
        The cells; one that is in the sweep's folder already, under whatever name, keeps its folder.

    Raises:
        ConfigError: If the config does not hold.
    """
    common = [*plan.overrides, *overrides]
    config = compose("train", common)
    if config.logger.wandb is not None:
        common += _wandb_overrides(plan, setting)
        config = compose("train", common)
    _check(config, setting)
    cells = []
    for seed in seeds:
        own = config.copy()
        own.seed = seed
        digest = digest_of(own)
        folder = _folder_of(plan.folder, f"{setting}-seed{seed}", digest)
        cells.append(Cell(setting, seed, (*common, f"seed={seed}"), digest, folder, own))
    return cells


def _check(config: DictConfig, setting: str) -> None:
    # Loading torch takes seconds, which the job of a launcher need not wait.
    from afr_clip.run.parts import check_model  # noqa: PLC0415

    try:
        validate(config)
        check_model(config)
    except ValueError as error:
        msg = f"{setting} cannot run: {error}"
        raise type(error)(msg) if isinstance(error, ConfigError) else ConfigError(msg) from error


def _wandb_overrides(plan: Plan, setting: str) -> list[str]:
    typed = {key for key, _ in typed_values(plan.overrides)}
    tags = ",".join(quoted(tag) for tag in (plan.experiment, setting))
    own = {"logger.wandb.group": quoted(plan.experiment), "logger.wandb.tags": f"[{tags}]"}
    return [f"{key}={value}" for key, value in own.items() if key not in typed]


def _folder_of(sweep: Path, name: str, digest: str) -> Path:
    cells = sweep / "cells"
    for folder in sorted(path for path in cells.glob("*-*") if path.is_dir()):
        # The name ends with the digest of the version that made the folder; what counts is the config that ran there.
        manifest = folder / MANIFEST
        if folder.name.endswith(f"-{digest}") or (
            manifest.is_file() and _digest(json.loads(manifest.read_text(encoding="utf-8"))["config"]) == digest
        ):
            return folder
    return cells / f"{re.sub(r'[^A-Za-z0-9_.+-]+', '_', name)}-{digest}"


def digest_of(config: DictConfig) -> str:
    """Hash what influences the numbers of a training.

    Args:
        config: Its composed config.

    Returns:
        Hex digits; the same for two configs that differ in nothing else than folders, loading, threads and logging.
    """
    return _digest(plain(config))


def _digest(config: Mapping[str, Any]) -> str:
    decisive = {key: value for key, value in flat(config).items() if not _is_below(key, _DECIDED)}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:DIGITS]


def reference_of(plan: Plan, cells: Sequence[Cell]) -> str | None:
    """Find the setting that is the full method, with which the others are compared.

    Args:
        plan: What is varied.
        cells: All of them.

    Returns:
        Its name; ``None`` where no setting is, or nothing of ``ablation`` is varied.
    """
    if "ablation" not in plan.axes.choices or not cells:
        return None
    full = compose("train", [*plan.overrides, "ablation=full"])
    full.seed = cells[0].seed
    wanted = digest_of(full)
    return next((cell.setting for cell in cells if cell.digest == wanted), None)


def trainings(config: DictConfig) -> list[DictConfig]:
    """Return the trainings of a cell: itself, or the legs of its protocol."""
    return [compose_leg(name, config) for name in config.protocol.legs] or [config]


def results_of(config: DictConfig) -> list[str]:
    """Name the files that a finished cell has, relative to its folder."""
    return [f"{name}/results.json" for name in config.protocol.legs] or ["results.json"]


def _is_below(key: str, keys: Iterable[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in keys)


def overrides_of(values: Mapping[str, float]) -> tuple[str, ...]:
    """Write values as overrides, with all their digits."""
    return tuple(f"{key}={value!r}" for key, value in values.items())
