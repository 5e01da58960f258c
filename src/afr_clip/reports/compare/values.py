"""From `results.json` files to one tidy table of all measured values, and from there to numbers over seeds."""

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from afr_clip.files import shown
from afr_clip.metrics.average import PUBLISHED_PRO
from afr_clip.reports.compare.paper import DATASETS, find_dataset
from afr_clip.reports.compare.settings import RELEASED, Setting, setting_of
from afr_clip.reports.record.provenance import few_shot, training_of
from afr_clip.reports.record.results import MEAN_ROW, RESULTS, read_results
from afr_clip.reports.record.run_folder import MANIFEST
from afr_clip.reports.record.schema import RecordError

logger = logging.getLogger(__name__)

NOTHING = "nothing"
"""Stands for the auxiliary dataset of a method that trains nothing and saw no image of the target."""

COPIES = ("mlflow", "tensorboard", "wandb")
"""Folders of a run that belong to its loggers."""

NO_SEED = -1
"""Stands for the seed of a method that draws nothing at random."""

VALUES = [
    *("series", "series_label", "setting", "method", "backbone", "random_weights", "run", "name", "seed"),
    *("target", "target_sha256", "target_lacks", "target_categories"),
    *("auxiliary", "auxiliary_sha256", "auxiliary_lacks", "trained_on"),
    *("row", "category", "metric", "value", "num_normal", "num_anomalous"),
]
"""Columns of the tidy table, see `Measured`."""

DATASET = ["series", "target", "target_sha256", "auxiliary", "auxiliary_sha256"]
"""Columns that tell measured datasets apart; values that agree in them differ in their seeds alone."""


class ComparisonError(ValueError):
    """Runs that cannot be compared as requested."""


@dataclass(frozen=True)
class RecordedRun:
    """One ``results.json``.

    Attributes:
        setting: How it measured; ``None`` if it stopped before it had a backbone, for lack of a dataset.
        values: Its part of the tidy table, see `Measured`; without a column ``series``.
        absent: Why a target has no numbers, by its title.
    """

    folder: Path
    manifest: Mapping[str, Any]
    setting: Setting | None
    values: pd.DataFrame
    absent: Mapping[str, str]

    @property
    def trained_on(self) -> str:
        """The name of the auxiliary dataset, or that there is none."""
        training = training_of(self.manifest)
        return NOTHING if training is None else str(training["auxiliary"].get("title") or training["auxiliary"]["name"])

    @property
    def commit(self) -> str:
        """The code that ran."""
        commit = self.manifest.get("commit") or {"hash": "unknown", "dirty": False}
        return f"{commit['hash'][:12]}{', with uncommitted changes' if commit['dirty'] else ''}"


def read_runs(
    folders: Sequence[Path], without: Sequence[Path] = (), faults: list[str] | None = None
) -> list[RecordedRun]:
    """Read all runs in and below folders, each once.

    A run is a folder with results and a manifest. What a logger keeps in its own folder inside a run is a copy.

    Args:
        folders: Run folders, or folders that contain some.
        without: Folders whose runs are left out.
        faults: Takes a sentence for each run that cannot be read; without it, the first is raised.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ComparisonError: If there are no results, or a file is not a run's.
    """
    found: dict[Path, Path] = {}
    bare: list[Path] = []
    left_out = [folder.resolve() for folder in without]
    for folder in folders:
        if not folder.is_dir():
            msg = f"{shown(folder)} is not a directory. Pass run folders, or a folder that contains some."
            raise FileNotFoundError(msg)
        paths = [path for path in find_json(folder, faults) if path.name == RESULTS]
        bare += [] if paths else [folder]
        for path in paths:
            real = path.resolve()
            if any(real.is_relative_to(other) for other in left_out):
                continue
            if not path.with_name(MANIFEST).exists():
                logger.warning("%s has no %s next to it, so it is not a run's and is left out.", shown(path), MANIFEST)
                continue
            found.setdefault(real, path)
    if bare and not found:
        msg = (
            f"{shown(bare[0])} contains no {RESULTS} of a run, nor does any folder below it. Pass folders of runs or "
            f"sweeps."
        )
        raise ComparisonError(msg)
    for folder in bare:  # a run that ended before it had any
        logger.warning("%s contains no %s and is left out.", shown(folder), RESULTS)
    runs = []
    for path in found.values():
        try:
            runs.append(_read_run(path))
        except (RecordError, OSError) as error:
            report_fault(path, error, faults)
    return runs


