"""Which of the folders that were passed are sweeps, which hold ablations run by hand, and which are plain runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from afr_clip.reports.compare.ablation.paper import FULL, REFERENCES, experiment_of
from afr_clip.reports.compare.ablation.record import DONE, Cell, Experiment, Sweep, checked, find_sweeps, read_sweep
from afr_clip.reports.compare.gather import RunResults, read_runs
from afr_clip.reports.record.provenance import training_of


@dataclass(frozen=True)
class Separated:
    """What was passed to a report.

    Attributes:
        runs: For tables 1 and 2.
        sweeps: With a record of their cells.
        experiments: Runs with an ``ablation=`` of tables 3 to 6 or of a reading, which nothing but they record.
    """

    runs: Sequence[RunResults]
    sweeps: Sequence[Sweep]
    experiments: Sequence[Experiment]


def separate(folders: Sequence[Path]) -> Separated:
    """Find out what folders hold.

    Args:
        folders: Sweep folders, run folders, or folders that hold some.

    Returns:
        Sweeps with their cells, and all other runs.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ComparisonError: If a file cannot be read, or runs contradict each other.
    """
    sweeps = [read_sweep(folder) for folder in find_sweeps(folders)]
    taken = [sweep.folder for sweep in sweeps]
    taken += [cell.folder for sweep in sweeps for experiment in sweep.experiments for cell in experiment.cells]
    others = [folder for folder in folders if not _is_within(folder, taken)]
    runs = read_runs(others, besides=taken) if others else []
    grouped = _group(runs)
    in_groups = {id(run) for group in grouped.values() for run in group}
    plain = [run for run in runs if id(run) not in in_groups]
    experiments = []
    for name, group in grouped.items():
        references = _references(group, plain) if name == "readings" else []
        cells = [_cell(run) for run in (*references, *group)]
        experiments.append(checked(Experiment(name, REFERENCES[name], cells)))
    return Separated(plain, sweeps, experiments)


def _is_within(folder: Path, others: Sequence[Path]) -> bool:
    return any(folder.resolve().is_relative_to(other.resolve()) for other in others)


def _group(runs: Sequence[RunResults]) -> Mapping[str, list[RunResults]]:
    groups: dict[str, list[RunResults]] = {}
    for run in runs:
        experiment = experiment_of(_ablation(run))
        if experiment is not None and training_of(run.manifest) is not None:
            groups.setdefault(experiment, []).append(run)
    return groups


def _references(group: Sequence[RunResults], plain: Sequence[RunResults]) -> list[RunResults]:
    """The full models among plain runs that trained on what the readings did, with their weights."""
    wanted = {_stands_on(run) for run in group}
    return [run for run in plain if _ablation(run) == FULL and _stands_on(run) in wanted]


def _stands_on(run: RunResults) -> tuple[str, str, int] | None:
    training = training_of(run.manifest)
    if training is None or run.setting is None:
        return None
    return str(training["auxiliary"]["sha256"]), str(run.setting.backbone["fingerprint"]), int(training["seed"])


def _ablation(run: RunResults) -> str:
    return str((run.manifest.get("choices") or {}).get("ablation", ""))


def _cell(run: RunResults) -> Cell:
    training = training_of(run.manifest)
    assert training is not None
    return Cell(_ablation(run), int(training["seed"]), run.folder, DONE)
