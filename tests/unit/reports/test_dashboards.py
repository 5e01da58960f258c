import json
import socket
import sys

import pytest

from afr_clip.metrics.average import METRICS
from afr_clip.reports.dashboards import DashboardSettings, as_plain, build_report, build_workspace, write_specs

pytest.importorskip("wandb_workspaces")

SETTINGS = DashboardSettings("afr-clip", "us", ["visa", "mvtec_ad"], ["table3", "readings"], ["optimizer.lr"])


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a dashboard is built without a network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture(scope="module")
def workspace():
    return build_workspace(SETTINGS)


@pytest.fixture(scope="module")
def report():
    return build_report(SETTINGS)


def names(panels) -> list[str]:
    return [type(panel).__name__ for panel in panels]


def test_the_workspace_has_a_section_for_each_question(workspace):
    sections = {section.name: names(section.panels) for section in workspace.sections}
    assert sections == {
        "Across datasets": ["WeavePanelSummaryTable", *["BarPlot"] * len(METRICS)],
        "Ablations, over seeds": ["BarPlot"] * 4,
        "Heat maps": ["MediaBrowser"] * 6,
        "Learning curves": ["LinePlot"] * 2,
        "Search": ["ParallelCoordinatesPlot"] * 2,
    }
    assert (workspace.entity, workspace.project, workspace.name) == ("us", "afr-clip", "AFR-CLIP")


def test_ablations_are_means_and_deviations_over_seeds(workspace):
    panel = workspace.sections[1].panels[0]
    assert panel.metrics == ["mean/visa/i_auroc"]
    assert (panel.groupby.name, panel.groupby_aggfunc, panel.groupby_rangefunc) == ("ablation", "mean", "stddev")


def test_every_panel_of_the_heat_maps_shows_one_sheet_of_one_dataset(workspace):
    keys = [panel.media_keys for panel in workspace.sections[2].panels]
    assert keys[0] == ["heat_maps/visa/highest"]
    assert len({tuple(key) for key in keys}) == 6


def test_curves_go_over_epochs(workspace):
    assert [(panel.x, panel.y) for panel in workspace.sections[3].panels] == [
        ("epoch", ["train/loss_epoch"]),
        ("epoch", ["train/lr"]),
    ]


def test_a_search_shows_what_was_tried_and_what_came_of_it(workspace):
    first, *results = workspace.sections[4].panels[0].columns
    assert first.metric.name == "optimizer.lr"
    assert [column.metric.name for column in results] == SETTINGS.means()[: len(METRICS)]


def test_every_table_of_the_report_is_of_the_runs_of_its_group(report):
    grids = [block for block in report.blocks if type(block).__name__ == "PanelGrid"]
    grouped = {grid.runsets[0].name: grid.runsets[0] for grid in grids if grid.runsets[0].groupby}
    assert grouped.keys() == {"table3", "readings"}
    assert grouped["table3"].groupby == ["config.ablation"]
    spec = grouped["table3"]._to_model().model_dump(by_alias=True)
    (chosen,) = spec["filters"]["filters"]
    assert (chosen["key"]["name"], chosen["op"], chosen["value"]) == ("group", "=", "table3")


def test_the_panels_of_a_grid_do_not_lie_on_each_other(report):
    for block in report.blocks:
        taken: set[tuple[int, int]] = set()
        for panel in getattr(block, "panels", ()):
            at = panel.layout
            cells = {(x, y) for x in range(at.x, at.x + at.w) for y in range(at.y, at.y + at.h)}
            assert not cells & taken
            assert at.x + at.w <= 24
            taken |= cells


def test_both_are_written_as_what_saving_would_send(workspace, report, tmp_path):
    paths = write_specs(workspace, report, tmp_path)
    assert [path.name for path in paths] == ["workspace.json", "report.json"]
    read = [json.loads(path.read_text()) for path in paths]
    assert read == [as_plain(workspace), as_plain(report)]
    assert read[0]["project"] == "afr-clip"
    assert read[1]["displayName"] == "AFR-CLIP"


def test_a_dashboard_shows_something():
    with pytest.raises(ValueError, match=r"at least one dataset, got none\. Name some with --datasets"):
        DashboardSettings("p", "e", [])


def test_a_missing_package_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(ValueError, match=r"wandb-workspaces.*pip install -e '\.\[dashboards\]'"):
        build_report(SETTINGS)
