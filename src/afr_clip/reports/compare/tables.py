"""The tables: from everything measured to records with all digits, and from these to grids.

The records of a table are its CSV: one number per row, with the paper's next to it. All that is shown comes from them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, product
from typing import Any, ClassVar

import pandas as pd

from afr_clip.files import shown
from afr_clip.reports.compare.paper import TableSpec, datasets_of, find_dataset, paper_mean
from afr_clip.reports.compare.settings import Setting, label_settings
from afr_clip.reports.compare.values import (
    NO_SEED,
    NOTHING,
    Measured,
    RecordedRun,
    Series,
    Spread,
    absent_from,
    combine,
)
from afr_clip.reports.layout.grid import (
    COLUMNS,
    METRIC_HEADINGS,
    SATURATED_COLUMNS,
    UNDEFINED,
    Grid,
    Heading,
    TableCell,
    category_cells,
    category_grid,
    difference_cell,
    measured_cell,
    text_headings,
)
from afr_clip.reports.record.provenance import METHODS
from afr_clip.reports.record.results import MEAN_ROW

ABSENT = "absent"
DELTA = "\N{GREEK CAPITAL LETTER DELTA}"
AS_MEASURED = "Measured; mean and standard deviation where there are several seeds"

Record = Mapping[str, Any]


def aggregate(runs: Sequence[RecordedRun]) -> Measured:
    """Group runs by setting, in the order in which the settings first appear, and `combine` them."""
    by_key: dict[str, list[RecordedRun]] = {}
    for run in runs:
        if run.setting is not None and len(run.values):
            by_key.setdefault(run.setting.key, []).append(run)
    settings: dict[str, Setting] = {}
    for key, group in by_key.items():
        own = [run.setting for run in group if run.setting is not None]
        given = " / ".join(dict.fromkeys(one.given for one in own if one.given))
        settings[key] = replace(own[0], given=given, choices=next((one.choices for one in own if one.choices), {}))
    labels = label_settings(list(settings.values()))
    # A run without any number still tells what was absent, of whatever setting it would have been.
    nothing = [run for run in runs if not len(run.values)]
    return combine(
        [
            Series(key, labels[key], group, {"": settings[key]}, absent_from([*nothing, *group]))
            for key, group in by_key.items()
        ]
    )


def number_record(
    spread: Spread | None, paper: float | None, otherwise: str = "", *, is_comparable: bool = False
) -> dict[str, Any]:
    """Put one measured number next to the paper's, in percent; ``None`` if there is none.

    Args:
        otherwise: The state if nothing was measured.
        is_comparable: Whether the paper's number stands for the same.
    """
    if spread is None:
        none = dict.fromkeys(("measured", "deviation", "num_seeds", "difference_to_paper"))
        return {"paper": paper, **none, "state": otherwise}
    percent = 100 * spread.mean
    return {
        "paper": paper,
        "measured": percent,
        "deviation": None if spread.deviation is None else 100 * spread.deviation,
        "num_seeds": spread.num,
        "difference_to_paper": percent - paper if paper is not None and is_comparable else None,
        "state": "partly" if spread.is_partial else "measured",
    }


def records_frame(records: Sequence[Record], columns: Sequence[str]) -> pd.DataFrame:
    """Make a table of records, with ``None`` where one has no value."""
    frame = pd.DataFrame(list(records), columns=list(columns), dtype=object)
    return frame.where(frame.notna(), None)


def as_dicts(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Return records as plain values by column."""
    return [{str(name): value for name, value in record.items()} for record in records.to_dict("records")]


def cell_of(record: Record) -> TableCell:
    """Show a measured number, or why there is none."""
    state = record["state"]
    return measured_cell(
        record["measured"],
        record["deviation"],
        record["num_seeds"],
        UNDEFINED if state == "undefined" else state,
        is_partial=state == "partly",
    )


