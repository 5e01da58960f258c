"""The panels that workspace and report share. W&B's own classes have no types, so panels are ``Any`` here."""

from typing import Any

from afr_clip.metrics.log_keys import EPOCH, RESULTS_TABLE, SHEETS, heat_map_key
from afr_clip.metrics.protocol import METRICS
from afr_clip.reports.dashboards.settings import ABLATION, CURVES, SHOWN_IN_BARS, DashboardSettings

WIDTH = 24
"""Columns of a report's grid."""


def import_reports() -> Any:  # noqa: ANN401
    """Import W&B's report classes; they take a second, and are optional.

    Returns:
        The module.

    Raises:
        ValueError: If the package is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as reports  # noqa: PLC0415
    except ImportError as error:
        msg = (
            "Dashboards need the package wandb-workspaces, which is not installed. Run pip install -e '.[dashboards]'."
        )
        raise ValueError(msg) from error
    return reports


def results_table() -> Any:  # noqa: ANN401
    """Show the results table of every run: dataset, category, metrics, numbers of images."""
    reports = import_reports()
    return reports.WeavePanelSummaryTable(table_name=RESULTS_TABLE, layout=reports.Layout(w=WIDTH, h=12))


def bars_of_metrics(settings: DashboardSettings) -> list[Any]:
    """Compare runs on all datasets, one panel per metric."""
    reports = import_reports()
    return [
        reports.BarPlot(
            title=f"{metric}, mean over categories",
            metrics=settings.means((metric,)),
            orientation="v",
            layout=reports.Layout(x=12 * (i % 2), y=8 * (i // 2), w=12, h=8),
        )
        for i, metric in enumerate(METRICS)
    ]


def bars_of_ablations(settings: DashboardSettings) -> list[Any]:
    """Compare ablations: mean and deviation over seeds, one panel per dataset and metric of the paper's tables."""
    reports = import_reports()
    panels = []
    for i, dataset in enumerate(settings.datasets):
        for j, metric in enumerate(SHOWN_IN_BARS):
            panels.append(
                reports.BarPlot(
                    title=f"{dataset}: {metric}",
                    metrics=[key for key in settings.means((metric,)) if f"/{dataset}/" in key],
                    groupby=reports.Config(ABLATION),
                    groupby_aggfunc="mean",
                    groupby_rangefunc="stddev",
                    layout=reports.Layout(x=12 * j, y=8 * i, w=12, h=8),
                )
            )
    return panels


def heat_maps(settings: DashboardSettings) -> list[Any]:
    """Show images of every dataset with truth and anomaly map over them: highest, lowest, worst-ranked."""
    reports = import_reports()
    return [
        reports.MediaBrowser(
            title=f"{dataset}: {sheet.replace('_', ' ')}",
            media_keys=[heat_map_key(dataset, sheet)],
            num_columns=4,
            layout=reports.Layout(x=0, y=10 * (len(SHEETS) * i + j), w=WIDTH, h=10),
        )
        for i, dataset in enumerate(settings.datasets)
        for j, sheet in enumerate(SHEETS)
    ]


def curves() -> list[Any]:
    """Show loss and learning rate over the epochs."""
    reports = import_reports()
    return [
        reports.LinePlot(
            title=key.removeprefix("train/"),
            x=EPOCH,
            y=[key],
            range_x=(0, None),
            layout=reports.Layout(x=12 * i, y=0, w=12, h=8),
        )
        for i, key in enumerate(CURVES)
    ]


def parallel_coordinates(settings: DashboardSettings) -> list[Any]:
    """Show what a search tried and what came of it, one line per run; one panel per dataset."""
    reports = import_reports()
    panels = []
    for i, dataset in enumerate(settings.datasets):
        columns = [reports.ParallelCoordinatesPlotColumn(reports.Config(key)) for key in settings.searched]
        keys = [key for key in settings.means() if f"/{dataset}/" in key]
        columns += [reports.ParallelCoordinatesPlotColumn(reports.SummaryMetric(key)) for key in keys]
        layout = reports.Layout(x=0, y=8 * i, w=WIDTH, h=8)
        panels.append(reports.ParallelCoordinatesPlot(title=f"search: {dataset}", columns=columns, layout=layout))
    return panels
