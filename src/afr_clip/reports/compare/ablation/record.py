"""What a sweep wrote down: which cells it has, in what state they are, and the trials of its search."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afr_clip.reports.compare.ablation.paper import TITLES
from afr_clip.reports.compare.gather import ComparisonError

SEARCH = "search.json"

DONE, FAILED, WAITING = "done", "failed", "waiting"
STATES = (DONE, FAILED, WAITING)
"""What can be said of a cell."""


@dataclass(frozen=True)
class Cell:
    """One setting with one seed.

    Attributes:
        setting: Its name.
        seed: Of the training.
        folder: The run folder.
        state: One of `STATES`.
        error: Why it failed, in a sentence; empty where it did not.
    """

    setting: str
    seed: int
    folder: Path
    state: str
    error: str = ""


@dataclass(frozen=True)
class Experiment:
    """Settings that are held against one of them.

    Attributes:
        name: ``table3`` to ``table6``, ``readings``, or a name of its own.
        reference: The setting that the others are compared with.
        cells: In no particular order.
        overrides: What was passed on to every cell.
    """

    name: str
    reference: str
    cells: Sequence[Cell]
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class Trial:
    """One point of a search.

    Attributes:
        number: Its place in the search.
        params: What was tried.
        value: What came out; ``None`` where nothing did.
        state: As the search calls it.
        folder: The run folder; empty where there is none.
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
        folder: Of the sweep.
        objective: What was looked for, as the sweep says it.
        trials: In their order.
        logarithmic: The parameters whose range is logarithmic, as far as it is known.
    """

    folder: Path
    objective: Mapping[str, Any]
    trials: Sequence[Trial]
    logarithmic: frozenset[str] = frozenset()

    @property
    def aim(self) -> str:
        """What was looked for, in words; empty where it was not recorded."""
        lists = {key: ", ".join(map(str, v)) if isinstance(v, list) else v for key, v in self.objective.items()}
        return "; ".join(f"{key} {v}" for key, v in lists.items() if isinstance(v, str | int | float))

    @property
    def is_minimised(self) -> bool:
        """Whether lower is better."""
        return str(self.objective.get("direction", "maximize")).lower().startswith("min")

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
    """A folder of cells.

    Attributes:
        folder: Where it is.
        experiments: In alphabetical order.
        search: If there was one.
    """

    folder: Path
    experiments: Sequence[Experiment] = field(default=())
    search: Search | None = None


def find_sweeps(folders: Sequence[Path]) -> list[Path]:
    """Find sweep folders in and below folders.

    Args:
        folders: Any.

    Returns:
        Those that hold the record of a sweep, each once.
    """
    found = {
        path.parent.resolve(): path.parent
        for folder in folders
        for path in sorted(folder.rglob("*.json"))
        if _is_record(path)
    }
    return list(found.values())


def read_sweep(folder: Path) -> Sweep:
    """Read what a sweep wrote down.

    Args:
        folder: The sweep folder.

    Returns:
        Its experiments and its search.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ComparisonError: If it holds no record of a sweep, or one that cannot be read.
    """
    if not folder.is_dir():
        msg = f"A sweep must be a folder, got {folder}, which is none. Pass the sweep_dir of a sweep."
        raise FileNotFoundError(msg)
    paths = [path for path in sorted(folder.glob("*.json")) if _is_record(path)]
    if not paths:
        msg = f"{folder} must hold the record of a sweep, EXPERIMENT.json or {SEARCH}, and does not. Pass a sweep_dir."
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
        return path.name == SEARCH or path.stem in TITLES
    wanted = {"trials"} if path.name == SEARCH else {"experiment", "cells"}
    return isinstance(content, dict) and wanted <= content.keys()


def _read(path: Path, make: Any) -> Any:  # noqa: ANN401  # of either kind
    try:
        return make(path.parent, json.loads(path.read_text(encoding="utf-8")))
    except ComparisonError as error:
        msg = f"{path}: {error}"
        raise ComparisonError(msg) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        msg = (
            f"{path} must be the record of a sweep, and could not be read as that ({type(error).__name__}: {error}). "
            f"Run the sweep again; it writes the file anew and repeats no finished cell."
        )
        raise ComparisonError(msg) from error


def _experiment(folder: Path, content: Mapping[str, Any]) -> Experiment:
    cells = [
        Cell(str(c["setting"]), int(c["seed"]), folder / c["folder"], str(c["state"]), str(c.get("error") or ""))
        for c in content["cells"]
    ]
    return checked(
        Experiment(str(content["experiment"]), str(content["reference"]), cells, content.get("overrides") or ())
    )


def checked(experiment: Experiment) -> Experiment:
    """Refuse an experiment that cannot be laid out.

    Args:
        experiment: As it was read.

    Returns:
        The same.

    Raises:
        ComparisonError: If a state is unknown, or a setting has a seed twice.
    """
    seen: dict[tuple[str, int], Cell] = {}
    for cell in experiment.cells:
        if cell.state not in STATES:
            msg = (
                f"A cell must be {', '.join(STATES)}, got {cell.state} for {cell.setting} with seed {cell.seed}. Run "
                f"the sweep again."
            )
            raise ComparisonError(msg)
        before = seen.setdefault((cell.setting, cell.seed), cell)
        if before is not cell:
            msg = (
                f"{experiment.name} must have one run per setting and seed, got {before.folder} and {cell.folder} for "
                f"{cell.setting} with seed {cell.seed}. Leave one out."
            )
            raise ComparisonError(msg)
    return experiment


def _search(folder: Path, content: Mapping[str, Any]) -> Search:
    objective = content.get("objective") or {}
    trials = [
        Trial(int(t["number"]), dict(t["params"]), _number(t.get("value")), str(t["state"]), str(t.get("folder") or ""))
        for t in content["trials"]
    ]
    space = content.get("space") or objective.get("space") or {}
    logarithmic = {key for key, axis in space.items() if isinstance(axis, Mapping) and axis.get("log")}
    return Search(folder, objective, sorted(trials, key=lambda trial: trial.number), frozenset(logarithmic))


def _number(value: float | int | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
