import csv
import math

import pytest
from lightning.pytorch.loggers import WandbLogger

from afr_clip.training import loggers
from afr_clip.training.loggers import MetricsCSV, build_wandb, close_loggers, log_figures


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


@pytest.fixture
def wandb_arguments(monkeypatch, tmp_path):
    """Build the logger on a machine that has a key, a network and `WANDB_MODE`, or not; return what it was given."""

    def build(*, key: bool, network: bool, mode: str | None = None) -> dict:
        given: list[dict] = []

        class Recorder(WandbLogger):
            def __init__(self, **arguments) -> None:
                given.append(arguments)

        monkeypatch.setattr(loggers, "WandbLogger", Recorder)
        monkeypatch.setattr(loggers, "_has_api_key", lambda host: key)
        monkeypatch.setattr(loggers, "_reaches", lambda host: network and host == "api.wandb.ai")
        monkeypatch.setenv("WANDB_MODE", "")
        monkeypatch.delenv("WANDB_MODE")
        if mode is not None:
            monkeypatch.setenv("WANDB_MODE", mode)
        build_wandb(tmp_path / "my_run", project="afr-clip", entity=None, group="sweep", tags=("a", "b"))
        return given[0]

    return build


@pytest.mark.parametrize(("key", "network"), [(True, True), (True, False), (False, True), (False, False)])
def test_without_key_or_network_nothing_is_sent(wandb_arguments, key, network):
    assert wandb_arguments(key=key, network=network)["offline"] is not (key and network)


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_the_mode_of_the_environment_wins(wandb_arguments, mode):
    assert wandb_arguments(key=False, network=False, mode=mode)["offline"] is False


def test_the_run_is_named_after_its_folder_and_lies_in_it(wandb_arguments, tmp_path):
    given = wandb_arguments(key=True, network=True)
    del given["offline"]
    folder = str(tmp_path / "my_run")
    rest = {"project": "afr-clip", "entity": None, "group": "sweep", "tags": ["a", "b"]}
    assert given == {"name": "my_run", "save_dir": folder, **rest}


def test_a_key_may_lie_in_the_environment(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert loggers._has_api_key("api.wandb.ai")


@pytest.mark.parametrize(("error", "expected"), [(None, True), (OSError, False), (TimeoutError, False)])
def test_the_network_is_asked_once_and_not_for_long(monkeypatch, error, expected):
    asked = []

    class Connection:
        def __enter__(self):
            return self

        def __exit__(self, *args):
            asked.append("closed")

    def connect(address, timeout):
        asked.append((address, timeout))
        if error:
            raise error
        return Connection()

    monkeypatch.setattr(loggers.socket, "create_connection", connect)
    assert loggers._reaches("api.wandb.ai") is expected
    assert asked == [(("api.wandb.ai", 443), 3.0), *(["closed"] if expected else [])]


def test_pictures_go_to_those_who_take_them(tmp_path):
    sent = []

    class Pictures(WandbLogger):
        def __init__(self) -> None:
            pass

        def log_image(self, key, images, step=None):
            sent.append((key, images, step))

    paths = [tmp_path / "highest.png", tmp_path / "lowest.png"]
    log_figures([MetricsCSV(tmp_path / "metrics.csv"), Pictures()], "visa", paths, step=3)
    assert sent == [(f"figures/visa/{path.stem}", [str(path)], 3) for path in paths]


def test_what_stays_open_is_closed(tmp_path):
    finished = []

    class Run:
        def finish(self):
            finished.append(self)

    class Open(WandbLogger):
        experiment = Run()

        def __init__(self) -> None:
            pass

    close_loggers([MetricsCSV(tmp_path / "metrics.csv"), Open()])
    assert finished == [Open.experiment]
