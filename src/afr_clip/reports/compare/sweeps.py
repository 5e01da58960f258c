"""The records of sweeps, and which folders are sweeps, ablations run by hand, or plain runs."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from afr_clip.reports.compare.paper import ABLATIONS, FULL, experiment_of
from afr_clip.reports.compare.values import ComparisonError, RecordedRun, read_runs
from afr_clip.reports.record.provenance import training_of

SEARCH = "search.json"

DONE, FAILED, WAITING = "done", "failed", "waiting"
STATES = (DONE, FAILED, WAITING)
"""States of a cell."""

Read = TypeVar("Read")


@dataclass(frozen=True)
class SweepCell:
    """One setting with one seed.

    Attributes:
        error: Why it failed, in a sentence; empty where it did not.
    """

    setting: str
    seed: int
    folder: Path
    state: str
    error: str = ""


@dataclass(frozen=True)
class Experiment:
    """Settings that are compared with one of them.

    Attributes:
        name: ``table3`` to ``table6``, ``readings``, or a name of its own.
        reference: The setting that the others are compared with.
        overrides: What was passed on to every cell.
    """

    name: str
    reference: str
    cells: Sequence[SweepCell]
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        seen: dict[tuple[str, int], SweepCell] = {}
        for cell in self.cells:
            if cell.state not in STATES:
                msg = (
                    f"The state of a cell must be one of {', '.join(STATES)}, got {cell.state} for {cell.setting} with "
                    f"seed {cell.seed}. Run the sweep again."
                )
                raise ComparisonError(msg)
            before = seen.setdefault((cell.setting, cell.seed), cell)
            if before is not cell:
                msg = (
                    f"{self.name} must have one run per setting and seed, got {before.folder} and {cell.folder} for "
                    f"{cell.setting} with seed {cell.seed}. Leave one out."
                )
                raise ComparisonError(msg)


@dataclass(frozen=True)
class Trial:
    """One point of a search.

    Attributes:
        params: What was tried, by config key.
        value: The objective; ``None`` if there is none.
        folder: The run folder; empty if there is none.
    """

    number: int
    params: Mapping[str, Any]
    value: float | None
    state: str
    folder: str = ""


@dataclass(frozen=True)
class Search:
    """A search over settings.

    Attributes:
        logarithmic: The parameters whose range is logarithmic, as far as it is known.
    """

    objective: Mapping[str, Any]
    trials: Sequence[Trial]
    logarithmic: frozenset[str] = frozenset()

    @property
    def aim(self) -> str:
        """The objective in words; empty if it was not recorded."""
        lists = {key: ", ".join(map(str, v)) if isinstance(v, list) else v for key, v in self.objective.items()}
        return "; ".join(f"{key} {v}" for key, v in lists.items() if isinstance(v, str | int | float))

    @property
    def is_minimised(self) -> bool:
        """Whether lower is better."""
        return str(self.objective.get("direction", "maximize")).lower().startswith("min")

    @property
    def parameters(self) -> list[str]:
        """Every config key that was tried."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.params))

    @property
    def finished(self) -> list[Trial]:
        """The trials with a value."""
        return [trial for trial in self.trials if trial.value is not None]

    @property
    def best(self) -> Trial | None:
        """The best trial, the first where several are; ``None`` without any value."""
        sign = 1 if self.is_minimised else -1
        return min(self.finished, key=lambda trial: sign * (trial.value or 0.0), default=None)


@dataclass(frozen=True)
class Sweep:
    """A folder of cells, with its experiments in alphabetical order."""

    folder: Path
    experiments: Sequence[Experiment] = ()
    search: Search | None = None


def read_sweep(folder: Path) -> Sweep:
    """Read the record of a sweep.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ComparisonError: If it contains no record of a sweep, or one that cannot be read.
    """
    if not folder.is_dir():
        msg = f"{folder} is not a directory. Pass the sweep_dir of a sweep."
        raise FileNotFoundError(msg)
    paths = [path for path in sorted(folder.glob("*.json")) if _is_record(path)]
    if not paths:
        msg = f"{folder} contains no record of a sweep, EXPERIMENT.json or {SEARCH}. Pass a sweep_dir."
        raise ComparisonError(msg)
    experiments = [_read(path, _experiment) for path in paths if path.name != SEARCH]
    searches = [_read(path, _search) for path in paths if path.name == SEARCH]
    return Sweep(folder, experiments, searches[0] if searches else None)


