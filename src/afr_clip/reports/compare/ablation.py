"""An ablation: the cells of an experiment, what each setting measured, and its difference to the reference."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from afr_clip.files import shown
from afr_clip.reports.compare.paired import Paired, paired_difference
from afr_clip.reports.compare.paper import ABLATED, DATASETS, TableSpec, in_order, paper_ablation, spec_of
from afr_clip.reports.compare.phrases import describe_setting
from afr_clip.reports.compare.settings import Setting, differing_keys, name_keys
from afr_clip.reports.compare.sweeps import DONE, Experiment, SweepCell
from afr_clip.reports.compare.tables import ABSENT, DELTA, Record, as_dicts, cell_of, number_record, records_frame
from afr_clip.reports.compare.values import (
    NO_SEED,
    ComparisonError,
    Measured,
    RecordedRun,
    Series,
    absent_from,
    combine,
    read_runs,
)
from afr_clip.reports.layout import grid
from afr_clip.reports.layout.grid import COLUMNS, Grid, Heading, difference_cell, text_headings
from afr_clip.reports.record.provenance import training_of
from afr_clip.reports.record.results import RESULTS

NOT_RUN, REFERENCE = "not run", "reference"

Block = tuple[str, str]
"""What was scored, and what was trained on before."""

ReadRuns = Callable[[Path], Sequence[RecordedRun]]
"""Reads all results in a run folder."""


def read_folder(folder: Path) -> Sequence[RecordedRun]:
    """Read all results in a folder, which may contain none."""
    return read_runs([folder]) if folder.is_dir() and any(folder.rglob(RESULTS)) else []


def measure(experiment: Experiment, read: ReadRuns = read_folder) -> "AblationTable":
    """Combine the cells of an experiment: one series per setting, including the paper's settings that were not run.

    Raises:
        ComparisonError: If the cells of a setting differ in more than their seed, or did not run with theirs.
    """
    spec = spec_of(experiment.name, experiment.reference)
    by_setting: dict[str, list[SweepCell]] = {}
    for cell in sorted(experiment.cells, key=lambda cell: cell.seed):
        by_setting.setdefault(cell.setting, []).append(cell)
    missing: dict[SweepCell, str] = {}
    commits: dict[SweepCell, str] = {}
    series = []
    for name in in_order([*by_setting, *spec.settings], experiment.reference):
        runs: list[RecordedRun] = []
        for cell in by_setting.get(name, ()):
            try:
                found = read(cell.folder) if cell.state == DONE else []
            except ComparisonError as error:  # the other cells are still compared
                missing[cell] = str(error)
                continue
            runs += found
            for run in found:
                _check_seed(cell, run)
                commits[cell] = run.commit
            if not any(len(run.values) for run in found):
                missing[cell] = _reason(cell, found)
        _check_agreement(name, runs)
        settings = {run.trained_on: run.setting for run in runs if run.setting is not None}
        series.append(Series(name, describe_setting(name), runs, settings, absent_from(runs)))
    measured = combine(_labelled(series))
    several = measured.datasets[measured.datasets.duplicated(["series", "target", "trained_on"], keep=False)]
    for (name, target, _), same in several.groupby(["series", "target", "trained_on"], sort=False):
        msg = (
            f"All cells of {name} must train on the same images and score the same images of {target}, but "
            f"{shown(same.run.iloc[1])} differs from {shown(same.run.iloc[0])}. Run them into a new folder."
        )
        raise ComparisonError(msg)
    return AblationTable(spec, experiment, measured, missing, commits)


def _labelled(series: Sequence[Series]) -> list[Series]:
    """Call each setting by the ``label`` of its runs, or else in words, as far as no other one is called the same."""
    given = [one.setting.given or one.label if one.setting is not None else one.label for one in series]
    said = [one.label if given.count(label) > 1 else label for one, label in zip(series, given, strict=True)]
    return [
        replace(one, label=one.name if said.count(label) > 1 else label)
        for one, label in zip(series, said, strict=True)
    ]


def _reason(cell: SweepCell, found: Sequence[RecordedRun]) -> str:
    if cell.state != DONE:
        return f"{cell.state}: {cell.error}" if cell.error else cell.state
    if not found:
        return f"done, but {shown(cell.folder)} holds no {RESULTS}"
    reasons = absent_from(found)
    return "; ".join(f"{title}: {reason}" for title, reason in reasons.items()) or "done, but nothing was scored"


def _check_seed(cell: SweepCell, run: RecordedRun) -> None:
    training = training_of(run.manifest)
    if training is not None and training["seed"] != cell.seed:
        msg = (
            f"The cell of {cell.setting} with seed {cell.seed} was run with another seed, "
            f"{training['seed']} in {shown(run.folder / RESULTS)}. Run the sweep into a new folder."
        )
        raise ComparisonError(msg)


def _check_agreement(name: str, runs: Iterable[RecordedRun]) -> None:
    first: dict[str, tuple[RecordedRun, Setting]] = {}
    for run in runs:
        if run.setting is None:
            continue
        before, setting = first.setdefault(run.trained_on, (run, run.setting))
        keys = differing_keys([setting.decides, run.setting.decides])
        if keys:
            msg = (
                f"The cells of {name} must agree in everything but the seed, but {', '.join(keys)} differs between "
                f"{shown(run.folder)} and {shown(before.folder)}. Run them into a new folder with the same overrides."
            )
            raise ComparisonError(msg)


@dataclass(frozen=True)
class AblationTable:
    """One of tables 3 to 6, the readings, or an experiment of one's own.

    Attributes:
        measured: One series per setting; none where the paper's numbers stand alone.
        commits: The code that ran each cell.
    """

    spec: TableSpec
    experiment: Experiment
    measured: Measured
    missing: Mapping[SweepCell, str]
    commits: Mapping[SweepCell, str]

    block = "Scored"
    renamed: ClassVar[Mapping[str, str]] = {}
    header = (
        *("experiment", "setting", "label", "dataset", "trained_on", "metric"),
        *("paper", "is_comparable", "measured", "deviation", "num_seeds", "reference"),
        *("difference", "low", "high", "resampled"),
        *("num_paired_seeds", "num_paired_categories", "num_pairs_left_out"),
        *("difference_to_paper", "state", "backbone", "random_weights", "differs_in"),
    )

    def cells(self, setting: str) -> list[SweepCell]:
        """Return the cells of a setting in the order of their seeds."""
        return sorted((cell for cell in self.experiment.cells if cell.setting == setting), key=lambda cell: cell.seed)

    @cached_property
    def reference(self) -> Series | None:
        """The series that the others are compared with."""
        return next((one for one in self.measured.series if one.name == self.experiment.reference), None)

    @cached_property
    def datasets(self) -> dict[tuple[str, Block], int]:
        """Number of the measured dataset, by setting and block."""
        places = self.measured.datasets[["series", "target", "trained_on"]].itertuples(name=None)
        return {(series, (target, trained_on)): int(number) for number, series, target, trained_on in places}

    @cached_property
    def blocks(self) -> list[Block]:
        """What was scored and trained on, the paper's first; without measurements the paper's alone."""
        titles = [dataset.title for dataset in DATASETS]
        return sorted(
            {block for _, block in self.datasets} or {ABLATED},
            key=lambda b: (b != ABLATED, titles.index(b[0]) if b[0] in titles else len(titles), b),
        )

    def is_comparable(self, series: Series, block: Block) -> bool:
        """Whether the paper measured the same: its target, its auxiliary dataset, and weights that were trained."""
        return block == ABLATED and not series.is_random

    @cached_property
    def paired(self) -> dict[tuple[str, Block, str], Paired]:
        """The differences to the reference, by setting, block and metric, if there are complete pairs."""
        found = {}
        for (setting, block), number in self.datasets.items():
            reference = self.datasets.get((self.experiment.reference, block))
            if reference is None or number == reference:
                continue
            wanted = {cell.seed for cell in (*self.cells(setting), *self.cells(self.experiment.reference))}
            wanted = {NO_SEED} if self.measured.datasets.seed[number] == NO_SEED else wanted
            for metric in COLUMNS:
                paired = paired_difference(self.measured, number, reference, metric, wanted)
                if paired is not None:
                    found[setting, block, metric] = paired
        return found

    def differing(self, series: Series) -> dict[str, tuple[Any, Any]]:
        """Return the config keys in which a series differs from the reference, with its value and the reference's."""
        if self.reference is None:
            return {}
        found: dict[str, tuple[Any, Any]] = {}
        for auxiliary in [name for name in series.settings if name in self.reference.settings]:
            own, other = series.settings[auxiliary].decides, self.reference.settings[auxiliary].decides
            found |= {key: (own.get(key), other.get(key)) for key in differing_keys([own, other])}
        return found

    def differs_in(self, series: Series, most: int = 6) -> str:
        """Write in which config keys a series differs from the reference, as its runs recorded them."""
        if series.setting is None or series is self.reference:
            return ""
        if self.reference is None or self.reference.setting is None:
            return "unknown, no reference"
        differing = self.differing(series)
        return name_keys({key: own for key, (own, _) in differing.items()}, list(differing), most) or "nothing"

    @cached_property
    def records(self) -> pd.DataFrame:
        """Every number, block by block and setting by setting; without measurements the paper's alone."""
        known: dict[str, Any] = {"experiment": self.spec.name}
        if not self.measured.series:
            known |= dict(zip(("dataset", "trained_on"), ABLATED, strict=True))
            papers = [
                known
                | {"setting": s, "label": describe_setting(s), "metric": metric, "paper": paper_ablation(s, metric)}
                for s, metric in product(self.spec.settings, self.spec.metrics)
            ]
            return records_frame(papers, self.header)
        records = []
        for block, one in product(self.blocks, self.measured.series):
            of = known | {"setting": one.name, "label": one.label, "dataset": block[0], "trained_on": block[1]}
            of |= {"is_comparable": int(self.is_comparable(one, block)), "reference": self.experiment.reference}
            of |= {"differs_in": self.differs_in(one, most=1000)}
            if one.setting is not None:
                of |= {"backbone": one.setting.backbone["name"], "random_weights": int(one.is_random)}
            datasets = [number for place, number in self.datasets.items() if place == (one.name, block)]
            states = {cell.state for cell in self.cells(one.name)} or {NOT_RUN}
            state = ABSENT if len(states) > 1 or DONE in states else states.pop()
            for metric in COLUMNS:
                spread = self.measured.spread(datasets, metric)
                otherwise = "undefined" if datasets else state
                paper = paper_ablation(one.name, metric)
                number = number_record(spread, paper, otherwise, is_comparable=self.is_comparable(one, block))
                paired = _paired_record(self.paired.get((one.name, block, metric)))
                records.append({**of, "metric": metric, **number, **paired})
        return records_frame(records, self.header)

    def heading(self, block: Block) -> str:
        """Name a block, with the method and its backbone where something was measured."""
        labels = dict.fromkeys(
            one.setting.short_label
            for one in self.measured.series
            if (one.name, block) in self.datasets and one.setting is not None
        )
        return f"{block[0]}, trained on {block[1]}" + (f": {'; '.join(labels)}" if labels else "")

    def grids(self, *, with_keys: bool = True) -> list[Grid]:
        """Lay the table out, with one grid per block.

        Args:
            with_keys: Whether the keys in which a setting differs have a column; print has no room for them.
        """
        shown = self.records[self.records.metric.isin(list(self.spec.metrics))]
        if not self.measured.series:
            columns = [Heading(label, "The paper's number", "Paper") for label in self.spec.metrics.values()]
            rows = [
                [grid.TableCell(str(label)), *(_paper_cell(paper, is_comparable=True) for paper in of_setting.paper)]
                for label, of_setting in shown.groupby("label", sort=False)
            ]
            return [Grid(self.heading(ABLATED), [*text_headings("Setting"), *columns], rows)]
        has_paper, has_comparable = bool(shown.paper.notna().any()), bool(shown.difference_to_paper.notna().any())
        keys = [Heading("Differs in", "Config keys, from the reference", is_text=True)] if with_keys else []
        headings = [*text_headings("Setting")]
        for group in self.spec.metrics.values():
            meaning = "The paper's number; in brackets where it does not stand for the same"
            headings += [Heading("paper", meaning, group)] if has_paper else []
            headings.append(Heading("measured", "Mean and standard deviation where there are several seeds", group))
            meaning = "Minus the reference, paired by seed and category, with its 95 % interval"
            headings.append(Heading(f"{DELTA} {REFERENCE}", meaning, group))
            headings += [Heading(f"{DELTA} paper", "Measured minus paper, in points", group)] if has_comparable else []
        grids = []
        for block in self.blocks:
            of_block = shown[(shown.dataset == block[0]) & (shown.trained_on == block[1])]
            rows = []
            for one in self.measured.series:
                row = [grid.TableCell(one.label)]
                for record in as_dicts(of_block[of_block.setting == one.name]):
                    row += self._number_cells(record, has_paper=has_paper, has_comparable=has_comparable)
                rows.append([*row, grid.TableCell(self.differs_in(one))] if with_keys else row)
            grids.append(Grid(self.heading(block), [*headings, *keys], rows))
        return grids

    def print_grids(self) -> list[Grid]:
        """Lay the table out for print."""
        return self.grids(with_keys=False)

    def _number_cells(self, record: Record, *, has_paper: bool, has_comparable: bool) -> Iterator[grid.TableCell]:
        is_partial = record["state"] == "partly"
        if has_paper:
            yield _paper_cell(record["paper"], is_comparable=bool(record["is_comparable"]))
        yield cell_of(record)
        if record["setting"] == self.experiment.reference:
            yield grid.TableCell(REFERENCE)
        else:
            yield difference_cell(record["difference"], (record["low"], record["high"]), is_partial=is_partial)
        if has_comparable:
            yield difference_cell(record["difference_to_paper"], is_partial=is_partial)


def _paired_record(paired: Paired | None) -> dict[str, Any]:
    if paired is None:
        return {}
    interval = paired.interval
    return {
        "difference": 100 * paired.mean,
        "low": None if interval is None else 100 * interval.low,
        "high": None if interval is None else 100 * interval.high,
        "resampled": "" if interval is None else " and ".join(interval.over),
        "num_paired_seeds": len(paired.seeds),
        "num_paired_categories": len(paired.categories),
        "num_pairs_left_out": paired.num_left_out,
    }


def _paper_cell(value: float | None, *, is_comparable: bool) -> grid.TableCell:
    if value is None:
        return grid.TableCell("")
    return grid.TableCell(f"{value:.1f}" if is_comparable else f"({value:.1f})", value)
