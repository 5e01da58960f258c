import csv
import math

import pytest

from afr_clip.training.loggers import MetricsCSV
from afr_clip.training.loggers.metrics_csv import read_metrics


def read(path) -> list[tuple[str, ...]]:
    with path.open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


HEADER = ("epoch", "step", "metric", "value")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.csv"


@pytest.fixture
def three_steps(path):
    """A file of two epochs with two steps each."""
    logger = MetricsCSV(path)
    for step in range(4):
        logger.log_metrics({"train/loss": 1 / (step + 3), "epoch": step // 2}, step)
    return path


def test_every_value_is_a_row_and_the_epoch_a_column(path):
    logger = MetricsCSV(path)
    logger.log_metrics({"train/loss": 0.5, "train/lr": 0.001, "epoch": 3}, step=17)
    logger.log_metrics({"target/visa/pcb1/i_auroc": 1.0})
    assert read(path) == [
        HEADER,
        ("3", "17", "train/loss", "0.5"),
        ("3", "17", "train/lr", "0.001"),
        ("", "0", "target/visa/pcb1/i_auroc", "1.0"),
    ]


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-300, 2.5e17, math.pi, math.nan, math.inf, -0.0])
def test_values_come_back_as_they_went(path, value):
    MetricsCSV(path).log_metrics({"a": value}, 1)
    assert repr(float(read(path)[1][3])) == repr(value)


def test_a_file_is_continued_where_nothing_is_to_be_dropped(three_steps):
    before = read(three_steps)
    MetricsCSV(three_steps).log_metrics({"a": 1.0, "epoch": 2}, 4)
    assert read(three_steps) == [*before, ("2", "4", "a", "1.0")]


@pytest.mark.parametrize("step", [0, 2, 4, 9])
def test_what_a_resumed_training_logs_again_is_dropped(three_steps, step):
    before = read(three_steps)
    MetricsCSV(three_steps, drop_from_step=step)
    assert read(three_steps) == [HEADER, *(row for row in before[1:] if int(row[1]) < step)]


def test_targets_are_scored_again_after_a_resumed_training(three_steps):
    before = read(three_steps)
    MetricsCSV(three_steps).log_metrics({"target/visa/pcb1/i_auroc": 0.5, "epoch": 0}, 0)
    MetricsCSV(three_steps, drop_from_step=4)
    assert read(three_steps) == before


def test_targets_that_are_not_scored_again_keep_their_rows(three_steps):
    logger = MetricsCSV(three_steps)
    for name in ("visa", "visa_too", "mpdd"):
        logger.log_metrics({f"target/{name}/pcb1/i_auroc": 0.5, "epoch": 2}, 4)
    before = read(three_steps)
    MetricsCSV(three_steps, drop_from_step=4, kept_targets=["visa", "mpdd"])
    assert read(three_steps) == [row for row in before if "visa_too" not in row[2]]


@pytest.mark.parametrize("half", ["1,2,tra", "1,2,train/loss,0.1", "1,2,train/loss,", "1", '1,2,"train'])
def test_a_half_written_last_line_is_dropped(three_steps, half):
    before = read(three_steps)
    with three_steps.open("a", newline="") as file:
        file.write(half)
    MetricsCSV(three_steps, drop_from_step=4).log_metrics({"a": 1.0, "epoch": 2}, 4)
    assert read(three_steps) == [*before, ("2", "4", "a", "1.0")]


def test_a_file_begins_anew_where_there_is_none_to_resume(path):
    MetricsCSV(path, drop_from_step=5)
    assert read(path) == [HEADER]


def test_hyperparameters_are_left_to_the_run_folder(three_steps):
    before = three_steps.read_bytes()
    logger = MetricsCSV(three_steps)
    logger.log_hyperparams({"lr": 1})
    assert (three_steps.read_bytes(), logger.name, logger.version) == (before, "csv", "")


def test_the_record_is_read_as_it_was_logged(tmp_path):
    log = MetricsCSV(tmp_path / "metrics.csv")
    logged = [
        ({"train/loss_step": 0.5, "epoch": 0.0}, 1),
        ({"train/loss_epoch": 0.4, "train/lr": 0.1, "epoch": 0.0}, 2),
        ({"target/visa/a/i_auroc": 0.5}, 2),
        ({"target/visa/a/i_auroc": 0.6}, 2),
    ]
    for values, step in logged:
        log.log_metrics(values, step)
    assert list(read_metrics(tmp_path / "metrics.csv")) == logged
    assert list(read_metrics(tmp_path / "none.csv")) == []
