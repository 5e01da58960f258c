"""A search over continuous settings: Optuna proposes, every trial is a cell."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afr_clip.metrics.average import METRICS
from afr_clip.reports.record.results import MEAN_ROW, read_values
from afr_clip.sweep.cell import State, state_of, write_plan
from afr_clip.sweep.job import Cell, SweepJob
from afr_clip.sweep.launch import chosen_run, extra_overrides, run_cells
from afr_clip.sweep.record import write_search

logger = logging.getLogger(__name__)

DATABASE = "search.db"


class SearchError(ValueError):
    """A search that cannot run as asked."""


@dataclass(frozen=True)
class LookedFor:
    """What a search looks for.

    Attributes:
        metric: A metric of ``results.json``.
        targets: The datasets whose mean it is.
        direction: ``maximize`` or ``minimize``.
        seed: Of the training of every trial.
    """

    metric: str
    targets: tuple[str, ...]
    direction: str
    seed: int

    def as_plain(self) -> dict[str, Any]:
        """Return plain values for the record."""
        return {"metric": self.metric, "targets": list(self.targets), "direction": self.direction}

    def value(self, folder: Path) -> float | None:
        """Read what a finished cell reached.

        Args:
            folder: Its run folder.

        Returns:
            The mean over the targets; ``None`` where the metric is undefined on one.
        """
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]
        values = read_values(results)
        means = values[(values.row == MEAN_ROW) & (values.metric == self.metric)].set_index("dataset").value
        numbers = [float(means[name]) for name in self.targets]
        return None if any(map(math.isnan, numbers)) else sum(numbers) / len(numbers)


def plan_search(job: SweepJob) -> LookedFor:
    """Check a search before its first trial.

    Raises:
        SearchError: If the search cannot run as asked, or would choose by a dataset that it does not train on.
    """
    metric, (cell,) = job.search.objective, job.cells
    if metric not in METRICS:
        msg = f"search.objective must be one of {', '.join(METRICS)}, got {metric}. Change search.objective."
        raise SearchError(msg)
    (training, *legs) = cell.trainings
    targets = tuple(target.name for target in training.targets)
    trained_on = training.auxiliary.name
    if legs or targets != (trained_on,) or training.targets[0].categories is None:
        msg = (
            f"A search must be scored on held-out categories of the dataset it trains on, {trained_on}, got "
            f"protocol.targets={list(targets)}. Write an experiment file like experiment=search_demo: it names "
            f"dataset.categories, protocol.targets=[{trained_on}] and others in protocol.categories."
        )
        raise SearchError(msg)
    return LookedFor(metric, targets, job.search.direction, cell.seed)


def run_search(job: SweepJob, looked_for: LookedFor) -> list[tuple[int, Path]]:
    """Run trials until there are as many as wanted.

    Trials that an earlier call left unfinished go on in their own folders; finished ones are kept.

    Args:
        job: Has the space.
        looked_for: What is looked for.

    Returns:
        Number and folder of every trial.
    """
    study = Study(job, looked_for)
    study.write()
    while batch := study.next_batch(job.num_trials, job.jobs):
        for cell in batch.values():
            if state_of(cell.folder).name != "done":
                write_plan(cell, extra_overrides(job, cell))
        study.write()

        def note(_folder: Path, _state: State, batch: dict[int, Cell] = batch) -> None:
            study.tell(batch, final=False)

        run_cells(list(dict.fromkeys(cell.folder for cell in batch.values())), chosen_run(job, note))
        study.tell(batch, final=True)
        if any(state_of(cell.folder).name == "waiting" for cell in batch.values()):
            break
    return [(number, cell.folder) for number, cell in study.cells().items()]


class Study:
    """The trials of a search, in Optuna's database and in ``search.json``.

    Args:
        job: Has the space.
        looked_for: What is looked for.

    Raises:
        SearchError: If Optuna is not installed.
    """

    def __init__(self, job: SweepJob, looked_for: LookedFor) -> None:
        try:
            import optuna  # noqa: PLC0415 - an optional package
        except ImportError:
            msg = "A search must have Optuna, and it is not installed. Run pip install -e '.[sweep]'."
            raise SearchError(msg) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna: Any = optuna
        self._job, self._looked_for = job, looked_for
        self._known: dict[int, Cell] = {}
        storage = f"sqlite:///{job.folder / DATABASE}"
        self._study: Any = self._optuna.create_study(
            storage=storage, study_name="search", direction=looked_for.direction, load_if_exists=True
        )

    def next_batch(self, num_trials: int, size: int) -> dict[int, Cell]:
        """Name the next trials: first those that were left unfinished, then new ones.

        Args:
            num_trials: How many there are to be in the end.
            size: How many run at the same time.

        Returns:
            The trials by number; none where there are enough.
        """
        running = [t.number for t in self._trials() if t.state.name == "RUNNING"]
        missing = num_trials - len(self._trials())
        asked = [self._ask() for _ in range(min(missing, size - len(running)))] if len(running) < size else []
        cells = self.cells()
        return {number: cells[number] for number in [*running[:size], *asked]}

    def _ask(self) -> int:
        # A sampler of its own for every trial: one that starts anew after a kill would repeat its first proposals.
        settings = self._job.search
        seed = 100_000 * settings.seed + len(self._study.get_trials(deepcopy=False))
        self._study.sampler = self._optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=settings.num_startup_trials, constant_liar=True
        )
        space = {
            key: self._optuna.distributions.FloatDistribution(interval.low, interval.high, log=interval.log)
            for key, interval in self._job.space.items()
        }
        return int(self._study.ask(fixed_distributions=space).number)

    def _trials(self) -> list[Any]:
        """Return the trials that know all their values; one that was killed while it was asked for does not."""
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state.name == "RUNNING" and trial.params.keys() != self._job.space.keys():
                self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
        return [trial for trial in trials if trial.params.keys() == self._job.space.keys()]

    def cells(self) -> dict[int, Cell]:
        """Return the cell of every trial."""
        for trial in self._trials():
            if trial.number not in self._known:
                self._known[trial.number] = self._job.trial(trial.number, trial.params)
        return dict(sorted(self._known.items()))

    def tell(self, batch: dict[int, Cell], *, final: bool) -> None:
        """Tell Optuna what came out.

        Args:
            batch: Trials by number.
            final: Whether a trial that failed is not tried again.
        """
        running = {trial.number for trial in self._trials() if trial.state.name == "RUNNING"}
        for number, cell in batch.items():
            state = state_of(cell.folder).name
            if number not in running or state == "waiting" or (state == "failed" and not final):
                continue
            value = self._looked_for.value(cell.folder) if state == "done" else None
            if value is None:
                logger.warning("Trial %d has no value: see %s.", number, cell.folder)
                self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)
            else:
                self._study.tell(number, value)
        self.write()

    def write(self) -> None:
        """Write ``search.json``."""
        cells: dict[int, Cell] = self.cells()
        trials: Sequence[Any] = self._trials()
        names = {"COMPLETE": "done", "FAIL": "failed"}
        rows = [
            {
                "number": trial.number,
                "params": dict(trial.params),
                "value": trial.value,
                "state": names.get(trial.state.name, "waiting"),
                "folder": str(cells[trial.number].folder.relative_to(self._job.folder)),
            }
            for trial in trials
        ]
        write_search(self._job, self._looked_for.as_plain(), rows)
