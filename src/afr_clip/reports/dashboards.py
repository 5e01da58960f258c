"""The Weights & Biases workspace and report as code, built on the keys that runs log."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from afr_clip.metrics.average import METRICS
from afr_clip.metrics.log_keys import EPOCH, LEARNING_RATE, LOSS_EPOCH, RESULTS_TABLE, SHEETS, heat_map_key, mean_key
from afr_clip.reports.compare.paper import ABLATIONS
from afr_clip.reports.record.run_folder import write_json

NAME = "AFR-CLIP"

TABLES = tuple(ABLATIONS)
"""Groups of runs whose ablations are compared; a sweep's runs are grouped by the table they are for."""

SEARCH = "search"
"""Group of the runs of a search."""

SEARCHED = (
    *("optimizer.lr", "module.network.scoring.temperature"),
    *(f"loss.{name}" for name in ("image_weight", "focal_weight", "focal_gamma", "dice_weight", "complement_weight")),
)
"""Config keys that a search varies by default."""

ABLATION, SEED, TRAINED_ON = "ablation", "seed", "trained_on"
"""Config keys of a run that the dashboards group by and show."""

WIDTH = 24
"""Columns of a report's grid."""


@dataclass(frozen=True)
class DashboardSettings:
    """What the dashboards show.

    Attributes:
        entity: User or team; empty for the one who is logged in.
        tables: Groups of runs, each an ablation table.

    Raises:
        ValueError: If there is no dataset to show.
    """

    project: str
    entity: str
    datasets: Sequence[str]
    tables: Sequence[str] = TABLES
    searched: Sequence[str] = SEARCHED

    def __post_init__(self) -> None:
        if not self.datasets:
            msg = "A dashboard must show at least one dataset, got none. Name some with --datasets."
            raise ValueError(msg)

    def means(self, metrics: Sequence[str] = METRICS) -> list[str]:
        """Return the log keys of macro averages on all datasets."""
        return [mean_key(dataset, metric) for dataset in self.datasets for metric in metrics]


# W&B's classes have no types, so workspace, report and panels are Any below.


def build_workspace(settings: DashboardSettings) -> Any:  # noqa: ANN401
    """Build the workspace, without saving it: all runs, in sections that fold out."""
    reports = _import_reports()
    from wandb_workspaces import workspaces  # noqa: PLC0415

    sections = {
        "Across datasets": [_results_table(reports), *_bars_of_metrics(reports, settings)],
        "Ablations, over seeds": _bars_of_ablations(reports, settings),
        "Heat maps": _heat_maps(reports, settings),
        "Learning curves": _curves(reports),
        "Search": _parallel_coordinates(reports, settings),
    }
    columns = [f"config:{key}.value" for key in (ABLATION, TRAINED_ON, SEED)]
    return workspaces.Workspace(
        entity=settings.entity,
        project=settings.project,
        name=NAME,
        sections=[
            workspaces.Section(name=name, panels=panels, is_open=i == 0)
            for i, (name, panels) in enumerate(sections.items())
        ],
        runset_settings=workspaces.RunsetSettings(
            pinned_columns=["run:displayName", *columns, *(f"summary:{key}" for key in settings.means())]
        ),
    )


def build_report(settings: DashboardSettings) -> Any:  # noqa: ANN401
    """Build the report, without saving it: across datasets, then each ablation table, heat maps, curves and search."""
    reports = _import_reports()

    def grid(panels: list[Any], name: str = "all runs", group: str | None = None, by: Sequence[str] = ()) -> Any:  # noqa: ANN401
        # A run set without a project belongs to the report's, and is built without a network.
        runs = reports.Runset(
            name=name,
            filters="" if group is None else f"Metric('Group') == {group!r}",
            groupby=[f"config.{key}" for key in by],
            pinned_columns=[f"config:{ABLATION}.value", *(f"summary:{key}" for key in settings.means())],
        )
        return reports.PanelGrid(runsets=[runs], panels=panels)

    blocks = [
        reports.TableOfContents(),
        reports.H1("Across datasets"),
        reports.P("Fractions. A mean counts every category once and leaves out undefined metrics."),
        grid([_results_table(reports)]),
        grid(_bars_of_metrics(reports, settings)),
        reports.H1("Ablations"),
    ]
    for table in settings.tables:
        blocks += [
            reports.H2(table),
            reports.P("Bars are means over seeds, whiskers standard deviations."),
            grid(_bars_of_ablations(reports, settings), table, group=table, by=[ABLATION]),
        ]
    blocks += [
        reports.H1("Heat maps"),
        reports.P("Every image has two masks: the ground truth, and the anomaly map in steps of its score."),
        grid(_heat_maps(reports, settings)),
        reports.H1("Learning curves"),
        grid(_curves(reports)),
        reports.H1("Search"),
        grid(_parallel_coordinates(reports, settings), SEARCH, group=SEARCH),
    ]
    return reports.Report(
        project=settings.project,
        entity=settings.entity,
        title=NAME,
        description="Results of all runs. The run folders are the record; this page is built from code.",
        blocks=blocks,
        width="fluid",
    )


