"""Runs of one setting put together: spread over seeds, one row per dataset, means over a domain."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from afr_clip.reports.compare.gather import ComparisonError, Measurement, RunResults, Source
from afr_clip.reports.compare.paper import PaperDataset
from afr_clip.reports.compare.settings import RELEASED, Setting, label_settings

PARTLY = "\N{DAGGER}"
"""Marks a number over another number of images or categories than the published test split has."""

NOTHING = "nothing"
"""What was trained on where nothing was, and the target was not looked at either."""

MEAN_ROW = -1
"""The place of the mean among the rows of a measurement."""


@dataclass(frozen=True)
class Spread:
    """A number over seeds, as a fraction.

    Attributes:
        mean: Over the seeds.
        deviation: Sample standard deviation; ``None`` for one seed, or where the seeds of what was averaged differ.
        num: How many seeds; 0 where they differ.
        is_partial: Whether it stands on something else than published test splits.
    """

    mean: float
    deviation: float | None
    num: int
    is_partial: bool = False


@dataclass(frozen=True)
class MeasuredDataset:
    """One dataset under one setting, trained on one auxiliary dataset, over the seeds there are.

    Attributes:
        by_seed: What each seed gave; the same images throughout.
    """

    by_seed: Mapping[int | None, Measurement]

    @property
    def first(self) -> Measurement:
        """The measurement of the lowest seed."""
        return next(iter(self.by_seed.values()))

    @property
    def target(self) -> Source:
        """What was scored."""
        return self.first.target

    @property
    def auxiliary(self) -> Source | None:
        """What was trained on."""
        return self.first.auxiliary

    @property
    def trained_on(self) -> str:
        """The title of the auxiliary dataset, what else was learned from, or that there is nothing."""
        setting = self.first.setting
        learned = [] if self.auxiliary is None else [self.auxiliary.title]
        learned += [RELEASED] if RELEASED in setting.decides else []
        learned += [f"{setting.shots} normal images of each category"] if setting.shots else []
        return " and ".join(learned) or NOTHING

    @property
    def sources(self) -> list[Source]:
        """What was scored, and what was trained on if anything was."""
        return [self.target] if self.auxiliary is None else [self.target, self.auxiliary]

    @property
    def is_partial(self) -> bool:
        """Whether what was scored or trained on is not the published test split."""
        return any(source.missing for source in self.sources)

    @property
    def is_in_protocol(self) -> bool:
        """Whether the paper scores this dataset after the same training, or nothing is trained."""
        published = self.target.published
        return published is not None and self.trained_on in {published.auxiliary, NOTHING}

    def values(self, metric: str, row: int = MEAN_ROW) -> dict[int | None, float] | None:
        """Return a metric by seed, ``None`` where it is undefined.

        Args:
            metric: Its name.
            row: Which category; the mean by default.
        """
        found = {seed: measurement.rows[row].values.get(metric) for seed, measurement in self.by_seed.items()}
        defined = {seed: value for seed, value in found.items() if value is not None}
        return defined if len(defined) == len(found) else None

    def spread(self, metric: str, row: int = MEAN_ROW) -> Spread | None:
        """Return a metric over the seeds, ``None`` where it is undefined."""
        values = self.values(metric, row)
        return None if values is None else _spread(list(values.values()), is_partial=self.is_partial)


@dataclass(frozen=True)
class MeasuredSetting:
    """All that was measured under one setting.

    Attributes:
        setting: What decides its numbers.
        label: Its name on the page; no other setting has it.
        datasets: Everything scored.
        absent: Why a target has no numbers, by title.
    """

    setting: Setting
    label: str
    datasets: tuple[MeasuredDataset, ...]
    absent: Mapping[str, str]

    def in_protocol(self, published: PaperDataset) -> MeasuredDataset | None:
        """Find what may stand beside the paper's number of a dataset.

        The published test split wins over a part of it.

        Args:
            published: The dataset.

        Returns:
            The measurements, ``None`` where the dataset is absent.

        Raises:
            ComparisonError: If there are several, on different images.
        """
        fitting = [d for d in self.datasets if d.is_in_protocol and d.target.published == published]
        complete = [d for d in fitting if not d.is_partial] or fitting
        if len(complete) > 1:
            one, other = complete[0].first, complete[1].first
            msg = (
                f"{published.title} must be the same images for all seeds of {self.label}, trained on the same images, "
                f"got others in {one.run} than in {other.run}. Report them apart."
            )
            raise ComparisonError(msg)
        return complete[0] if complete else None

    def mean_over(self, published: Iterable[PaperDataset], metric: str) -> Spread | None:
        """Average a metric over datasets, each counting once.

        Args:
            published: The datasets.
            metric: Its name.

        Returns:
            The mean, with a deviation where all datasets have the same seeds; ``None`` where one is absent or
            undefined.
        """
        found = [self.in_protocol(dataset) for dataset in published]
        measured = [dataset for dataset in found if dataset is not None]
        values = [v for dataset in measured if (v := dataset.values(metric)) is not None]
        if not values or len(values) < len(found):
            return None
        is_partial = any(dataset.is_partial for dataset in measured)
        if all(v.keys() == values[0].keys() for v in values):
            return _spread([fmean(v[seed] for v in values) for seed in values[0]], is_partial=is_partial)
        return Spread(fmean(fmean(v.values()) for v in values), None, 0, is_partial)


def aggregate(runs: Sequence[RunResults]) -> list[MeasuredSetting]:
    """Put runs of the same setting together.

    Args:
        runs: As they were read.

    Returns:
        The settings in the order in which they were met, their seeds in ascending order.

    Raises:
        ComparisonError: If two runs measured the same and got different numbers.
    """
    by_key: dict[str, list[RunResults]] = {}
    for run in runs:
        if run.setting is not None and run.measurements:
            by_key.setdefault(run.setting.key, []).append(run)
    labels = label_settings([measurements_of(group)[0].setting for group in by_key.values()])
    # What measured nothing tells what was absent all the same, of whatever setting it would have been.
    nothing = [run for run in runs if not run.measurements]
    settings = []
    for key, group in by_key.items():
        absent = {title: reason for run in (*nothing, *group) for title, reason in run.absent.items()}
        measurements = measurements_of(group)
        settings.append(
            MeasuredSetting(measurements[0].setting, labels[key], tuple(group_datasets(measurements)), absent)
        )
    return settings


def measurements_of(runs: Iterable[RunResults]) -> list[Measurement]:
    """Return all measurements of runs, one after the other."""
    return [measurement for run in runs for measurement in run.measurements]


def group_datasets(measurements: Iterable[Measurement]) -> list[MeasuredDataset]:
    """Put the seeds of each dataset together.

    Args:
        measurements: Of one setting.

    Returns:
        One entry per dataset, images and training, the seeds in ascending order.

    Raises:
        ComparisonError: If two measured the same and got different numbers.
    """
    found: dict[tuple[str, ...], dict[int | None, Measurement]] = {}
    for measurement in measurements:
        auxiliary = measurement.auxiliary
        trained_on = ("", "") if auxiliary is None else (auxiliary.title, auxiliary.sha256)
        by_seed = found.setdefault((measurement.target.title, measurement.target.sha256, *trained_on), {})
        before = by_seed.setdefault(measurement.seed, measurement)
        if before.rows != measurement.rows:
            msg = (
                f"{measurement.target.title} must have one result per auxiliary dataset and seed, got different ones "
                f"for {_said(measurement)} in {before.run / 'results.json'} and {measurement.run / 'results.json'}. "
                f"Leave one out."
            )
            raise ComparisonError(msg)
    return [MeasuredDataset(dict(sorted(by_seed.items(), key=lambda item: item[0] or 0))) for by_seed in found.values()]


def _said(measurement: Measurement) -> str:
    if measurement.auxiliary is None:
        return "a method that trains nothing"
    return f"{measurement.auxiliary.title} and seed {measurement.seed}"


def _spread(values: Sequence[float], *, is_partial: bool) -> Spread:
    deviation = stdev(values) if len(values) > 1 else None
    return Spread(fmean(values), deviation, len(values), is_partial)
