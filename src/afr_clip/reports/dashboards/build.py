"""Workspace and report as W&B's own objects, and as the JSON that saving them would send."""

import json
from pathlib import Path
from typing import Any

from afr_clip.reports.dashboards.panels import (
    bars_of_ablations,
    bars_of_metrics,
    curves,
    heat_maps,
    import_reports,
    parallel_coordinates,
    results_table,
)
from afr_clip.reports.dashboards.settings import ABLATION, SEARCH, SEED, TRAINED_ON, DashboardSettings
from afr_clip.reports.record.run_folder import write_json

NAME = "AFR-CLIP"


def build_workspace(settings: DashboardSettings) -> Any:  # noqa: ANN401 - W&B's classes have no types
    """Build the workspace: all runs, in sections to fold out.

    Args:
        settings: What it shows.

    Returns:
        A ``Workspace``, not saved.

    Raises:
        ValueError: If wandb-workspaces is not installed.
    """
    import_reports()
    from wandb_workspaces import workspaces  # noqa: PLC0415

    sections = {
        "Across datasets": [results_table(), *bars_of_metrics(settings)],
        "Ablations, over seeds": bars_of_ablations(settings),
        "Heat maps": heat_maps(settings),
        "Learning curves": curves(),
        "Search": parallel_coordinates(settings),
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


def build_report(settings: DashboardSettings) -> Any:  # noqa: ANN401 - W&B's classes have no types
    """Build the report: across datasets, then a table after the other, heat maps, curves and search.

    Args:
        settings: What it shows.

    Returns:
        A ``Report``, not saved.

    Raises:
        ValueError: If wandb-workspaces is not installed.
    """
    reports = import_reports()
    all_runs = [_runset("all runs", settings)]
    blocks = [
        reports.TableOfContents(),
        reports.H1("Across datasets"),
        reports.P("Fractions; a mean counts every category once, and leaves out where a metric is undefined."),
        reports.PanelGrid(runsets=all_runs, panels=[results_table()]),
        reports.PanelGrid(runsets=[_runset("all runs", settings)], panels=bars_of_metrics(settings)),
        reports.H1("Ablations"),
    ]
    for table in settings.tables:
        blocks += [
            reports.H2(table),
            reports.P("Bars are means over seeds, whiskers standard deviations."),
            reports.PanelGrid(
                runsets=[_runset(table, settings, group=table, by_ablation=True)], panels=bars_of_ablations(settings)
            ),
        ]
    blocks += [
        reports.H1("Heat maps"),
        reports.P("Two masks lie over every image: the ground truth, and the anomaly map in steps of probability."),
        reports.PanelGrid(runsets=[_runset("all runs", settings)], panels=heat_maps(settings)),
        reports.H1("Learning curves"),
        reports.PanelGrid(runsets=[_runset("all runs", settings)], panels=curves()),
        reports.H1("Search"),
        reports.PanelGrid(runsets=[_runset(SEARCH, settings, group=SEARCH)], panels=parallel_coordinates(settings)),
    ]
    return reports.Report(
        project=settings.project,
        entity=settings.entity,
        title=NAME,
        description="What runs measured. Their folders are the record; this page is made from code.",
        blocks=blocks,
        width="fluid",
    )


def _runset(name: str, settings: DashboardSettings, *, group: str | None = None, by_ablation: bool = False) -> Any:  # noqa: ANN401
    reports = import_reports()
    # Without a project of its own a run set is of the report's, and needs no network to be built.
    return reports.Runset(
        name=name,
        filters="" if group is None else f"Metric('Group') == {group!r}",
        groupby=[f"config.{ABLATION}"] if by_ablation else [],
        pinned_columns=[f"config:{ABLATION}.value", *(f"summary:{key}" for key in settings.means())],
    )


def write_specs(workspace: Any, report: Any, folder: Path) -> list[Path]:  # noqa: ANN401
    """Write what saving would send, without a network.

    Args:
        workspace: As built.
        report: As built.
        folder: Gets ``workspace.json`` and ``report.json``.

    Returns:
        The files.
    """
    paths = []
    for name, built in (("workspace", workspace), ("report", report)):
        paths.append(folder / f"{name}.json")
        write_json(paths[-1], as_plain(built))
    return paths


def as_plain(built: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a workspace or report as the plain values that saving would send."""
    plain: dict[str, Any] = json.loads(built._to_model().model_dump_json(by_alias=True, exclude_none=True))
    return plain
