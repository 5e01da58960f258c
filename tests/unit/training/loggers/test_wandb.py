import os
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from afr_clip.training.loggers import wandb as loggers
from afr_clip.training.loggers.mirror import Mirror, Picture, Published, RunFacts
from afr_clip.training.loggers.wandb import Wandb, data_dir_in, masks_of


@pytest.mark.parametrize(
    ("key", "network", "wanted", "expected"),
    [
        (True, True, "", "online"),
        (True, False, "", "offline"),
        (False, True, "", "offline"),
        (False, False, "", "offline"),
        *[(False, False, wanted, None) for wanted in ("online", "offline", "disabled")],  # the environment decides
    ],
)
def test_without_key_or_network_the_mode_is_offline(monkeypatch, key, network, wanted, expected):
    monkeypatch.setattr(loggers, "has_api_key", lambda: key)
    monkeypatch.setattr(loggers, "reaches_server", lambda: network)
    monkeypatch.setenv("WANDB_MODE", wanted)
    assert loggers.wandb_mode() == expected


def test_a_key_may_lie_in_the_environment(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert loggers.has_api_key()


@pytest.mark.parametrize(("error", "expected"), [(None, True), (OSError, False), (TimeoutError, False)])
@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://api.wandb.ai", ("api.wandb.ai", 443)),
        ("http://wandb.lab", ("wandb.lab", 80)),
        ("http://localhost:8080", ("localhost", 8080)),
    ],
)
def test_the_server_is_asked_once_and_not_for_long(monkeypatch, url, server, error, expected):
    asked = []

    def connect(address, timeout):
        asked.append((address, timeout))
        if error:
            raise error
        return closing(SimpleNamespace(close=lambda: asked.append("closed")))

    monkeypatch.setattr(loggers.socket, "create_connection", connect)
    monkeypatch.setattr(loggers, "getproxies", dict)
    monkeypatch.setenv("WANDB_BASE_URL", url)
    assert loggers.reaches_server() is expected
    assert asked == [(server, 3.0), *(["closed"] if expected else [])]


class Run:
    """Stands for a run of W&B; keeps what it is given."""

    id = "abc"

    def __init__(self, **given) -> None:
        self.given = given
        self.logged: list[dict] = []
        self.axes: dict[str, str | None] = {}
        self.log = self.logged.append
        self.finished: list[int] = []

    def define_metric(self, name, step_metric=None, hidden=None) -> None:
        self.axes[name] = step_metric

    def finish(self, exit_code) -> None:
        self.finished.append(exit_code)


@pytest.fixture
def runs(monkeypatch) -> list[Run]:
    """Replace `wandb.init`; the runs it returned."""
    import wandb  # noqa: PLC0415

    runs: list[Run] = []

    def init(**given) -> Run:
        runs.append(Run(**given))
        return runs[-1]

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return runs


def facts(folder) -> RunFacts:
    return RunFacts(folder, "train", {"seed": 3, "manifest": {"commit": {"hash": "c0ffee", "dirty": True}}}, ("a", "b"))


def test_a_run_is_named_after_its_folder_and_lies_in_it(runs, tmp_path):
    mirror = Mirror(Wandb, facts(tmp_path / "my_run"), project="afr-clip", entity="us", group="table3")
    mirror.log_metrics({"train/loss_epoch": 0.5, "epoch": 0}, 7)
    mirror.close(succeeded=False)
    (run,) = runs
    given = run.given
    settings = given.pop("settings")
    assert (settings.console, settings.git_commit) == ("off", "c0ffee")
    assert given.pop("id") == (tmp_path / "my_run" / "wandb_run_id").read_text().strip()
    assert given.pop("config")["seed"] == 3
    assert given == {
        "dir": str(tmp_path / "my_run"),
        "resume": "allow",
        "name": "my_run",
        "mode": None,
        "job_type": "train",
        "tags": ["a", "b"],
        "allow_val_change": True,
        "reinit": "create_new",
        "project": "afr-clip",
        "entity": "us",
        "group": "table3",
    }
    assert run.logged == [{"train/loss_epoch": 0.5, "epoch": 1, "trainer/global_step": 7}]
    assert run.finished == [1]


def test_values_go_against_epochs_and_steps_not_calls(runs, tmp_path):
    Mirror(Wandb, facts(tmp_path), project="p").log_metrics({}, 0)
    (run,) = runs
    assert run.axes["train/*"] == run.axes["target/*"] == run.axes["mean/*"] == "epoch"
    assert run.axes["train/loss_step"] == "trainer/global_step"


