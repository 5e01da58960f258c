"""What a sweep has to do, typed and final."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afr_clip.files import clean_name, first_few
from afr_clip.run.job import EvaluationJob, ProtocolJob, TrainingJob
from afr_clip.settings import SearchSettings


@dataclass(frozen=True)
class Interval:
    """A continuous setting that a search varies; ``log`` spreads values over orders of magnitude."""

    low: float
    high: float
    log: bool

    @property
    def middle(self) -> float:
        """The geometric mean of a logarithmic interval, the mean of any other."""
        return float((self.low * self.high) ** 0.5) if self.log else (self.low + self.high) / 2


@dataclass(frozen=True)
class Cell:
    """One training of a sweep, or one dataset that a method without training is scored on.

    Attributes:
        overrides: What its own command is given, without the folder.
        digest: Stands for everything that influences its numbers; the same training has the same in every sweep.
    """

    setting: str
    seed: int
    overrides: tuple[str, ...]
    digest: str
    folder: Path
    job: TrainingJob | ProtocolJob | EvaluationJob = field(compare=False, repr=False)

    @property
    def runs(self) -> tuple[TrainingJob | EvaluationJob, ...]:
        """The runs of the cell: itself, or the legs of its protocol."""
        return self.job.legs if isinstance(self.job, ProtocolJob) else (self.job,)

    @property
    def results(self) -> list[str]:
        """The files that a finished cell has, relative to its folder."""
        if isinstance(self.job, ProtocolJob):
            return [f"{leg.folder.name}/results.json" for leg in self.job.legs]
        return ["results.json"]


def describe_faults(faults: Mapping[str, Sequence[str]]) -> str:
    """Describe each fault in one line, with the settings that cannot run because of it.

    Example:
        >>> print(describe_faults({"No data.": ["a", "b", "c", "d", "e"], "No stem.": ["f"]}))
        a, b, c and 2 more cannot run: No data.
        f cannot run: No stem.
    """
    return "\n".join(
        f"{first_few(list(dict.fromkeys(settings)))} cannot run: {fault}" for fault, settings in faults.items()
    )


@dataclass(frozen=True)
class SweepJob:
    """A sweep over the settings of an experiment, or a search over its intervals.

    Attributes:
        overrides: What was typed and is passed on to every cell.
        decisive: Those of them that influence numbers, sorted; a sweep can only be continued with these.
        axes: What is varied, as plain values for the record.
        space: The intervals of a search; empty for an experiment.
        cells: The cells of an experiment; of a search, one in the middle of the space, to check and to estimate with.
        reference: The setting that is the full method, with which the others are compared.
        jobs: Cells at a time on this machine.
        launcher: ``basic`` for this machine, or another file of ``hydra/launcher``.
        trial: Makes the cell of a trial from its number and values.
    """

    experiment: str
    folder: Path
    overrides: tuple[str, ...]
    decisive: Sequence[str]
    axes: Mapping[str, Any]
    space: Mapping[str, Interval]
    cells: tuple[Cell, ...]
    reference: str | None
    num_trials: int
    jobs: int
    devices: int
    dry_run: bool
    search: SearchSettings
    launcher: str
    launcher_settings: Mapping[str, Any]
    trial: Callable[[int, Mapping[str, float]], Cell]

    @property
    def compares_methods(self) -> bool:
        """Whether its cells are runs for tables 1 and 2, instead of settings of one method."""
        return "module" in self.axes

    @property
    def record_path(self) -> Path:
        """The file that names the cells of an experiment; that of a search has a fixed name."""
        name = "search" if self.space else clean_name(self.experiment, {"search", "results", "manifest"})
        return self.folder / f"{name}.json"

    @property
    def record_head(self) -> dict[str, Any]:
        """What identifies the sweep in its record."""
        return {
            "experiment": self.experiment,
            "axes": dict(self.axes),
            "overrides": list(self.overrides),
            "decisive": list(self.decisive),
        }
