from math import nan

import pytest

from afr_clip.reports.compare.overview import overview
from helpers.results import CONFIG, measured_in, source, write_run

VISA = source("VisA")
COST = {"milliseconds_per_image": 40.0, "peak_memory_mib": 3000.0, "device": "cpu", "threads": 2, "batch_size": 4,
        "image_size": 518}  # fmt: skip
NO_CMFR = CONFIG | {"module": {"name": "afr_clip", "network": {"mpfa_window": 3, "cmfr": {"enabled": False}}}}


def rows_of(folder):
    grid = overview(measured_in(folder))
    labels = [heading.label for heading in grid.headings]
    return grid, [dict(zip(labels, row, strict=True)) for row in grid.body]


def test_means_are_over_the_datasets_that_all_settings_scored(tmp_path):
    for seed, value in enumerate((0.6, 0.8)):
        write_run(tmp_path / f"full_{seed}", {"MPDD": value, "BTAD": 0.1}, auxiliary=VISA, seed=seed)
        write_run(tmp_path / f"less_{seed}", {"MPDD": value - 0.2, "MVTec AD": 0.9}, auxiliary=VISA, seed=seed,
                  config=NO_CMFR)  # fmt: skip
    grid, (full, less) = rows_of(tmp_path)
    assert [grid.headings[1].group, full["Setting"].shown, less["Setting"].shown] == [
        "Mean of 1 common dataset", "AFR-CLIP", "AFR-CLIP: no CMFR"
    ]  # fmt: skip
    assert [row["P-AP"].value for row in (full, less)] == pytest.approx([70, 50])
    assert full["P-AP"].shown == "70.0 \N{PLUS-MINUS SIGN} 14.1 (2)"
    assert (full["Datasets"].shown, full["Seeds"].shown, full["Trained on"].shown) == ("2", "2", "VisA")


def test_cost_is_the_median_time_and_the_highest_memory(tmp_path):
    for seed, pace in enumerate((30.0, 40.0, 90.0)):
        cost = {"mpdd": COST | {"milliseconds_per_image": pace, "peak_memory_mib": 1000.0 + seed}}
        write_run(tmp_path / str(seed), {"MPDD": 0.5}, auxiliary=VISA, seed=seed, cost=cost, trainable_parameters=33576)
    _, (row,) = rows_of(tmp_path)
    assert row["Parameters"].shown == "33,576"
    assert row["ms an image"].value == 40.0
    assert row["MiB at peak"].shown == "1,002"
    assert row["Cost measured on"].shown == "cpu, 2 threads, batch 4, 518 px"


def test_runs_from_before_cost_was_recorded_have_empty_cells(tmp_path):
    write_run(tmp_path, {"MPDD": 0.5}, auxiliary=VISA)
    _, (row,) = rows_of(tmp_path)
    assert [row[name].shown for name in ("Parameters", "ms an image", "MiB at peak", "Cost measured on")] == [""] * 4


def test_settings_without_a_common_dataset_have_no_means(tmp_path):
    write_run(tmp_path / "a", {"MPDD": 0.5}, auxiliary=VISA)
    write_run(tmp_path / "b", {"BTAD": 0.5}, auxiliary=VISA, config=NO_CMFR)
    _, (row, _) = rows_of(tmp_path)
    assert "P-AP" not in row


def test_a_metric_that_no_common_dataset_has_gets_no_column(tmp_path):
    write_run(tmp_path, {"Br35H": nan}, auxiliary=VISA)
    grid, _ = rows_of(tmp_path)
    assert not [heading.label for heading in grid.headings if "AUROC" in heading.label or "P-AP" in heading.label]


def test_a_metric_is_averaged_over_the_datasets_that_have_it(tmp_path):
    """Some have no masks; others only anomalous images."""
    for name, config, value in (("full", CONFIG, 0.6), ("less", NO_CMFR, 0.4)):
        write_run(tmp_path / name, {"MPDD": value, "Br35H": nan, "BTAD": value + 0.2}, auxiliary=VISA, config=config)
    grid, (full, less) = rows_of(tmp_path)
    assert {heading.group for heading in grid.headings if "AUROC" in heading.label} == {"Mean of 3 common datasets"}
    assert [row["P-AP, 2 of them"].value for row in (full, less)] == pytest.approx([70, 50])
