import math

import pytest

from afr_clip.reports.compare.aggregate import aggregate
from afr_clip.reports.compare.gather import read_runs
from afr_clip.reports.compare.measured_tables import (
    CSV_HEADER,
    category_grid,
    measured,
    outside_grid,
    records,
    run_grid,
)
from afr_clip.reports.layout.grid import COLUMNS
from helpers.results import source, write_run

VISA = source("VisA")


def settings_of(tmp_path):
    return aggregate(read_runs([tmp_path]))


def test_every_category_has_every_metric_with_the_mean_in_the_foot(tmp_path):
    for seed, value in enumerate((0.2, 0.4)):
        values = {"BTAD": {"image_auroc": value, "pixel_aupro": math.nan}}
        write_run(tmp_path / str(seed), values, auxiliary=VISA, seed=seed)
    ((_, dataset, name),) = measured(settings_of(tmp_path))
    grid = category_grid(dataset, name)
    assert name == "BTAD: AFR-CLIP trained on VisA"
    assert [heading.label for heading in grid.headings[1:8]] == [label for label, _ in COLUMNS.values()]
    assert [row[0].shown for row in grid.body] == ["BTAD 0", "BTAD 1", "BTAD 2"]
    assert [cell.shown for cell in grid.foot[0]] == [
        "mean", "30.0 \N{PLUS-MINUS SIGN} 14.1 (2)", *["50.0 \N{PLUS-MINUS SIGN} 0.0 (2)"] * 5, "-", "9", "12",
    ]  # fmt: skip


def test_datasets_outside_the_paper_have_a_table_of_their_own(tmp_path):
    write_run(tmp_path, {"kvasir": 0.25, "MPDD": 0.5}, auxiliary=VISA)
    grid = outside_grid(settings_of(tmp_path))
    assert [[cell.shown for cell in row] for row in grid.body] == [
        ["kvasir", "VisA", "AFR-CLIP", *["25.0"] * 7, "3", "4"],
    ]


def test_the_records_hold_every_number_with_all_digits(tmp_path):
    third = 1 / 3
    for seed, value in ((3, third), (5, 2 * third)):
        write_run(tmp_path / str(seed), {"MPDD": {"image_ap": value, "pixel_ap": math.nan}}, auxiliary=VISA, seed=seed)
    rows = [dict(zip(CSV_HEADER, record, strict=True)) for record in records(settings_of(tmp_path))]
    assert len(rows) == (6 + 1) * 7
    mean = {row["metric"]: row for row in rows if row["category"] == "mean"}
    assert (mean["image_ap"]["mean"], mean["image_ap"]["seeds"], mean["image_ap"]["num_seeds"]) == (50.0, "3 5", 2)
    assert mean["image_ap"]["deviation"] == pytest.approx(100 * third / math.sqrt(2), rel=1e-14)
    assert (mean["pixel_ap"]["mean"], mean["pixel_ap"]["deviation"]) == (None, None)


def test_every_run_is_named_with_what_it_gave(tmp_path):
    commit = {"hash": "c0ffee" * 4, "dirty": True}
    write_run(tmp_path / "a", {"MPDD": 0.5}, auxiliary=VISA, seed=4, commit=commit, started="2025-01-02T03:04:05+0000")
    write_run(tmp_path / "b", {}, auxiliary=VISA)
    write_run(tmp_path / "c", {"MPDD": 0.5})
    runs = read_runs([tmp_path])
    labels = {setting.setting.key: setting.label for setting in aggregate(runs)}
    rows = [[cell.shown for cell in row] for row in run_grid(runs, labels).body]
    said = "c0ffeec0ffee, with uncommitted changes"
    label = labels[runs[0].setting.key]
    assert rows[0] == [str(tmp_path / "a"), label, "train", "VisA", "4", "MPDD", "2025-01-02", said]
    assert rows[1] == [str(tmp_path / "b"), "", "train", "nothing", "", "", "", "unknown"]
    assert rows[2][3:6] == ["nothing", "", "MPDD"]
