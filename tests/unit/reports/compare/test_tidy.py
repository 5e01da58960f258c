import csv
import importlib.util

import pandas as pd
import pytest

from afr_clip.reports.compare import tidy as module
from afr_clip.reports.compare.tidy import NoParquetError, tidy, write_values
from helpers.results import measured_in, source, write_run

VISA = source("VisA")


@pytest.fixture
def measured(tmp_path):
    cost = {"mpdd": {"milliseconds_per_image": 40.0, "peak_memory_mib": None, "device": "cpu", "threads": 2,
                     "batch_size": 4, "image_size": 518}}  # fmt: skip
    for seed in (0, 1):
        write_run(tmp_path / f"trained_{seed}", {"MPDD": 0.5, "BTAD": 0.25}, auxiliary=VISA, seed=seed, cost=cost)
    write_run(tmp_path / "free", {"MPDD": 0.75})
    return measured_in(tmp_path)


def test_there_is_a_row_for_each_run_dataset_category_and_metric(measured):
    table = tidy([measured, measured])
    assert len(table) == 7 * (2 * (6 + 1 + 3 + 1) + (6 + 1))
    assert not table.duplicated(["run", "dataset", "category", "metric", "is_mean"]).any()
    trained = table[(table.seed == 1) & (table.dataset == "MPDD") & (table.is_mean == 1)]
    assert set(trained.value) == {50.0}
    assert set(trained.milliseconds_per_image) == {40.0}
    assert table[table.seed == 0].milliseconds_per_image.isna().any()  # of BTAD nothing was recorded
    assert table[table.trained_on == "nothing"].seed.isna().all()


def test_the_csv_reads_back_as_it_was(measured, tmp_path):
    write_values([measured], tmp_path / "out")
    with (tmp_path / "out" / "values.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(tidy([measured]))
    assert {row["seed"] for row in rows} == {"", "0", "1"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"values.csv"}


def test_without_measurements_there_are_columns_alone(tmp_path):
    write_values([], tmp_path)
    assert (tmp_path / "values.csv").read_text().startswith("run,setting,method,")


def test_parquet_holds_the_same_table(measured, tmp_path):
    pytest.importorskip("pyarrow")
    write_values([measured], tmp_path / "out", with_parquet=True)
    read = pd.read_parquet(tmp_path / "out" / "values.parquet")
    assert list(read.columns) == list(tidy([measured]).columns)
    assert read.value.tolist() == tidy([measured]).value.tolist()
    assert read.seed.isna().sum() == tidy([measured]).seed.isna().sum()


def test_parquet_without_its_package_is_refused_in_a_sentence(measured, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find_spec(name))
    with pytest.raises(NoParquetError, match=r"needs the package pyarrow.* Run pip install"):
        write_values([measured], tmp_path / "out", with_parquet=True)
