"""What a reader wants first: each setting with its means over the datasets that all of them scored, and its cost."""

from collections.abc import Iterator
from functools import reduce
from statistics import median

import pandas as pd

from afr_clip.files import counted
from afr_clip.reports.compare.pairwise import IMAGES
from afr_clip.reports.compare.tables import cell_of, number_record
from afr_clip.reports.compare.values import NO_SEED, Measured, Series
from afr_clip.reports.layout.grid import COLUMNS, Grid, Heading, TableCell, number_cell, text_headings

FIRST = ("image_auroc", "pixel_auroc", "pixel_ap", "pixel_aupro")
"""The metrics of the overview."""

COST_NOTE = (
    "Milliseconds an image are those of the forward pass with image and score on the CPU again, without reading files "
    "and counting metrics: the median over batches, then over runs. Memory is the peak while a dataset was scored: on "
    "a GPU what PyTorch allocated, on a CPU all that the first process occupied, libraries and weights included. "
    "Compare them only where they were measured alike; an empty cell was not recorded."
)


def overview(measured: Measured) -> Grid:
    """Lay out one row per setting."""
    datasets = measured.datasets
    once = datasets[~datasets.duplicated(["series", *IMAGES], keep=False)]
    scored = [
        set(once.loc[once.series == one.name, list(IMAGES)].itertuples(index=False, name=None))
        for one in measured.series
    ]
    common: set[tuple[str, str]] = reduce(set.intersection, scored) if scored else set()
    shared = once[pd.MultiIndex.from_frame(once[list(IMAGES)]).isin(list(common))]
    # Image-level metrics need normal images, and pixel-level ones masks, which not every dataset has.
    defined = {metric: have for metric in FIRST if common and (have := _defined(measured, shared, metric))}
    group = f"Mean of {counted(len(common), 'common dataset')}"
    headings = [
        *text_headings("Setting"),
        *(_heading(metric, len(have), len(common), group) for metric, have in defined.items()),
    ]
    headings += [
        Heading("Parameters", "Trained ones, without the frozen towers", "Cost"),
        Heading("ms an image", "Of the forward pass", "Cost"),
        Heading("MiB at peak", "Memory while scoring", "Cost"),
        Heading("Seeds"),
        Heading("Datasets", "That this setting scored"),
        Heading("Trained on", "The auxiliary dataset", is_text=True),
        Heading("Cost measured on", is_text=True),
    ]
    rows = []
    for one in measured.series:
        own = datasets[datasets.series == one.name]
        chosen = shared[shared.series == one.name]
        cells = [TableCell(one.label)]
        for metric, have in defined.items():
            numbers = chosen.index[pd.MultiIndex.from_frame(chosen[list(IMAGES)]).isin(list(have))]
            cells.append(cell_of(number_record(measured.spread(list(numbers), metric), None, "undefined")))
        seeds = {seed for seeds in own.seeds for seed in seeds} - {NO_SEED}
        *cost, conditions = _cost_cells(one)
        trained = TableCell("; ".join(own.trained_on.unique()))
        rows.append([*cells, *cost, number_cell(len(seeds), ""), number_cell(len(own), ""), trained, conditions])
    return Grid("At a glance", headings, rows)


def _defined(measured: Measured, shared: pd.DataFrame, metric: str) -> set[tuple[str, str]]:
    """Find the datasets on which a metric is defined for all settings."""
    lacking = shared[[measured.spread([number], metric) is None for number in shared.index]]
    every, without = (set(part[list(IMAGES)].itertuples(index=False, name=None)) for part in (shared, lacking))
    return every - without


def _heading(metric: str, num: int, of: int, group: str) -> Heading:
    label, meaning = COLUMNS[metric]
    return Heading(label, meaning, group) if num == of else Heading(f"{label}, {num} of them", meaning, group)


def _cost_cells(series: Series) -> Iterator[TableCell]:
    """Show parameters, time and memory, and what the last two were measured on; empty where nothing was recorded."""
    parameters = {run.manifest.get("trainable_parameters") for run in series.runs} - {None}
    costs = [cost for run in series.runs for cost in (run.manifest.get("cost") or {}).values()]
    paces = [cost["milliseconds_per_image"] for cost in costs if cost["milliseconds_per_image"] is not None]
    peaks = [cost["peak_memory_mib"] for cost in costs if cost["peak_memory_mib"] is not None]
    largest = max((int(num) for num in parameters if num is not None), default=None)
    yield number_cell(largest, ",")
    yield number_cell(median(paces) if paces else None)
    yield number_cell(max(peaks, default=None), ",.0f")
    conditions = []
    for cost in costs:
        threads = f", {counted(int(cost['threads']), 'thread')}" if cost["device"] == "cpu" else ""
        conditions.append(f"{cost['device']}{threads}, batch {cost['batch_size']}, {cost['image_size']} px")
    yield TableCell("; ".join(dict.fromkeys(conditions)))