def write_specs(workspace: Any, report: Any, folder: Path) -> list[Path]:  # noqa: ANN401
    """Write ``workspace.json`` and ``report.json``, which hold what saving would send; needs no network."""
    built = {folder / "workspace.json": workspace, folder / "report.json": report}
    for path, one in built.items():
        write_json(path, as_plain(one))
    return list(built)


def as_plain(built: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a workspace or report as the plain values that saving would send."""
    plain: dict[str, Any] = json.loads(built._to_model().model_dump_json(by_alias=True, exclude_none=True))
    return plain


def _import_reports() -> ModuleType:
    try:
        import wandb_workspaces.reports.v2 as reports  # noqa: PLC0415 - optional, and takes a second
    except ImportError as error:
        msg = (
            "Dashboards need the package wandb-workspaces, which is not installed. Run pip install -e '.[dashboards]'."
        )
        raise ValueError(msg) from error
    return reports


def _results_table(reports: ModuleType) -> Any:  # noqa: ANN401
    return reports.WeavePanelSummaryTable(table_name=RESULTS_TABLE, layout=reports.Layout(w=WIDTH, h=12))


def _bars_of_metrics(reports: ModuleType, settings: DashboardSettings) -> list[Any]:
    """Compare runs on all datasets, one panel per metric."""
    return [
        reports.BarPlot(
            title=f"{metric}, mean over categories",
            metrics=settings.means((metric,)),
            orientation="v",
            layout=reports.Layout(x=12 * (i % 2), y=8 * (i // 2), w=12, h=8),
        )
        for i, metric in enumerate(METRICS)
    ]


def _bars_of_ablations(reports: ModuleType, settings: DashboardSettings) -> list[Any]:
    """Compare ablations over seeds, one panel per dataset and metric of the paper's ablation tables."""
    return [
        reports.BarPlot(
            title=f"{dataset}: {metric}",
            metrics=[mean_key(dataset, metric)],
            groupby=reports.Config(ABLATION),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            layout=reports.Layout(x=12 * j, y=8 * i, w=12, h=8),
        )
        for i, dataset in enumerate(settings.datasets)
        for j, metric in enumerate(("image_auroc", "pixel_auroc"))
    ]


def _heat_maps(reports: ModuleType, settings: DashboardSettings) -> list[Any]:
    """Show images of every dataset under truth and anomaly map: highest, lowest, worst-ranked."""
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


def _curves(reports: ModuleType) -> list[Any]:
    return [
        reports.LinePlot(
            title=key.removeprefix("train/"),
            x=EPOCH,
            y=[key],
            range_x=(0, None),
            layout=reports.Layout(x=12 * i, y=0, w=12, h=8),
        )
        for i, key in enumerate((LOSS_EPOCH, LEARNING_RATE))
    ]


def _parallel_coordinates(reports: ModuleType, settings: DashboardSettings) -> list[Any]:
    """Show what a search tried and how it scored, one line per run and one panel per dataset."""
    tried = [reports.Config(key) for key in settings.searched]
    scored = {name: [reports.SummaryMetric(mean_key(name, metric)) for metric in METRICS] for name in settings.datasets}
    return [
        reports.ParallelCoordinatesPlot(
            title=f"search: {dataset}",
            columns=[reports.ParallelCoordinatesPlotColumn(one) for one in (*tried, *own)],
            layout=reports.Layout(x=0, y=8 * i, w=WIDTH, h=8),
        )
        for i, (dataset, own) in enumerate(scored.items())
    ]
