import logging
from pathlib import Path

import pytest
from lightning.fabric.utilities.rank_zero import rank_zero_only

from afr_clip.training.loggers import MetricsCSV, closing_mirrors, has_mirror, log_figures, publish
from afr_clip.training.loggers.mirror import (
    Backend,
    Mirror,
    MissingPackageError,
    Picture,
    Published,
    RunFacts,
    read_id,
    require_package,
    write_id,
)


class Recorder(Backend):
    """Records what it is given, and fails where it is told to."""

    TITLE = "The recorder"
    ADVICE = " See {folder}."
    name = version = "recorder"

    def __init__(self, facts: RunFacts, calls: list, failing: str = "") -> None:
        self._calls, self._failing = calls, failing
        self._call("open")

    def _call(self, *what) -> None:
        self._calls.append(what)
        if what[0] == self._failing:
            msg = "no room"
            raise OSError(msg)

    def log_hyperparams(self, *args) -> None:
        raise AssertionError("the config is given when it opens")

    def log_metrics(self, metrics, step=None) -> None:
        self._call("metrics", dict(metrics), step)

    def log_pictures(self, key, pictures) -> None:
        self._call("pictures", key, [picture.path for picture in pictures])

    def publish(self, published) -> None:
        self._call("publish", published)

    def close(self, *, succeeded) -> None:
        self._call("close", succeeded)


@pytest.fixture
def calls() -> list[tuple]:
    return []


@pytest.fixture
def make(tmp_path, calls):
    """Make a mirror of a recorder that may fail."""
    return lambda failing="", **given: Mirror(
        Recorder, RunFacts(tmp_path, "train", {}), calls=calls, failing=failing, **given
    )


@pytest.fixture
def mirror(make) -> Mirror:
    return make()


def test_it_opens_with_the_first_thing_it_is_given(mirror, calls):
    assert calls == []
    mirror.log_metrics({"train/loss": 0.5}, 3)
    mirror.log_metrics({"train/loss": 0.4}, 4)
    assert calls == [("open",), ("metrics", {"train/loss": 0.5}, 3), ("metrics", {"train/loss": 0.4}, 4)]


def test_epochs_count_from_one_and_targets_come_after_the_finished_ones(make, calls):
    mirror = make(earlier=[({"train/loss_epoch": 0.5, "epoch": 0.0}, 2)])
    mirror.log_metrics({"train/loss_epoch": 0.4, "epoch": 1}, 4)
    mirror.log_metrics({"target/visa/pcb1/i_auroc": 0.9, "epoch": 2}, 4)
    assert [metrics["epoch"] for _, metrics, _ in calls[1:]] == [1, 2, 2]


def test_hyperparameters_are_left_to_the_config(mirror, calls):
    mirror.log_hyperparams({"lr": 1})
    assert calls == []


@pytest.mark.parametrize("failing", ["open", "metrics", "pictures", "publish", "close"])
def test_a_failure_is_logged_once_and_ends_no_run(make, tmp_path, calls, failing, caplog):
    mirror = make(failing)
    with caplog.at_level(logging.WARNING), closing_mirrors([mirror]):
        for step in range(2):
            mirror.log_metrics({"a": 1.0}, step)
            mirror.log_pictures("figures/a/b", [Picture(tmp_path / "b.png")])
            mirror.publish(Published())
    names = [what[0] for what in calls]
    assert mirror.is_lost
    assert names[-1] == failing
    assert names.count(failing) == 1
    (record,) = caplog.records
    assert "Logging to The recorder failed (OSError: no room). The run continues" in record.message
    assert record.message.endswith(f"See {tmp_path}.")


def test_an_interrupt_is_no_failure_of_a_mirror(mirror, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "log_metrics", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mirror.log_metrics({"a": 1.0}, 0)


def test_a_run_that_ends_well_is_closed_as_such(mirror, calls):
    with closing_mirrors([mirror]):
        mirror.log_metrics({"a": 1.0}, 0)
    assert calls[-1] == ("close", True)


def test_a_run_that_fails_is_closed_as_such(mirror, calls):
    mirror.log_metrics({"a": 1.0}, 0)
    with pytest.raises(ValueError, match="NaN"), closing_mirrors([mirror]):
        raise ValueError("NaN")
    assert calls[-1] == ("close", False)


def test_what_was_never_opened_is_not_closed(mirror, calls):
    with closing_mirrors([mirror]):
        pass
    assert calls == []


def test_only_the_first_of_several_processes_logs(mirror, calls, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with closing_mirrors([mirror]):
        mirror.log_metrics({"a": 1.0}, 0)
        mirror.log_pictures("a", [Picture(Path("b.png"))])
        mirror.publish(Published())
    assert calls == []


def test_figures_go_to_the_mirrors(mirror, calls, tmp_path):
    paths = [tmp_path / "highest.png", tmp_path / "lowest.png"]
    log_figures([MetricsCSV(tmp_path / "metrics.csv"), mirror], "visa", paths)
    assert calls[1:] == [("pictures", f"figures/visa/{path.stem}", [path]) for path in paths]


def test_a_finished_run_is_published_to_the_mirrors(mirror, calls):
    published = Published(means={"mean/visa/i_auroc": 0.75})
    publish([mirror], lambda: published)
    assert calls[-1] == ("publish", published)


def test_a_folder_is_read_only_for_a_mirror(tmp_path):
    csv = MetricsCSV(tmp_path / "metrics.csv")

    def read():
        raise AssertionError("nobody asked")

    publish([csv], read)
    assert not has_mirror([csv])


def test_an_id_is_kept(tmp_path):
    path = tmp_path / "id"
    assert read_id(path) is None
    assert write_id(path, "abc") == read_id(path) == "abc"


def test_a_missing_package_is_named_with_the_extra_that_has_it():
    require_package("json", "logger=json")
    with pytest.raises(MissingPackageError, match=r"logger=x needs .* nowhere.* pip install -e '\.\[dashboards\]'"):
        require_package("nowhere", "logger=x")
