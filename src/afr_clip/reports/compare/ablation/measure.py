"""From cells to rows: what each setting of an experiment measured, and how it differs from the reference."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from afr_clip.reports.compare.ablation.bootstrap import Interval, bootstrap_interval
from afr_clip.reports.compare.ablation.paper import in_order, label_of, settings_of
from afr_clip.reports.compare.ablation.record import DONE, Cell, Experiment
from afr_clip.reports.compare.aggregate import MEAN_ROW, NOTHING, MeasuredDataset, group_datasets
from afr_clip.reports.compare.gather import RESULTS, ComparisonError, RunResults, read_runs
from afr_clip.reports.compare.measured_tables import commit_of
from afr_clip.reports.compare.settings import Setting, differing_keys
from afr_clip.reports.record.provenance import training_of

Block = tuple[str, str]
"""What was scored, and what was trained on before."""

ReadRuns = Callable[[Path], Sequence[RunResults]]
"""Reads all results in a run folder."""


@dataclass(frozen=True)
class Paired:
    """A setting minus the reference, with the same seed in the same category.

    Attributes:
        mean: Over the pairs, as a fraction.
        interval: Of the mean; ``None`` where a single pair gives none.
        seeds: That both have.
        categories: That are defined in both with every one of these seeds.
        num_left_out: Pairs that the cells and categories of both would make, and that are not complete.
    """

    mean: float
    interval: Interval | None
    seeds: tuple[int | None, ...]
    categories: tuple[str, ...]
    num_left_out: int


@dataclass(frozen=True, eq=False)  # one of its table, told by identity
class Row:
    """One setting of an experiment over its seeds.

    Attributes:
        name: Of the setting.
        cells: In the order of their seeds.
        missing: Cells without numbers, and why.
        settings: What decides the numbers, by auxiliary dataset.
        datasets: What was measured, by what was scored and trained on.
        absent: Why a target has no numbers, by title.
        commits: Of the code that ran each cell.
    """

    name: str
    cells: Sequence[Cell]
    missing: Mapping[Cell, str]
    settings: Mapping[str, Setting]
    datasets: Mapping[Block, MeasuredDataset]
    absent: Mapping[str, str]
    commits: Mapping[Cell, str]

    @property
    def label(self) -> str:
        """Its name for readers."""
        return label_of(self.name)

    @property
    def setting(self) -> Setting | None:
        """What decides its numbers, of its first training; ``None`` where nothing was measured."""
        return next(iter(self.settings.values()), None)

    @property
    def is_random(self) -> bool:
        """Whether its frozen weights were never trained."""
        return any(setting.is_random for setting in self.settings.values())

    def undefined(self, block: Block, metric: str) -> list[str]:
        """Name the categories in which a metric is undefined with some seed."""
        dataset = self.datasets[block]
        names = [row.category for row in dataset.first.rows[:MEAN_ROW]]
        return [name for i, name in enumerate(names) if dataset.values(metric, i) is None]


@dataclass(frozen=True)
class Ablation:
    """An experiment with what its cells measured.

    Attributes:
        experiment: As the sweep recorded it.
        rows: One per setting, in the order in which they are shown.
    """

    experiment: Experiment
    rows: Sequence[Row]

    @cached_property
    def reference(self) -> Row | None:
        """The row that the others are compared with."""
        return next((row for row in self.rows if row.name == self.experiment.reference), None)

    @cached_property
    def blocks(self) -> list[Block]:
        """Everything that any of the rows measured."""
        return sorted({block for row in self.rows for block in row.datasets})

    def differing(self, row: Row) -> dict[str, tuple[Any, Any]]:
        """Name the config keys in which a row differs from the reference, as its runs recorded them.

        Args:
            row: Which one.

        Returns:
            The row's value and the reference's by key.
        """
        if self.reference is None:
            return {}
        found: dict[str, tuple[Any, Any]] = {}
        for auxiliary in [name for name in row.settings if name in self.reference.settings]:
            own, other = row.settings[auxiliary].decides, self.reference.settings[auxiliary].decides
            found |= {key: (own.get(key), other.get(key)) for key in differing_keys([own, other])}
        return found

    def paired(self, row: Row, block: Block, metric: str) -> Paired | None:
        """Compare a row with the reference.

        Args:
            row: Which one.
            block: What was scored and trained on.
            metric: Its name.

        Returns:
            The difference; ``None`` for the reference itself, and where there is no complete pair of the same images.
        """
        reference = self.reference
        if reference is None or row is reference or not {block} <= row.datasets.keys() & reference.datasets.keys():
            return None
        own, other = row.datasets[block], reference.datasets[block]
        if not same_images(own, other):
            return None
        seeds = [seed for seed in own.by_seed if seed in other.by_seed]
        categories = [r.category for r in own.first.rows[:MEAN_ROW]]
        matrix = np.array([[_difference(own, other, s, i, metric) for i in range(len(categories))] for s in seeds])
        if not seeds:
            return None
        complete = ~np.isnan(matrix).any(axis=0)
        if not complete.any():
            return None
        matrix = matrix[:, complete]
        wanted = {cell.seed for cell in (*row.cells, *reference.cells)} if own.first.seed is not None else {None}
        return Paired(
            float(matrix.mean()),
            bootstrap_interval(matrix),
            tuple(seeds),
            tuple(name for name, is_complete in zip(categories, complete, strict=True) if is_complete),
            len(wanted) * len(categories) - matrix.size,
        )


def same_images(own: MeasuredDataset, other: MeasuredDataset) -> bool:
    """Whether two measured datasets stand on the same images, scored and trained on."""
    return [source.sha256 for source in own.sources] == [source.sha256 for source in other.sources]


def measure(experiment: Experiment, read: ReadRuns) -> Ablation:
    """Put the cells of an experiment together.

    Args:
        experiment: Its cells in any order.
        read: Reads the results of a folder.

    Returns:
        One row per setting, those of the paper's table that were not run too.

    Raises:
        ComparisonError: If the cells of a setting differ in more than their seed, or did not run with theirs.
    """
    by_setting: dict[str, list[Cell]] = {}
    for cell in sorted(experiment.cells, key=lambda cell: cell.seed):
        by_setting.setdefault(cell.setting, []).append(cell)
    names = in_order([*by_setting, *settings_of(experiment.name)], experiment.reference)
    rows = [_row(name, by_setting.get(name, ()), read) for name in names]
    return Ablation(experiment, rows)


def read_folder(folder: Path) -> Sequence[RunResults]:
    """Read all results in a folder; none where it holds none."""
    return read_runs([folder]) if folder.is_dir() and any(folder.rglob(RESULTS)) else []


def _row(name: str, cells: Sequence[Cell], read: ReadRuns) -> Row:
    runs: list[RunResults] = []
    missing: dict[Cell, str] = {}
    commits: dict[Cell, str] = {}
    for cell in cells:
        found = read(cell.folder) if cell.state == DONE else []
        runs += found
        for run in found:
            _check_seed(cell, run)
            commits[cell] = commit_of(run)
        if not any(run.measurements for run in found):
            missing[cell] = _reason(cell, found)
    _check_agreement(name, runs)
    settings = {_trained_on(run): run.setting for run in runs if run.setting is not None}
    absent = {title: reason for run in runs for title, reason in run.absent.items()}
    return Row(name, cells, missing, settings, _blocks(name, runs), absent, commits)


def _reason(cell: Cell, found: Sequence[RunResults]) -> str:
    if cell.state != DONE:
        return f"{cell.state}: {cell.error}" if cell.error else cell.state
    if not found:
        return f"done, but {cell.folder} holds no {RESULTS}"
    reasons = {title: reason for run in found for title, reason in run.absent.items()}
    return "; ".join(f"{title}: {reason}" for title, reason in reasons.items()) or "done, but nothing was scored"


def _check_seed(cell: Cell, run: RunResults) -> None:
    training = training_of(run.manifest)
    if training is not None and training["seed"] != cell.seed:
        msg = (
            f"The cell of {cell.setting} with seed {cell.seed} must have run with this seed, got seed "
            f"{training['seed']} in {run.folder / RESULTS}. Run the sweep into a new folder."
        )
        raise ComparisonError(msg)


def _check_agreement(name: str, runs: Iterable[RunResults]) -> None:
    first: dict[str, RunResults] = {}
    for run in runs:
        if run.setting is None:
            continue
        before = first.setdefault(_trained_on(run), run)
        assert before.setting is not None
        keys = differing_keys([before.setting.decides, run.setting.decides])
        if keys:
            msg = (
                f"The cells of {name} must agree in everything but the seed, got another {', '.join(keys)} in "
                f"{run.folder} than in {before.folder}. Run them into a new folder with the same overrides."
            )
            raise ComparisonError(msg)


def _trained_on(run: RunResults) -> str:
    training = training_of(run.manifest)
    return NOTHING if training is None else str(training["auxiliary"].get("title") or training["auxiliary"]["name"])


def _blocks(name: str, runs: Iterable[RunResults]) -> dict[Block, MeasuredDataset]:
    blocks: dict[Block, MeasuredDataset] = {}
    for dataset in group_datasets(measurement for run in runs for measurement in run.measurements):
        before = blocks.setdefault((dataset.target.title, dataset.trained_on), dataset)
        if before is not dataset:
            msg = (
                f"The cells of {name} must score {dataset.target.title} on the same images after training on the same, "
                f"got others in {dataset.first.run} than in {before.first.run}. Run them into a new folder."
            )
            raise ComparisonError(msg)
    return blocks


def _difference(own: MeasuredDataset, other: MeasuredDataset, seed: int | None, row: int, metric: str) -> float:
    one = own.by_seed[seed].rows[row].values.get(metric)
    reference = other.by_seed[seed].rows[row].values.get(metric)
    return np.nan if one is None or reference is None else one - reference