@dataclass(frozen=True)
class Line:
    """A line of table 1 or 2: a dataset, or the mean over some.

    Attributes:
        trained_on: The auxiliary dataset; empty for a mean.
        titles: The paper's datasets it stands for; none where the paper has no such line.
        members: Numbers of the measured datasets, by series.
    """

    domain: str
    dataset: str
    trained_on: str
    titles: Sequence[str]
    members: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class ResultsTable:
    """Table 1 or 2: datasets by methods."""

    spec: TableSpec
    measured: Measured

    block = "Domain"
    header = (
        *("domain", "dataset", "trained_on", "method", "setting", "metric"),
        *("paper", "measured", "deviation", "num_seeds", "difference_to_paper", "state"),
    )
    renamed: ClassVar[Mapping[str, str]] = {"difference_to_paper": "difference"}

    @cached_property
    def lines(self) -> list[Line]:
        """Each dataset, after it what was measured of it in another way than the paper's, then the means."""
        lines: list[Line] = []
        chosen = self.measured.in_protocol
        for domain, of_domain in groupby(datasets_of(self.spec.number), lambda dataset: dataset.domain):
            titles = []
            for dataset in of_domain:
                titles.append(dataset.title)
                members = {series: [number] for (series, title), number in chosen.items() if title == dataset.title}
                lines.append(Line(domain, dataset.title, dataset.auxiliary, titles[-1:], members))
                elsewhere = self._elsewhere[self._elsewhere.target == dataset.title]
                for (label, trained_on), same in elsewhere.groupby(["label", "label_trained_on"], sort=False):
                    first = same.drop_duplicates("series").series
                    members = {str(series): [int(str(number))] for number, series in first.items()}
                    lines.append(Line(domain, str(label), str(trained_on), [], members))
            lines += self._means(domain, titles)
        return lines

    @cached_property
    def _elsewhere(self) -> pd.DataFrame:
        datasets = self.measured.datasets
        return datasets[~datasets.index.isin(self.measured.in_protocol.values())]

    def _means(self, domain: str, titles: Sequence[str]) -> Iterator[Line]:
        """Average over the whole domain, and over every set of datasets of which a series has a metric."""
        chosen, together = self.measured.in_protocol, {tuple(titles): None}
        for series, metric in product(self.measured.series, self.spec.metrics):
            there = [(title, chosen[series.name, title]) for title in titles if (series.name, title) in chosen]
            defined = tuple(title for title, number in there if self.measured.spread([number], metric) is not None)
            together |= {defined: None} if defined else {}
        for some in together:
            label = f"Mean of all {len(titles)} {domain} datasets"
            if len(some) < len(titles):  # named where there are several such means
                names = f" ({', '.join(some)})" if len(together) > 2 else ""
                label = f"Mean of {len(some)} of {len(titles)} {domain} datasets{names}"
            found = {s.name: [chosen[s.name, t] for t in some if (s.name, t) in chosen] for s in self.measured.series}
            yield Line(domain, label, "", some, {name: d for name, d in found.items() if len(d) == len(some)})

    @cached_property
    def records(self) -> pd.DataFrame:
        """Every number: line by line, first the methods of which nothing was measured, then the series."""
        known = {series.method for series in self.measured.series}
        records = []
        for i, line in enumerate(self.lines):
            place = {"line": i, "domain": line.domain, "dataset": line.dataset, "trained_on": line.trained_on}
            for method, metric in product(METHODS.values() if line.titles else (), self.spec.metrics):
                if method not in known:
                    of = {"series": "", "method": method, "setting": "", "metric": metric}
                    paper = self._paper(line, method, metric)
                    records.append({**place, **of, **number_record(None, paper)})
            for series, metric in product(self.measured.series, self.spec.metrics):
                of = {"series": series.name, "method": series.method, "setting": series.label, "metric": metric}
                paper = self._paper(line, series.method, metric)
                spread = self.measured.spread(line.members.get(series.name, ()), metric)
                number = number_record(spread, paper, self._otherwise(line, series), is_comparable=not series.is_random)
                records.append({**place, **of, **number})
        return records_frame(records, ("line", "series", *self.header))

    def _paper(self, line: Line, method: str, metric: str) -> float | None:
        return paper_mean(self.spec.number, method, line.titles, metric)

    def _otherwise(self, line: Line, series: Series) -> str:
        if not line.trained_on:
            return ""
        if series.name in line.members:
            return "undefined"
        # What was measured in another way has a line of its own.
        has_own = ((self._elsewhere.series == series.name) & (self._elsewhere.target == line.dataset)).any()
        return ABSENT if line.titles and not has_own else ""

    def grids(self, *, only_measured: bool = False) -> list[Grid]:
        """Lay the table out, with one grid per domain and the means in the foot; what was measured comes first.

        Args:
            only_measured: Leave out the methods of which nothing was measured, if anything was.
        """
        known = {series.method for series in self.measured.series}
        methods = [m for m in METHODS.values() if not only_measured or not known or m in known]
        words = [Heading("Dataset", is_text=True), Heading("Trained on", "The auxiliary dataset", is_text=True)]
        rows = []
        for i, line in enumerate(self.lines):
            headings, cells = zip(*self._entries(i, methods), strict=True)
            rows.append((line, [TableCell(line.dataset), TableCell(line.trained_on), *cells]))
        return self._by_domain([*words, *headings], rows)

    def _by_domain(self, headings: Sequence[Heading], rows: Sequence[tuple[Line, list[TableCell]]]) -> list[Grid]:
        return [
            Grid(
                domain.capitalize(),
                headings,
                [row for line, row in rows if line.domain == domain and line.trained_on],
                [row for line, row in rows if line.domain == domain and not line.trained_on],
            )
            for domain in dict.fromkeys(line.domain for line in self.lines)
        ]

    def _entries(self, i: int, methods: Sequence[str]) -> Iterator[tuple[Heading, TableCell]]:
        """Pivot a line of the records: the series of each method after its paper's numbers, then the other papers'."""
        known = list(dict.fromkeys(series.method for series in self.measured.series))
        in_paper, others = [m for m in methods if m in known], [m for m in methods if m not in known]
        for method in [*in_paper, *(m for m in known if m not in methods), *others]:
            for metric, label in self.spec.metrics.items() if method in methods else ():
                yield Heading(label, "The paper's number", f"{method}, paper"), self.paper_cell(i, method, metric)
            series = [one for one in self.measured.series if one.method == method]
            for one, (metric, label) in product(series, self.spec.metrics.items()):
                measured, difference = self.number_cells(i, one.name, metric)
                group = f"{one.label}, measured"
                yield Heading(label, AS_MEASURED, group), measured
                if method in METHODS.values() and not one.is_random:
                    yield Heading(f"{label} {DELTA}", "Measured minus paper, in points", group), difference

    def paper_cell(self, i: int, method: str, metric: str) -> TableCell:
        """Show the paper's number, the best of its methods in bold if all are known."""
        values = {name: self._paper(self.lines[i], name, metric) for name in METHODS.values()}
        value, known = values[method], [value for value in values.values() if value is not None]
        if value is None:
            return TableCell("")
        return TableCell(f"{value:.1f}", value, is_strong=len(known) == len(values) and value == max(known))

    def number_cells(self, i: int, series: str, metric: str) -> tuple[TableCell, TableCell]:
        """Show what was measured, or why nothing was, and its difference to the paper."""
        record = self._by_place[i, series, metric]
        return cell_of(record), difference_cell(record["difference_to_paper"], is_partial=record["state"] == "partly")

    @cached_property
    def _by_place(self) -> dict[tuple[int, str, str], Record]:
        return {(r["line"], r["series"], r["metric"]): r for r in as_dicts(self.records)}

    def print_grids(self) -> list[Grid]:
        """Lay the table out as narrow as the paper's: measured numbers stand below the paper's.

        Returns:
            One grid per domain with two columns per method. Below the paper's line of each dataset are a line of
            measured numbers and one of differences: one such pair for all methods, or one for each series where a
            method has several.
        """
        series = self.measured.series
        methods = list(dict.fromkeys([*METHODS.values(), *(one.method for one in series)]))
        by_method = {one.method: one.name for one in series}
        layers = [("measured", by_method)] if series else []
        if len(by_method) < len(series):
            layers = [(one.label, {one.method: one.name}) for one in series]
        headings = text_headings("Dataset", "") + [
            Heading(label, group=method) for method, label in product(methods, self.spec.metrics.values())
        ]
        rows: list[tuple[Line, list[TableCell]]] = []
        for i, line in enumerate(self.lines):
            label = line.dataset if line.titles else f"{line.dataset}, trained on {line.trained_on}"
            for name, cells in self._stacked(i, methods, layers):
                rows.append((line, [TableCell(label), TableCell(name), *cells]))
                label = ""
        return self._by_domain(headings, rows)

    def _stacked(
        self, i: int, methods: Sequence[str], layers: Sequence[tuple[str, Mapping[str, str]]]
    ) -> Iterator[tuple[str, list[TableCell]]]:
        columns = list(product(methods, self.spec.metrics))
        if self.lines[i].titles:
            yield (
                "paper" if layers else "",
                [self.paper_cell(i, *c) if c[0] in METHODS.values() else TableCell("") for c in columns],
            )
        for name, layer in layers:
            pairs = [
                self.number_cells(i, layer[method], metric) if method in layer else (TableCell(""), TableCell(""))
                for method, metric in columns
            ]
            for words, cells in zip((name, "difference"), zip(*pairs, strict=True), strict=True):
                if any(cell.shown for cell in cells):
                    yield words, list(cells)


