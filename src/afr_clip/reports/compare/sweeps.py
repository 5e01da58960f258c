"""The records of sweeps, and which folders are sweeps, ablations run by hand, or plain runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from afr_clip.files import shown
from afr_clip.reports.compare.paper import ABLATIONS, FULL, experiment_of
from afr_clip.reports.compare.values import ComparisonError, RecordedRun, find_json, read_runs, report_fault
from afr_clip.reports.record import schema
from afr_clip.reports.record.provenance import training_of
from afr_clip.reports.record.results import RESULTS
from afr_clip.reports.record.run_folder import MANIFEST
from afr_clip.reports.record.schema import RecordError, Trial, read_json, read_record

SEARCH = "search.json"

DONE, FAILED, WAITING = "done", "failed", "waiting"
STATES = (DONE, FAILED, WAITING)
"""States of a cell."""


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
                    f"{self.name} must have one run per setting and seed, got {shown(before.folder)} and "
                    f"{shown(cell.folder)} for {cell.setting} with seed {cell.seed}. Leave one out."
                )
                raise ComparisonError(msg)


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
    """A folder of cells, with its experiments in alphabetical order.

    Attributes:
        methods: Folders of cells whose runs are compared in tables 1 and 2.
    """

    folder: Path
    experiments: Sequence[Experiment] = ()
    search: Search | None = None
    methods: Sequence[Path] = ()


def read_sweep(folder: Path, faults: list[str] | None = None) -> Sweep:
    """Read the record of a sweep; faults are taken as by `read_runs`.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ComparisonError: If it contains no record of a sweep, or one that cannot be read.
    """
    if not folder.is_dir():
        msg = f"{shown(folder)} is not a directory. Pass the sweep_dir of a sweep."
        raise FileNotFoundError(msg)
    paths = [path for path in sorted(folder.glob("*.json")) if _is_record(path)]
    if not paths:
        msg = f"{shown(folder)} contains no record of a sweep, EXPERIMENT.json or {SEARCH}. Pass a sweep_dir."
        raise ComparisonError(msg)
    experiments: list[Experiment] = []
    methods: list[Path] = []
    search = None
    for path in paths:
        try:
            if path.name == SEARCH:
                search = _search(path)
                continue
            content = read_record(path, schema.Experiment, for_display=True)
            if content["reference"] is None:
                places = [path.parent / cell["folder"] for cell in content["cells"]]
                methods += [place for place in places if place.is_dir()]
            else:
                experiments.append(_experiment(path, content))
        except (RecordError, ComparisonError, OSError) as error:
            report_fault(path, error, faults)
    return Sweep(folder, experiments, search, methods)


def _is_record(path: Path) -> bool:
    if path.name in {RESULTS, MANIFEST}:  # of a run, which may be large
        return False
    if path.name == SEARCH or path.stem in ABLATIONS:  # reported as unreadable where it is not one
        return True
    try:
        content = read_json(path)
    except (RecordError, OSError):
        return False
    return isinstance(content, dict) and {"experiment", "cells"} <= content.keys()


def _experiment(path: Path, content: Mapping[str, Any]) -> Experiment:
    cells = [
        SweepCell(cell["setting"], cell["seed"], path.parent / cell["folder"], cell["state"], cell.get("error") or "")
        for cell in content["cells"]
    ]
    try:
        return Experiment(content["experiment"], content["reference"], cells, content.get("overrides") or ())
    except ComparisonError as error:
        msg = f"{shown(path)}: {error}"
        raise ComparisonError(msg) from error


def _search(path: Path) -> Search:
    content = read_record(path, schema.Search, for_display=True)
    objective = content.get("objective") or {}
    names = [one.name for one in fields(Trial)]
    trials = [Trial(**{name: found.get(name) for name in names}) for found in content["trials"]]
    space = content.get("space") or objective.get("space") or {}
    if not isinstance(space, Mapping):
        space = {}
    logarithmic = {key for key, axis in space.items() if isinstance(axis, Mapping) and axis.get("log")}
    return Search(objective, sorted(trials, key=lambda trial: trial.number), frozenset(logarithmic))


@dataclass(frozen=True)
class Separated:
    """What was passed to a report.

    Attributes:
        runs: For tables 1 and 2.
        experiments: Runs with an ``ablation=`` of tables 3 to 6 or of a reading that no sweep recorded.
        faults: What could not be read, in a sentence each.
    """

    runs: Sequence[RecordedRun]
    sweeps: Sequence[Sweep]
    experiments: Sequence[Experiment]
    faults: list[str] = field(default_factory=list)


def separate(folders: Sequence[Path]) -> Separated:
    """Find out what folders contain: sweeps with their cells, and all other runs.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ComparisonError: If there is nothing to report.
    """
    faults: list[str] = []
    records = [path for folder in folders for path in find_json(folder, faults) if _is_record(path)]
    found = {path.parent.resolve(): path.parent for path in records}
    sweeps = [read_sweep(folder, faults) for folder in found.values()]
    taken = [sweep.folder for sweep in sweeps]
    taken += [cell.folder for sweep in sweeps for experiment in sweep.experiments for cell in experiment.cells]
    outside = [f for f in folders if not any(f.resolve().is_relative_to(other.resolve()) for other in taken)]
    runs = read_runs(outside, taken, faults) if outside else []
    methods = [folder for sweep in sweeps for folder in sweep.methods]
    if any(any(folder.rglob(RESULTS)) for folder in methods):
        runs += read_runs(methods, faults=faults)
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
        cells = [
            SweepCell(_ablation(run), int((training_of(run.manifest) or {})["seed"]), run.folder, DONE)
            for run in (*references, *group)
        ]
        try:
            experiments.append(Experiment(name, ABLATIONS[name].reference, cells))
        except ComparisonError as error:
            faults.append(str(error))
    return Separated(plain, sweeps, experiments, list(dict.fromkeys(faults)))


def _ablation(run: RecordedRun) -> str:
    return str((run.manifest.get("choices") or {}).get("ablation", ""))


def _training(run: RecordedRun) -> tuple[str, str, int] | None:
    training = training_of(run.manifest)
    if training is None or run.setting is None:
        return None
    return str(training["auxiliary"]["sha256"]), str(run.setting.backbone["fingerprint"]), int(training["seed"])
