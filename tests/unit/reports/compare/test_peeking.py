import json

import pytest

from afr_clip.metrics.average import METRICS, CategoryResult
from afr_clip.reports.compare.peeking import peeked, peeking_grid
from afr_clip.reports.compare.report import compare
from afr_clip.reports.record.results import EPOCHS, DatasetResult, write_epochs
from helpers.results import measured_in, source, write_run

VISA = source("VisA")


def write_peeked(folder, values, seed=0):
    """A run whose every epoch was scored on MPDD; the last value is the run's own."""
    write_run(folder, {"MPDD": values[-1]}, auxiliary=VISA, seed=seed)
    epochs = {}
    for epoch, value in enumerate(values, 1):
        rows = tuple(CategoryResult(name, dict.fromkeys(METRICS, value), 3, 4) for name in ("a", "b"))
        epochs[epoch] = DatasetResult("mpdd", rows, {})
    write_epochs(folder, epochs)


def test_the_last_epoch_stands_next_to_the_best_with_what_choosing_gains(tmp_path):
    write_peeked(tmp_path / "a", [0.5, 0.9, 0.8])
    records = peeked(measured_in(tmp_path))
    one = records[records.metric == "pixel_ap"].iloc[0]
    assert (one.last_epoch, one.best_epoch, one.num_epochs) == (3, 2, 3)
    assert [one["last"], one.best, one.difference] == pytest.approx([80, 90, 10])
    (row,) = peeking_grid(records).body
    assert [cell.shown for cell in row[:7]] == [
        "AFR-CLIP", "MPDD", "VisA", "0", "80.0", "90.0 (2 of 3)", "+10.0"
    ]  # fmt: skip


def test_an_undefined_epoch_is_never_the_best(tmp_path):
    write_peeked(tmp_path / "a", [float("nan"), 0.7, 0.8])
    assert set(peeked(measured_in(tmp_path)).best_epoch) == {3}


def test_the_best_epoch_enters_no_other_table(tmp_path):
    write_peeked(tmp_path / "run", [0.87654, 0.8])
    comparison = compare([tmp_path / "run"])
    page = comparison.write(tmp_path / "report").path.read_text()
    assert "Peeking, not results." in page
    for name in ("table1.csv", "table2.csv", "categories.csv", "pairwise.csv"):
        assert "87.654" not in (tmp_path / "report" / name).read_text()
    assert "87.654" in (tmp_path / "report" / "peeking.csv").read_text()


def test_without_such_runs_there_is_nothing(tmp_path):
    write_run(tmp_path / "run", {"MPDD": 0.5}, auxiliary=VISA)
    assert peeking_grid(peeked(measured_in(tmp_path))) is None
    compare([tmp_path / "run"]).write(tmp_path / "report")
    assert not (tmp_path / "report" / "peeking.csv").exists()
    assert "Peeking" not in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize("content", ["", '{"results": []}', '{"results": [{"epoch": "1"}]}'])
def test_a_damaged_record_is_left_out_and_named(tmp_path, content, caplog):
    write_peeked(tmp_path, [0.5])
    (tmp_path / EPOCHS).write_text(content)
    assert peeked(measured_in(tmp_path)).empty
    assert "is left out, because it cannot be read" in caplog.text


def test_undefined_values_are_null_in_the_record(tmp_path):
    write_peeked(tmp_path, [float("nan")])
    assert json.loads((tmp_path / EPOCHS).read_text())["results"][0]["value"] is None