def find_json(folder: Path, faults: list[str] | None = None) -> list[Path]:
    """Find the JSON files in and below a folder, in alphabetical order, without what loggers copied into a run."""
    found = []
    for place, folders, names in os.walk(folder, onerror=lambda error: report_fault(folder, error, faults)):
        if RESULTS in names or MANIFEST in names:
            folders[:] = [name for name in folders if name not in COPIES]
        found += [Path(place, name) for name in names if name.endswith(".json")]
    return sorted(found)


def report_fault(path: Path, error: Exception, faults: list[str] | None) -> None:
    """Add what is wrong with a file to the faults, or raise it if they are not collected."""
    said = str(error)
    if isinstance(error, OSError):
        said = f"{shown(str(error.filename or path))} cannot be read: {error.strerror}. Check its permissions."
    if faults is None:
        raise ComparisonError(said) from error
    faults.append(said)


def _read_run(path: Path) -> RecordedRun:
    content, values = read_results(path, for_display=True)
    manifest = content["manifest"]
    setting = setting_of(manifest) if manifest.get("backbone") is not None else None
    absent = {facts["title"]: facts["reason"] for facts in (manifest.get("absent") or {}).values()}
    late = [facts for name, facts in manifest["targets"].items() if name not in set(values.dataset)]
    absent |= {_source(facts)["title"]: "not scored yet" for facts in late}
    values = values[values.metric != PUBLISHED_PRO]  # no table shows it next to PRO
    if setting is not None:
        values = _with_facts(values, path.parent, setting, manifest)
    return RecordedRun(path.parent, manifest, setting, values, absent)


def _with_facts(values: pd.DataFrame, folder: Path, setting: Setting, manifest: Mapping[str, Any]) -> pd.DataFrame:
    training = training_of(manifest)
    no_source: dict[str, Any] = {"title": "", "sha256": "", "lacks": "", "categories": 0}
    auxiliary = no_source if training is None else _source(training["auxiliary"])
    learned = [] if training is None else [auxiliary["title"]]
    learned += [RELEASED] if RELEASED in setting.decides else []
    learned += [few_shot(setting.shots)] if setting.shots else []
    # Without training a seed decides only which normal images a method is shown.
    seed = training["seed"] if training is not None else manifest["seed"] if setting.shots else NO_SEED
    facts = {"run": str(folder), "setting": setting.key, "seed": seed}
    facts |= {"trained_on": " and ".join(learned) or NOTHING}
    facts |= {f"auxiliary_{key}": value for key, value in auxiliary.items()}
    names = values.dataset.unique()
    targets = pd.DataFrame([_source(manifest["targets"][name]) for name in names], index=names).add_prefix("target_")
    joined = values.rename(columns={"dataset": "name"}).join(targets, on="name").assign(**facts)
    return joined.rename(columns={"target_title": "target", "auxiliary_title": "auxiliary"})