def _is_record(path: Path) -> bool:
    if path.name in {"results.json", "manifest.json"}:  # of a run, which may be large
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # a known name is reported as unreadable, anything else is not ours
        return path.name == SEARCH or path.stem in ABLATIONS
    wanted = {"trials"} if path.name == SEARCH else {"experiment", "cells"}
    return isinstance(content, dict) and wanted <= content.keys()


def _read(path: Path, make: Callable[[Path, Mapping[str, Any]], Read]) -> Read:
    try:
        return make(path.parent, json.loads(path.read_text(encoding="utf-8")))
    except ComparisonError as error:
        msg = f"{path}: {error}"
        raise ComparisonError(msg) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        msg = (
            f"{path} cannot be read as the record of a sweep ({type(error).__name__}: {error}). Run the sweep "
            f"again; it writes the file again and repeats no finished cell."
        )
        raise ComparisonError(msg) from error


def _experiment(folder: Path, content: Mapping[str, Any]) -> Experiment:
    cells = [
        SweepCell(str(c["setting"]), int(c["seed"]), folder / c["folder"], str(c["state"]), str(c.get("error") or ""))
        for c in content["cells"]
    ]
    return Experiment(str(content["experiment"]), str(content["reference"]), cells, content.get("overrides") or ())


def _search(_: Path, content: Mapping[str, Any]) -> Search:
    objective = content.get("objective") or {}
    trials = [
        Trial(
            int(t["number"]),
            dict(t["params"]),
            None if t.get("value") is None or math.isnan(t["value"]) else float(t["value"]),
            str(t["state"]),
            str(t.get("folder") or ""),
        )
        for t in content["trials"]
    ]
    space = content.get("space") or objective.get("space") or {}
    logarithmic = {key for key, axis in space.items() if isinstance(axis, Mapping) and axis.get("log")}
    return Search(objective, sorted(trials, key=lambda trial: trial.number), frozenset(logarithmic))


@dataclass(frozen=True)
class Separated:
    """What was passed to a report.

    Attributes:
        runs: For tables 1 and 2.
        experiments: Runs with an ``ablation=`` of tables 3 to 6 or of a reading that no sweep recorded.
    """

    runs: Sequence[RecordedRun]
    sweeps: Sequence[Sweep]
    experiments: Sequence[Experiment]


def separate(folders: Sequence[Path]) -> Separated:
    """Find out what folders contain: sweeps with their cells, and all other runs.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ComparisonError: If a file cannot be read, or runs contradict each other.
    """
    records = [path for folder in folders for path in sorted(folder.rglob("*.json")) if _is_record(path)]
    sweeps = [read_sweep(folder) for folder in {path.parent.resolve(): path.parent for path in records}.values()]
    taken = [sweep.folder for sweep in sweeps]
    taken += [cell.folder for sweep in sweeps for experiment in sweep.experiments for cell in experiment.cells]
    outside = [f for f in folders if not any(f.resolve().is_relative_to(other.resolve()) for other in taken)]
    runs = read_runs(outside, without=taken) if outside else []
    groups: dict[str, list[RecordedRun]] = {}
    plain = []
    for run in runs:
        experiment = experiment_of(_ablation(run))
        if experiment is None or training_of(run.manifest) is None:
            plain.append(run)
        else:
            groups.setdefault(experiment, []).append(run)
    experiments = []
    for name, group in groups.items():
        references = []
        if name == "readings":  # the full models among plain runs with the same training, which stay plain runs too
            wanted = {_training(run) for run in group}
            references = [run for run in plain if _ablation(run) == FULL and _training(run) in wanted]
        cells = [SweepCell(_ablation(run), _seed(run), run.folder, DONE) for run in (*references, *group)]
        experiments.append(Experiment(name, ABLATIONS[name].reference, cells))
    return Separated(plain, sweeps, experiments)


def _ablation(run: RecordedRun) -> str:
    return str((run.manifest.get("choices") or {}).get("ablation", ""))


def _seed(run: RecordedRun) -> int:
    return int((training_of(run.manifest) or {})["seed"])


def _training(run: RecordedRun) -> tuple[str, str, int] | None:
    training = training_of(run.manifest)
    if training is None or run.setting is None:
        return None
    return str(training["auxiliary"]["sha256"]), str(run.setting.backbone["fingerprint"]), int(training["seed"])