def test_a_resumed_run_sends_what_was_logged_before_first(runs, tmp_path):
    earlier = [({"train/loss_epoch": 0.5, "epoch": 0.0}, 3)]
    Mirror(Wandb, facts(tmp_path), project="p", earlier=earlier).log_metrics({"train/loss_epoch": 0.4, "epoch": 1.0}, 6)
    steps = [values["trainer/global_step"] for values in runs[0].logged]
    assert steps == [3, 6]


def test_a_folder_has_one_run(runs, tmp_path):
    for _ in range(2):
        Mirror(Wandb, facts(tmp_path), project="p").log_metrics({}, 0)
    first, second = runs
    assert first.given["id"] == second.given["id"]


@pytest.fixture
def heat_map(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(np.repeat(ramp[..., None], 3, axis=2)).save(tmp_path / "image.png")
    Image.fromarray(ramp).save(tmp_path / "map.png")
    Image.fromarray((ramp >= 128).astype(np.uint8) * np.uint8(255)).save(tmp_path / "truth.png")
    paths = [tmp_path / f"{name}.png" for name in ("image", "truth", "map")]
    return Picture(paths[0], "a caption", *paths[1:], lowest=0.25, highest=0.75)


def test_a_map_is_shown_in_equal_steps_of_probability(heat_map):
    masks = masks_of(heat_map)
    steps, labels = masks["anomaly_map"]["mask_data"], masks["anomaly_map"]["class_labels"]
    assert np.bincount(steps.ravel()).tolist() == [32] * 8
    assert (steps[0, 0], steps[-1, -1]) == (0, 7)
    assert (labels[0], labels[7]) == ("0.250 to 0.312", "0.688 to 0.750")
    assert np.array_equal(masks["truth"]["mask_data"], (np.arange(256) >= 128).reshape(16, 16))


@pytest.mark.parametrize(("lowest", "highest"), [(0.5, 0.5004), (0.5, 0.5), (0.0, 1.0)])
def test_steps_have_labels_of_their_own_however_flat_a_map_is(heat_map, lowest, highest):
    masks = masks_of(replace(heat_map, truth=None, lowest=lowest, highest=highest))
    assert masks.keys() == {"anomaly_map"}
    labels = masks["anomaly_map"]["class_labels"]
    assert len(labels) == 8
    if lowest < highest:
        assert len(set(labels.values())) == 8


def test_a_picture_lies_under_its_truth_and_its_map(runs, heat_map, tmp_path):
    mirror = Mirror(Wandb, facts(tmp_path), project="p")
    mirror.log_pictures("heat_maps/visa/highest", [heat_map, Picture(heat_map.path)])
    (logged,) = runs[0].logged
    shown, plain = logged["heat_maps/visa/highest"]
    assert (shown._caption, plain._caption) == ("a caption", None)
    assert shown._masks.keys() == {"truth", "anomaly_map"}
    assert not plain._masks


def test_files_to_upload_lie_in_the_run_folder_unless_the_user_says_where(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    with data_dir_in(tmp_path):
        assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "wandb" / "data")
    assert "WANDB_DATA_DIR" not in os.environ
    monkeypatch.setenv("WANDB_DATA_DIR", "/elsewhere")
    with data_dir_in(tmp_path):
        assert os.environ["WANDB_DATA_DIR"] == "/elsewhere"


def test_a_service_that_dies_does_not_end_the_run(runs, tmp_path, monkeypatch, caplog):
    import wandb  # noqa: PLC0415

    let_go: list[int] = []

    def teardown(exit_code: int) -> None:
        let_go.append(exit_code)

    monkeypatch.setattr(wandb, "teardown", teardown)
    mirror = Mirror(Wandb, facts(tmp_path), project="p")
    mirror.log_metrics({"a": 1.0}, 0)

    def gone(values):
        raise BrokenPipeError("service gone")

    monkeypatch.setattr(runs[0], "log", gone)
    for step in range(3):
        mirror.log_metrics({"a": 1.0}, step)
    mirror.publish(Published())
    assert mirror.is_lost
    assert let_go == [1]
    (record,) = caplog.records
    assert f"python -m afr_clip.dashboard rebuild {tmp_path}" in record.message