@dataclass(frozen=True)
class CategoryTables:
    """What was measured, in full: every category with every metric, and the datasets the paper does not have."""

    measured: Measured

    header = (
        *("setting", "method", "backbone", "random_weights", "dataset", "trained_on", "category", "metric"),
        *("mean", "deviation", "num_seeds", "seeds", "num_normal", "num_anomalous"),
    )

    @cached_property
    def records(self) -> pd.DataFrame:
        """Every number in percent, and the number of its measured dataset; the mean is category ``mean``."""
        cells = self.measured.cells.reset_index()
        facts = ["series_label", "method", "backbone", "random_weights", "target", "target_lacks"]
        facts += ["auxiliary", "trained_on", "seeds"]
        cells = cells.join(self.measured.datasets[[*facts, "label", "label_trained_on"]], on="dataset")
        cells[["mean", "deviation"]] *= 100
        cells["num_seeds"] = cells.seeds.map(len)
        cells["seeds"] = [" ".join(str(seed) for seed in seeds if seed != NO_SEED) for seeds in cells.seeds]
        place = cells.row.where(cells.row != MEAN_ROW, len(cells))
        order = cells.metric.map([*COLUMNS, *SATURATED_COLUMNS].index)
        cells = cells.assign(place=place, order=order).sort_values(["dataset", "place", "order"])
        return cells.rename(columns={"dataset": "number", "target": "dataset", "series_label": "setting"})

    def named(self) -> Iterator[tuple[int, str, pd.DataFrame]]:
        """Go through the measured datasets: the number of each, a heading that names it, and its records."""
        for number, of_dataset in self.records.groupby("number"):
            first = of_dataset.iloc[0]
            trained = f" trained on {first.label_trained_on}" if first.auxiliary else ""
            yield int(str(number)), f"{first.label}: {first.setting}{trained}", of_dataset

    def grids(self) -> list[Grid]:
        """Lay out every measured dataset."""
        return [category_grid(name, of_dataset) for _, name, of_dataset in self.named()]

    def outside(self) -> Grid:
        """Lay out the means of those datasets that the paper does not have."""
        rows = [
            [*map(TableCell, (first.label, first.label_trained_on, first.setting)), *category_cells(mean)[1:]]
            for _, _, of_dataset in self.named()
            for mean in [of_dataset[of_dataset.row == MEAN_ROW]]
            for first in [mean.iloc[0]]
            if find_dataset(first.dataset) is None
        ]
        words = text_headings("Dataset", "Trained on", "Setting")
        return Grid("Datasets outside the paper", [*words, *METRIC_HEADINGS], rows)


def run_grid(runs: Sequence[RecordedRun], measured: Measured) -> Grid:
    """List the runs: what each one trained on and what it scored."""
    labels = {one.name: one.label for one in measured.series}
    rows = []
    for run in runs:
        first = run.values.iloc[0] if len(run.values) else None
        words = (
            shown(run.folder),
            "" if first is None else labels[first.setting],
            run.manifest.get("command", ""),
            NOTHING if first is None or not first.auxiliary else first.auxiliary,
            "" if first is None or first.seed == NO_SEED else str(first.seed),
            "" if first is None else ", ".join(run.values.drop_duplicates("name").target),
            str(run.manifest.get("started", ""))[:10],
            run.commit,
        )
        rows.append(list(map(TableCell, words)))
    words = ("Folder", "Setting", "Command", "Trained on", "Seed", "Scored", "Started", "Commit")
    return Grid("Runs", text_headings(*words), rows)
