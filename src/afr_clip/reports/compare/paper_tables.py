"""Tables 1 and 2: the rows and columns of the paper, its numbers, and beside them what was measured."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from afr_clip.reports.compare.aggregate import PARTLY, MeasuredDataset, MeasuredSetting, Spread
from afr_clip.reports.compare.paper import (
    LEVELS,
    TABLE_METRICS,
    PaperDataset,
    best_value,
    datasets_of,
    paper_mean,
)
from afr_clip.reports.layout.grid import UNDEFINED, Cell, Grid, Heading
from afr_clip.reports.record.provenance import METHODS

ABSENT = "absent"

CSV_HEADER = (
    "domain",
    "dataset",
    "trained_on",
    "method",
    "setting",
    "metric",
    "paper",
    "measured",
    "deviation",
    "num_seeds",
    "difference",
    "state",
)


@dataclass(frozen=True)
class PaperRow:
    """One row of a table: a dataset, or the mean over some.

    Attributes:
        domain: The block it stands in.
        label: Its name.
        trained_on: The auxiliary dataset; empty for a mean.
        datasets: Those of the paper it stands for; none where the paper has no such row.
        other: Identifies what was measured outside the paper's protocol; ``None`` within.
    """

    domain: str
    label: str
    trained_on: str
    datasets: tuple[PaperDataset, ...] = ()
    other: tuple[str, str] | None = None

    @property
    def is_mean(self) -> bool:
        """Whether it averages."""
        return not self.trained_on

    @property
    def titles(self) -> list[str]:
        """The titles of its datasets."""
        return [dataset.title for dataset in self.datasets]


@dataclass(frozen=True)
class PaperTable:
    """Table 1 or 2.

    Attributes:
        number: 1 for the image level, 2 for the pixel level.
        settings: What was measured.
    """

    number: int
    settings: Sequence[MeasuredSetting]

    @property
    def title(self) -> str:
        """What it shows."""
        return f"Table {self.number}: {LEVELS[self.number]} level"

    @property
    def caption(self) -> str:
        """What it shows, where something else numbers it."""
        return f"Zero-shot results at {LEVELS[self.number]} level in percent, as the paper gives them and as measured."

    @property
    def metrics(self) -> dict[str, str]:
        """Metrics with their level, and their headings."""
        return {f"{LEVELS[self.number]}_{metric}": label for metric, label in TABLE_METRICS.items()}

    def domains(self) -> dict[str, list[PaperDataset]]:
        """Return the blocks of the table with their datasets."""
        blocks: dict[str, list[PaperDataset]] = {}
        for dataset in datasets_of(self.number):
            blocks.setdefault(dataset.domain, []).append(dataset)
        return blocks

    def rows(self, domain: str) -> list[PaperRow]:
        """Return the rows of a block.

        Args:
            domain: Which block.

        Returns:
            Each dataset, after it what was measured of it in another way than the paper's, then the means.
        """
        datasets, rows = self.domains()[domain], []
        for dataset in datasets:
            rows.append(PaperRow(domain, dataset.title, dataset.auxiliary, (dataset,)))
            others = {other: None for setting in self.settings for other, _ in _others(setting, dataset)}
            rows += [PaperRow(domain, label, trained_on, (), (label, trained_on)) for label, trained_on in others]
        chosen = self._measured_together(datasets)
        is_named = len(chosen) > 2  # where several means are over some datasets only, which ones must be said
        return [*rows, *(_mean_row(domain, some, len(datasets), is_named=is_named) for some in chosen)]

    def _measured_together(self, datasets: Sequence[PaperDataset]) -> list[tuple[PaperDataset, ...]]:
        chosen = {tuple(datasets): None}
        for setting in self.settings:
            for metric in self.metrics:
                there = tuple(d for d in datasets if setting.mean_over([d], metric) is not None)
                chosen |= {there: None} if there else {}
        return list(chosen)

    def paper(self, row: PaperRow, method: str, metric: str) -> float | None:
        """Return the paper's number in percent."""
        return paper_mean(self.number, method, row.titles, metric)

    def measured(self, row: PaperRow, setting: MeasuredSetting, metric: str) -> tuple[Spread | None, str]:
        """Return what was measured.

        Args:
            row: Which row.
            setting: Which setting.
            metric: With its level.

        Returns:
            The number, and what to say: ``"measured"``, ``"partly"`` where it stands on something else than published
            test splits, ``"undefined"``, ``"absent"`` where the dataset has no number at all, or nothing where the row
            is not about the setting or the dataset was measured in another way.
        """
        if row.other is not None:
            found = [dataset for other, dataset in _others(setting, None) if other == row.other]
            spread, otherwise = (found[0].spread(metric), "undefined") if found else (None, "")
        elif row.is_mean:
            spread, otherwise = setting.mean_over(row.datasets, metric), ""
        else:
            dataset = setting.in_protocol(row.datasets[0])
            spread = None if dataset is None else dataset.spread(metric)
            otherwise = "undefined"
            if dataset is None:  # measured in another way, it has a row of its own
                otherwise = "" if any(_others(setting, row.datasets[0])) else ABSENT
        if spread is None:
            return None, otherwise
        return spread, "partly" if spread.is_partial else "measured"

    def difference(self, row: PaperRow, setting: MeasuredSetting, metric: str) -> float | None:
        """Return measured minus paper in percentage points; ``None`` for random weights, or where a number lacks."""
        spread, _ = self.measured(row, setting, metric)
        paper = self.paper(row, setting.setting.method, metric)
        if spread is None or paper is None or setting.setting.is_random:
            return None
        return 100 * spread.mean - paper

    def grids(self, *, only_measured: bool = False) -> list[Grid]:
        """Lay the table out.

        Args:
            only_measured: Leave out the methods of which nothing was measured, if anything was.

        Returns:
            One grid per block, all with the same columns; the means are in the foot.
        """
        measured = {setting.setting.method for setting in self.settings}
        methods = [m for m in METHODS.values() if not only_measured or not measured or m in measured]
        headings = [Heading("Dataset", is_text=True), Heading("Trained on", "The auxiliary dataset", is_text=True)]
        for method in methods:
            headings += [Heading(label, "The paper's number", f"{method}, paper") for label in self.metrics.values()]
            for setting in self._of(method):
                headings += self._headings(setting, has_paper=True)
        for setting in self._of(None):
            headings += self._headings(setting, has_paper=False)
        grids = []
        for domain in self.domains():
            rows = self.rows(domain)
            body = [self._cells(row, methods) for row in rows if not row.is_mean]
            foot = [self._cells(row, methods) for row in rows if row.is_mean]
            grids.append(Grid(domain.capitalize(), headings, body, foot))
        return grids

    def _of(self, method: str | None) -> list[MeasuredSetting]:
        known = set(METHODS.values())
        return [
            s for s in self.settings if s.setting.method == method or (method is None and s.setting.method not in known)
        ]

    def _headings(self, setting: MeasuredSetting, *, has_paper: bool) -> Iterator[Heading]:
        group = f"{setting.label}, measured"
        for label in self.metrics.values():
            yield Heading(label, "Measured; mean and standard deviation where there are several seeds", group)
            if has_paper and not setting.setting.is_random:
                yield Heading(f"{label} \N{GREEK CAPITAL LETTER DELTA}", "Measured minus paper, in points", group)

    def _cells(self, row: PaperRow, methods: Iterable[str]) -> list[Cell]:
        cells = [Cell(row.label), Cell(row.trained_on)]
        for method in methods:
            cells += [self.paper_cell(row, method, metric) for metric in self.metrics]
            for setting in self._of(method):
                cells += self._measured_cells(row, setting, has_paper=True)
        for setting in self._of(None):
            cells += self._measured_cells(row, setting, has_paper=False)
        return cells

    def _measured_cells(self, row: PaperRow, setting: MeasuredSetting, *, has_paper: bool) -> Iterator[Cell]:
        for metric in self.metrics:
            yield self.measured_cell(row, setting, metric)
            if has_paper and not setting.setting.is_random:
                yield self.difference_cell(row, setting, metric)

    def paper_cell(self, row: PaperRow, method: str, metric: str) -> Cell:
        """Show the paper's number, the best of its methods in bold; nothing where it is not known."""
        value = self.paper(row, method, metric)
        if value is None:
            return Cell("")
        return Cell(f"{value:.1f}", value, is_strong=value == best_value(self.number, row.titles, metric))

    def measured_cell(self, row: PaperRow, setting: MeasuredSetting, metric: str) -> Cell:
        """Show what was measured, or why nothing was."""
        spread, state = self.measured(row, setting, metric)
        return marked(show(spread, UNDEFINED if state == "undefined" else state), spread)

    def difference_cell(self, row: PaperRow, setting: MeasuredSetting, metric: str) -> Cell:
        """Show measured minus paper with its sign."""
        difference = self.difference(row, setting, metric)
        if difference is None:
            return Cell("")
        cell = Cell(signed(difference), difference)
        return marked(cell, self.measured(row, setting, metric)[0])

    def records(self) -> Iterator[tuple[object, ...]]:
        """Return the table with all digits, one number a row, as `CSV_HEADER` names them."""
        for row in (row for domain in self.domains() for row in self.rows(domain)):
            for method in METHODS.values() if row.other is None else ():
                if not self._of(method):
                    for metric in self.metrics:
                        yield self._record(row, method, None, metric)
            for setting in self.settings:
                for metric in self.metrics:
                    yield self._record(row, setting.setting.method, setting, metric)

    def _record(self, row: PaperRow, method: str, setting: MeasuredSetting | None, metric: str) -> tuple[object, ...]:
        known = (row.domain, row.label, row.trained_on, method)
        paper = self.paper(row, method, metric)
        if setting is None:
            return (*known, "", metric, paper, None, None, None, None, "")
        spread, state = self.measured(row, setting, metric)
        measured = (None, None, None) if spread is None else (
            100 * spread.mean, None if spread.deviation is None else 100 * spread.deviation, spread.num,
        )  # fmt: skip
        return (*known, setting.label, metric, paper, *measured, self.difference(row, setting, metric), state)


