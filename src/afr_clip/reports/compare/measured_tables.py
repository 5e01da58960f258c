"""What was measured, in full: every category with every metric, and the datasets the paper does not have."""

from collections.abc import Iterator, Sequence

from afr_clip.reports.compare.aggregate import MEAN_ROW, MeasuredDataset, MeasuredSetting
from afr_clip.reports.compare.gather import RunResults
from afr_clip.reports.compare.paper_tables import label_of, show
from afr_clip.reports.layout.grid import COLUMNS, COUNT_HEADINGS, METRIC_HEADINGS, Cell, Grid, Heading, counts

CSV_HEADER = (
    "setting",
    "method",
    "backbone",
    "random_weights",
    "dataset",
    "trained_on",
    "category",
    "metric",
    "mean",
    "deviation",
    "num_seeds",
    "seeds",
    "num_normal",
    "num_anomalous",
)


def measured(settings: Sequence[MeasuredSetting]) -> Iterator[tuple[MeasuredSetting, MeasuredDataset, str]]:
    """Go through everything that was measured.

    Args:
        settings: In their order.

    Yields:
        The setting, the dataset, and a heading that names both.
    """
    for setting in settings:
        for dataset in setting.datasets:
            title, trained_on = label_of(setting, dataset)
            trained = "" if dataset.auxiliary is None else f" trained on {trained_on}"
            yield setting, dataset, f"{title}: {setting.label}{trained}"


def category_grid(dataset: MeasuredDataset, name: str) -> Grid:
    """Lay out the categories of a dataset.

    Args:
        dataset: What was measured.
        name: Of the table.

    Returns:
        One row per category, all metrics, the mean in the foot.
    """
    rows = [_category_row(dataset, i) for i in range(len(dataset.first.rows))]
    return Grid(
        name, [Heading("Category", is_text=True), *METRIC_HEADINGS, *COUNT_HEADINGS], rows[:MEAN_ROW], rows[MEAN_ROW:]
    )


def outside_grid(settings: Sequence[MeasuredSetting]) -> Grid:
    """Lay out the means of those datasets that the paper does not have."""
    words = ("Dataset", "Trained on", "Setting")
    rows = [
        [*map(Cell, (*label_of(setting, dataset), setting.label)), *_category_row(dataset, MEAN_ROW)[1:]]
        for setting, dataset, _ in measured(settings)
        if dataset.target.published is None
    ]
    return Grid(
        "Datasets outside the paper",
        [*(Heading(word, is_text=True) for word in words), *METRIC_HEADINGS, *COUNT_HEADINGS],
        rows,
    )


def run_grid(runs: Sequence[RunResults], labels: dict[str, str]) -> Grid:
    """Say which run gave what.

    Args:
        runs: As they were read.
        labels: The label of each setting by its key.

    Returns:
        One row per run.
    """
    words = ("Folder", "Setting", "Command", "Trained on", "Seed", "Scored", "Started", "Commit")
    return Grid("Runs", [Heading(word, is_text=True) for word in words], [_run_row(run, labels) for run in runs])


def records(settings: Sequence[MeasuredSetting]) -> Iterator[tuple[object, ...]]:
    """Return every number with all digits, one a row, as `CSV_HEADER` names them; the mean is category ``mean``."""
    for setting, dataset, _ in measured(settings):
        backbone = setting.setting.backbone
        of = (setting.label, setting.setting.method, backbone["name"], int(setting.setting.is_random))
        seeds = " ".join(str(seed) for seed in dataset.by_seed if seed is not None)
        for i, row in enumerate(dataset.first.rows):
            for metric in COLUMNS:
                spread = dataset.spread(metric, i)
                number = (None, None) if spread is None else (100 * spread.mean, _percent(spread.deviation))
                yield (*of, dataset.target.title, dataset.trained_on, row.category, metric, *number,
                       len(dataset.by_seed), seeds, row.num_normal, row.num_anomalous)  # fmt: skip


def _category_row(dataset: MeasuredDataset, i: int) -> list[Cell]:
    row = dataset.first.rows[i]
    values = [show(dataset.spread(metric, i)) for metric in COLUMNS]
    return [Cell(row.category), *values, *counts(row.num_normal, row.num_anomalous)]


def _run_row(run: RunResults, labels: dict[str, str]) -> list[Cell]:
    manifest = run.manifest
    first = run.measurements[0] if run.measurements else None
    auxiliary = None if first is None else first.auxiliary
    words = (
        str(run.folder),
        "" if first is None else labels[first.setting.key],
        manifest.get("command", ""),
        "nothing" if auxiliary is None else auxiliary.title,
        "" if first is None or first.seed is None else str(first.seed),
        ", ".join(measurement.target.title for measurement in run.measurements),
        str(manifest.get("started", ""))[:10],
        commit_of(run),
    )
    return list(map(Cell, words))


def commit_of(run: RunResults) -> str:
    """Say which code a run had."""
    commit = run.manifest.get("commit") or {"hash": "unknown", "dirty": False}
    return f"{commit['hash'][:12]}{', with uncommitted changes' if commit['dirty'] else ''}"


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
