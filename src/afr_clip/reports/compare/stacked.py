"""Tables 1 and 2 as narrow as the paper's, for print: what was measured stands below the paper's numbers."""

from collections.abc import Iterator, Sequence

from afr_clip.reports.compare.aggregate import MeasuredSetting
from afr_clip.reports.compare.paper_tables import PaperRow, PaperTable
from afr_clip.reports.layout.grid import Cell, Grid, Heading
from afr_clip.reports.record.provenance import METHODS

Line = tuple[str, list[Cell]]
"""What a line says, and its numbers by method and metric."""


def stacked_grids(table: PaperTable) -> list[Grid]:
    """Lay a table out with two columns per method.

    Args:
        table: Table 1 or 2.

    Returns:
        One grid per block. Below the paper's line of each dataset stand a line of measured numbers and one of
        differences: one such pair for all methods, or one for each setting where a method has several.
    """
    methods = list(dict.fromkeys([*METHODS.values(), *(setting.setting.method for setting in table.settings)]))
    numbers = [Heading(label, group=method) for method in methods for label in table.metrics.values()]
    words = [Heading("Dataset", is_text=True), Heading("", is_text=True)]
    grids = []
    for domain in table.domains():
        rows = [(row, list(_lines(table, row, methods))) for row in table.rows(domain)]
        body = [cells for row, lines in rows if not row.is_mean for cells in _named(row, lines)]
        foot = [cells for row, lines in rows if row.is_mean for cells in _named(row, lines)]
        grids.append(Grid(domain.capitalize(), [*words, *numbers], body, foot))
    return grids


def _lines(table: PaperTable, row: PaperRow, methods: Sequence[str]) -> Iterator[Line]:
    if row.other is None:
        yield (
            "paper" if table.settings else "",
            [table.paper_cell(row, method, metric) for method in methods for metric in table.metrics],
        )
    for name, layer in _layers(table.settings):
        pairs = [pair for method in methods for pair in _pairs(table, row, layer.get(method))]
        for said, cells in zip((name, "difference"), zip(*pairs, strict=True), strict=True):
            if any(cell.shown for cell in cells):
                yield said, list(cells)


def _layers(settings: Sequence[MeasuredSetting]) -> list[tuple[str, dict[str, MeasuredSetting]]]:
    by_method = {setting.setting.method: setting for setting in settings}
    if len(by_method) == len(settings):
        return [("measured", by_method)] if settings else []
    return [(setting.label, {setting.setting.method: setting}) for setting in settings]


def _pairs(table: PaperTable, row: PaperRow, setting: MeasuredSetting | None) -> list[tuple[Cell, Cell]]:
    if setting is None:
        return [(Cell(""), Cell(""))] * len(table.metrics)
    return [
        (table.measured_cell(row, setting, metric), table.difference_cell(row, setting, metric))
        for metric in table.metrics
    ]


def _named(row: PaperRow, lines: Sequence[Line]) -> list[list[Cell]]:
    label = row.label if row.other is None else f"{row.label}, trained on {row.trained_on}"
    return [[Cell("" if i else label), Cell(said), *cells] for i, (said, cells) in enumerate(lines)]