def _source(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a dataset as a run met it; ``lacks`` says how its size differs from the published split."""
    title = facts.get("title") or facts["name"]
    published = find_dataset(title)
    lacks = ""
    have = (len(facts["categories"]), facts["num_normal"], facts["num_anomalous"])
    if published is not None:
        title = published.title
        want = (published.num_categories, published.num_normal, published.num_anomalous)
        words = ("categories", "normal", "anomalous images")
        lacks = ", ".join(f"{a} of {b} {word}" for a, b, word in zip(have, want, words, strict=True) if a != b)
    return {"title": title, "sha256": facts["sha256"], "lacks": lacks, "categories": have[0]}


class Spread(NamedTuple):
    """A number over seeds, as a fraction.

    Attributes:
        deviation: Sample standard deviation; ``None`` for one seed, or where the seeds of what was averaged differ.
        num: How many seeds; 0 where they differ.
        is_partial: Whether it stands on something other than published test splits.
    """

    mean: float
    deviation: float | None
    num: int
    is_partial: bool


@dataclass(frozen=True)
class Series:
    """Runs that differ in seeds and data alone: a setting, or the cells of one row of an ablation.

    Attributes:
        name: No other series has it; the key of the setting, or its name in the experiment.
        settings: What decides the numbers, by auxiliary dataset; all the same for a setting of tables 1 and 2.
    """

    name: str
    label: str
    runs: Sequence[RecordedRun]
    settings: Mapping[str, Setting]
    absent: Mapping[str, str]

    @property
    def setting(self) -> Setting | None:
        """What decides its numbers, of its first training; ``None`` if nothing was measured."""
        return next(iter(self.settings.values()), None)

    @property
    def method(self) -> str:
        """As the paper calls it, or the name of the runs' module."""
        return "" if self.setting is None else self.setting.method

    @property
    def is_random(self) -> bool:
        """Whether its frozen weights were never trained."""
        return any(setting.is_random for setting in self.settings.values())


@dataclass(frozen=True)
class Measured:
    """Everything that series of runs measured.

    Attributes:
        values: The tidy table, one value per row, sorted by dataset and seed. ``series`` and ``series_label``;
            its ``method``, ``backbone`` and ``random_weights``; ``setting`` (the key of the run's), ``run`` (the
            folder) and ``name`` (of the dataset in it); ``seed``; ``target`` and ``auxiliary`` (titles of what was
            scored and trained on), each with the SHA-256 of its images and with what it lacks of the published split;
            ``trained_on`` (in words); ``row`` (the place of the category, `MEAN_ROW` for the mean) and ``category``;
            ``metric``, ``value``, ``num_normal``, ``num_anomalous``. ``dataset`` numbers what was measured, whatever
            the seed.
    """

    series: Sequence[Series]
    values: pd.DataFrame = field(repr=False)

    @cached_property
    def datasets(self) -> pd.DataFrame:
        """One row per measured dataset, with the facts of its lowest seed, ``seeds``, ``is_partial`` and ``label``."""
        first = self.values.drop_duplicates("dataset").set_index("dataset")
        first["seeds"] = pd.Series(
            {number: tuple(seeds.unique()) for number, seeds in self.values.groupby("dataset").seed}
        )
        first["is_partial"] = (first.target_lacks != "") | (first.auxiliary_lacks != "")
        first["label"], first["label_trained_on"] = first.target, first.trained_on
        # Names alone do not tell several parts of a dataset apart.
        alike = first[first.duplicated(["series", "target", "trained_on"], keep=False)]
        for number, d in alike.iterrows():
            first.loc[number, "label"] = f"{d.target} ({d.target_categories} categories, {d.target_sha256[:6]})"
            if d.auxiliary:
                first.loc[number, "label_trained_on"] = f"{d.trained_on} {d.auxiliary_sha256[:6]}"
        return first

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row per dataset, ``row`` (of the category) and metric: ``values`` by seed, ``mean`` and ``deviation``.

        NaN in any seed makes the mean NaN: it is undefined.
        """
        groups = self.values.groupby(["dataset", "row", "metric"], sort=False)
        cells = groups[["category", "num_normal", "num_anomalous"]].first()
        cells["values"] = pd.Series([list(values) for _, values in groups.value], cells.index, dtype=object)
        nums = [len(self.datasets.seeds[number]) for number in cells.index.get_level_values("dataset")]
        means, deviations = [], []
        for values, num in zip(cells["values"], nums, strict=True):
            is_defined = len(values) == num and not any(map(math.isnan, values))
            means.append(fmean(values) if is_defined else math.nan)
            deviations.append(stdev(values) if is_defined and num > 1 else math.nan)
        cells["mean"], cells["deviation"] = means, deviations
        return cells

    @cached_property
    def _means(self) -> dict[tuple[int, str], list[float]]:
        """The means over categories by seed, of each dataset and metric in which they are defined."""
        means = self.cells.xs(MEAN_ROW, level="row") if len(self.cells) else self.cells
        defined = means[means["mean"].notna()]
        return {(int(number), str(metric)): values for (number, metric), values in defined["values"].items()}

    @cached_property
    def _facts(self) -> dict[int, tuple[tuple[Any, ...], bool]]:
        """The seeds of each dataset, and whether it is something other than a published test split."""
        columns = self.datasets[["seeds", "is_partial"]].itertuples(name=None)
        return {int(number): (seeds, bool(is_partial)) for number, seeds, is_partial in columns}

    @cached_property
    def in_protocol(self) -> dict[tuple[str, str], int]:
        """The dataset that may stand next to the paper's number, by series and title.

        It was scored after the paper's training, or by a method that trains nothing. The published test split wins over
        a part of it.

        Raises:
            ComparisonError: If there are several, on different images.
        """
        chosen: dict[tuple[str, str], int] = {}
        published = {dataset.title: {dataset.auxiliary, NOTHING} for dataset in DATASETS}
        places = zip(self.datasets.target, self.datasets.trained_on, strict=True)
        fits = np.array([trained_on in published.get(target, ()) for target, trained_on in places], dtype=bool)
        for (series, title), fitting in self.datasets[fits].groupby(["series", "target"], sort=False):
            complete = fitting if fitting.is_partial.all() else fitting[~fitting.is_partial]
            if len(complete) > 1:
                label = next(one.label for one in self.series if one.name == series)
                msg = (
                    f"All seeds of {label} must train on the same images and score the same images of {title}, but "
                    f"{shown(complete.run.iloc[0])} differs from {shown(complete.run.iloc[1])}. Report them separately."
                )
                raise ComparisonError(msg)
            chosen[str(series), str(title)] = int(complete.index[0])
        return chosen

    def only(self, series: Series) -> "Measured":
        """Return what one of the series measured."""
        return Measured([series], self.values[self.values.series == series.name])

    def spread(self, datasets: Sequence[int], metric: str) -> Spread | None:
        """Average the mean over categories of a metric over datasets, each counting once.

        Returns:
            With a deviation if all datasets have the same seeds; ``None`` if a value is undefined.
        """
        found = [self._means.get((number, metric)) for number in datasets]
        by_dataset = [values for values in found if values is not None]
        if not by_dataset or len(by_dataset) < len(found):
            return None
        facts = [self._facts[number] for number in datasets]
        is_partial = any(is_partial for _, is_partial in facts)
        if len({seeds for seeds, _ in facts}) > 1:
            return Spread(fmean(map(fmean, by_dataset)), None, 0, is_partial)
        by_seed = [fmean(values) for values in zip(*by_dataset, strict=True)]
        return Spread(fmean(by_seed), stdev(by_seed) if len(by_seed) > 1 else None, len(by_seed), is_partial)


def combine(series: Sequence[Series]) -> Measured:
    """Combine the values of runs.

    Raises:
        ComparisonError: If two runs measured the same and got different numbers.
    """
    parts = []
    for one in series:
        if one.setting is not None:
            facts: dict[str, Any] = {"series": one.name, "series_label": one.label, "method": one.method}
            facts |= {"backbone": one.setting.backbone["name"], "random_weights": int(one.is_random)}
            parts += [run.values.assign(**facts) for run in one.runs if len(run.values)]
    if not parts:
        return Measured(series, pd.DataFrame(columns=["dataset", *VALUES]))
    table = pd.concat(parts, ignore_index=True)[VALUES]
    table["dataset"] = table.groupby(DATASET, sort=False).ngroup()
    table["place"] = table.run + "/" + table.name  # a run may score a dataset under two names
    is_first = table.place == table.groupby(["dataset", "seed"]).place.transform("first")
    for _, same in table[table.groupby(["dataset", "seed"]).place.transform("nunique") > 1].groupby(
        ["dataset", "seed"]
    ):
        _refuse_contradiction(same)
    table = table[is_first].sort_values(["dataset", "seed"], kind="stable", ignore_index=True)
    return Measured(series, table.drop(columns="place"))


def _refuse_contradiction(same: pd.DataFrame) -> None:
    first, *others = [
        part.sort_values(["row", "metric"]).reset_index(drop=True) for _, part in same.groupby("place", sort=False)
    ]
    compared = ["row", "category", "metric", "value", "num_normal", "num_anomalous"]
    for other in others:
        if not first[compared].equals(other[compared]):
            one = first.iloc[0]
            of = f"{one.auxiliary} and seed {one.seed}" if one.auxiliary else "a method that trains nothing"
            msg = (
                f"{one.target} has different results for {of} in {shown(Path(one.run) / RESULTS)} and "
                f"{shown(Path(other.run[0]) / RESULTS)}. Leave one of them out."
            )
            raise ComparisonError(msg)


def absent_from(runs: Iterable[RecordedRun]) -> dict[str, str]:
    """Return why targets have no numbers, by their titles."""
    return {title: reason for run in runs for title, reason in run.absent.items()}