def show(spread: Spread | None, otherwise: str = UNDEFINED) -> Cell:
    """Show a measured number in percent with one decimal, with its deviation and the number of seeds behind it."""
    if spread is None:
        return Cell(otherwise)
    text = f"{100 * spread.mean:.1f}"
    text += "" if spread.deviation is None else f" \N{PLUS-MINUS SIGN} {100 * spread.deviation:.1f} ({spread.num})"
    return Cell(text, 100 * spread.mean)


def signed(points: float) -> str:
    """Show a difference with its sign and one decimal."""
    return f"{round(points, 1) + 0:+.1f}"  # adding 0 turns the -0.0 of a rounded difference into 0.0


def marked(cell: Cell, spread: Spread | None) -> Cell:
    """Mark a number that does not stand on published test splits."""
    is_partial = cell.value is not None and spread is not None and spread.is_partial
    return replace(cell, shown=cell.shown + PARTLY) if is_partial else cell


def _others(
    setting: MeasuredSetting, published: PaperDataset | None
) -> Iterator[tuple[tuple[str, str], MeasuredDataset]]:
    """Name what a setting measured of the paper's datasets in another way; ``None`` for all of them."""
    for dataset in setting.datasets:
        of = dataset.target.published
        if of is None or (published is not None and of != published) or setting.in_protocol(of) is dataset:
            continue
        yield label_of(setting, dataset), dataset


def label_of(setting: MeasuredSetting, dataset: MeasuredDataset) -> tuple[str, str]:
    """Name a measured dataset and what was trained on, with digits of their images where names alone are not clear."""
    alike = [
        d for d in setting.datasets if (d.target.title, d.trained_on) == (dataset.target.title, dataset.trained_on)
    ]
    if len(alike) == 1:
        return dataset.target.title, dataset.trained_on
    trained = (
        dataset.trained_on if dataset.auxiliary is None else f"{dataset.trained_on} {dataset.auxiliary.sha256[:6]}"
    )
    return f"{dataset.target.title} ({len(dataset.target.categories)} categories, {dataset.target.sha256[:6]})", trained


def _mean_row(domain: str, chosen: tuple[PaperDataset, ...], num: int, *, is_named: bool) -> PaperRow:
    if len(chosen) == num:
        return PaperRow(domain, f"Mean of all {num} {domain} datasets", "", chosen)
    names = f" ({', '.join(dataset.title for dataset in chosen)})" if is_named else ""
    return PaperRow(domain, f"Mean of {len(chosen)} of {num} {domain} datasets{names}", "", chosen)
