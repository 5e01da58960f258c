"""A search over continuous settings: Optuna proposes values, and every trial is a cell."""

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

from afr_clip.metrics.average import METRICS
from afr_clip.reports.record.results import MEAN_ROW, RESULTS, read_results
from afr_clip.reports.record.run_folder import write_json
from afr_clip.run.job import TrainingJob
from afr_clip.sweep.cells import state_of
from afr_clip.sweep.job import Cell, SweepJob
from afr_clip.sweep.launch import run_cells

logger = logging.getLogger(__name__)

DATABASE = "search.db"


class SearchError(ValueError):
    """A search that cannot run as requested."""


def check_search(job: SweepJob) -> None:
    """Check a search before its first trial.

    Raises:
        SearchError: If it asks for an unknown metric, or would choose by a dataset that it does not train on.
    """
    if job.search.objective not in METRICS:
        msg = f"search.objective must be one of {', '.join(METRICS)}, got {job.search.objective}."
        raise SearchError(msg)
    training, *legs = job.cells[0].runs
    assert isinstance(training, TrainingJob), "a search varies what is trained"
    targets, trained_on = [target.name for target in training.targets], training.auxiliary.name
    if legs or targets != [trained_on] or training.targets[0].categories is None:
        msg = (
            f"A search must be scored on held-out categories of the dataset it trains on, {trained_on}, got "
            f"protocol.targets={targets}. Write an experiment file like experiment=search_demo: it names "
            f"dataset.categories, protocol.targets=[{trained_on}] and other categories in protocol.categories."
        )
        raise SearchError(msg)


def run_search(job: SweepJob) -> dict[int, Cell]:
    """Run trials until there are as many as wanted, and return their cells by number.

    Finished trials are kept, unfinished ones of an earlier call resume in their own folders.
    """
    study = Study(job)
    study.write()
    while batch := study.next_batch():
        study.write()
        run_cells(job, list(batch.values()), partial(study.tell, batch, final=False))
        study.tell(batch, final=True)
        if any(state_of(cell.folder).name == "waiting" for cell in batch.values()):
            break
    return study.cells()


class Study:
    """The trials of a search, in Optuna's database and in ``search.json``.

    Raises:
        SearchError: If Optuna is not installed.
    """

    def __init__(self, job: SweepJob) -> None:
        try:
            import optuna  # noqa: PLC0415 - an optional package
        except ImportError:
            msg = "A search needs Optuna, which is not installed. Run pip install -e '.[sweep]'."
            raise SearchError(msg) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna: Any = optuna
        self._job = job
        self._known: dict[int, Cell] = {}
        self._study: Any = optuna.create_study(
            storage=f"sqlite:///{job.folder / DATABASE}",
            study_name="search",
            direction=job.search.direction,  # type: ignore[arg-type]
            load_if_exists=True,
        )

    def next_batch(self) -> dict[int, Cell]:
        """Return the next trials to run: unfinished ones, then new ones; none if there are enough."""
        trials, size = self._trials(), self._job.jobs
        unfinished = [trial.number for trial in trials if trial.state.name == "RUNNING"][:size]
        missing = min(self._job.num_trials - len(trials), size - len(unfinished))
        numbers = [*unfinished, *(self._ask() for _ in range(missing))]
        cells = self.cells()
        return {number: cells[number] for number in numbers}

    def _ask(self) -> int:
        # Each trial has a sampler of its own: one made again after a kill would repeat its first proposals.
        settings, intervals = self._job.search, self._job.space
        self._study.sampler = self._optuna.samplers.TPESampler(
            seed=100_000 * settings.seed + len(self._study.get_trials(deepcopy=False)),
            n_startup_trials=settings.num_startup_trials,
            constant_liar=True,
        )
        space = {
            key: self._optuna.distributions.FloatDistribution(interval.low, interval.high, log=interval.log)
            for key, interval in intervals.items()
        }
        return int(self._study.ask(fixed_distributions=space).number)

    def _trials(self) -> list[Any]:
        """Return the trials that have all their values; one that was killed while it was asked for has not."""
        trials = self._study.get_trials(deepcopy=False)
        whole = [trial for trial in trials if trial.params.keys() == self._job.space.keys()]
        for trial in trials:
            if trial.state.name == "RUNNING" and trial not in whole:
                self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
        return whole

    def cells(self) -> dict[int, Cell]:
        """Return the cell of every trial."""
        for trial in self._trials():
            if trial.number not in self._known:
                self._known[trial.number] = self._job.trial(trial.number, trial.params)
        return dict(sorted(self._known.items()))

    def tell(self, batch: dict[int, Cell], *, final: bool) -> None:
        """Tell Optuna the results of some trials.

        Args:
            final: Whether failed trials will not be tried again.
        """
        running = {trial.number for trial in self._trials() if trial.state.name == "RUNNING"}
        for number, cell in batch.items():
            state = state_of(cell.folder).name
            if number not in running or state == "waiting" or (state == "failed" and not final):
                continue
            value = self._value(cell.folder) if state == "done" else None
            if value is None:
                logger.warning("Trial %d has no value: see %s.", number, cell.folder)
                self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)
            else:
                self._study.tell(number, value)
        self.write()

    def _value(self, folder: Path) -> float | None:
        """Read the objective of a finished cell; ``None`` if it is undefined on a target."""
        _, values = read_results(folder / RESULTS)
        means = values[(values.row == MEAN_ROW) & (values.metric == self._job.search.objective)]
        numbers = [float(means.set_index("dataset").value[name]) for name in self._targets()]
        return None if any(map(math.isnan, numbers)) else sum(numbers) / len(numbers)

    def _targets(self) -> list[str]:
        return [target.name for target in self._job.cells[0].runs[0].targets]

    def write(self) -> None:
        """Write ``search.json``."""
        cells, settings = self.cells(), self._job.search
        names = {"COMPLETE": "done", "FAIL": "failed"}
        trials = [
            {
                "number": trial.number,
                "params": dict(trial.params),
                "value": trial.value,
                "state": names.get(trial.state.name, "waiting"),
                "folder": str(cells[trial.number].folder.relative_to(self._job.folder)),
            }
            for trial in self._trials()
        ]
        content = {
            "objective": {
                "metric": settings.objective,
                "targets": self._targets(),
                "direction": settings.direction,
            },
            "space": {key: vars(interval) for key, interval in self._job.space.items()},
            "trials": trials,
        }
        write_json(self._job.record_path, self._job.record_head | content)
