import logging
from pathlib import Path

import pytest

from afr_clip.training.loggers import MetricsCSV, closing_mirrors, has_mirror, log_figures, publish
from afr_clip.training.loggers.mirror import (
    Mirror,
    MissingPackageError,
    RunFacts,
    keep_id,
    kept_id,
    new_id,
    require_package,
)
from afr_clip.training.loggers.published import Published, ResultRow


class Recorder(Mirror):
    """Writes down what it is told, and fails where it is told to."""

    TITLE = "The recorder"

    def __init__(self, folder: Path, failing: str = "") -> None:
        super().__init__(RunFacts(folder, "train", {}))
        self.told: list[tuple] = []
        self._failing = failing

    @property
    def name(self) -> str:
        return "recorder"

    def _tell(self, *what) -> None:
        self.told.append(what)
        if what[0] == self._failing:
            msg = "no room"
            raise OSError(msg)

    def _open(self) -> None:
        self._tell("open")

    def _send_metrics(self, metrics, step) -> None:
        self._tell("metrics", dict(metrics), step)

    def _send_picture(self, key, path, step) -> None:
        self._tell("picture", key, path, step)

    def _publish(self, published, means) -> None:
        self._tell("publish", dict(means))

    def _close(self, succeeded) -> None:
        self._tell("close", succeeded)


@pytest.fixture
def mirror(tmp_path):
    return Recorder(tmp_path)


def test_it_opens_with_the_first_thing_it_is_given(mirror):
    assert mirror.told == []
    mirror.log_metrics({"train/loss": 0.5}, 3)
    mirror.log_metrics({"train/loss": 0.4}, 4)
    assert mirror.told == [("open",), ("metrics", {"train/loss": 0.5}, 3), ("metrics", {"train/loss": 0.4}, 4)]


def test_hyperparameters_are_left_to_the_config(mirror):
    mirror.log_hyperparams({"lr": 1})
    assert mirror.told == []


@pytest.mark.parametrize("failing", ["open", "metrics", "picture", "publish", "close"])
def test_what_fails_is_said_once_and_ends_no_run(tmp_path, failing, caplog):
    mirror = Recorder(tmp_path, failing)
    with caplog.at_level(logging.WARNING), closing_mirrors([mirror]):
        for step in range(2):
            mirror.log_metrics({"a": 1.0}, step)
            mirror.log_picture("figures/a/b", tmp_path / "b.png")
            mirror.publish(Published())
    told = [what[0] for what in mirror.told]
    assert mirror.is_lost
    assert told[-1] == failing
    assert told.count(failing) == 1
    (record,) = caplog.records
    assert "The recorder failed (OSError: no room)" in record.message
    assert str(tmp_path) in record.message


def test_an_interrupt_is_no_failure_of_a_mirror(mirror, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(mirror, "_send_metrics", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mirror.log_metrics({"a": 1.0}, 0)


def test_a_run_that_ends_well_is_closed_as_such(mirror):
    with closing_mirrors([mirror]):
        mirror.log_metrics({"a": 1.0}, 0)
    assert mirror.told[-1] == ("close", True)


def test_a_run_that_fails_is_closed_as_such(mirror):
    mirror.log_metrics({"a": 1.0}, 0)
    with pytest.raises(ValueError, match="NaN"), closing_mirrors([mirror]):
        raise ValueError("NaN")
    assert mirror.told[-1] == ("close", False)


def test_what_was_never_opened_is_not_closed(mirror):
    with closing_mirrors([mirror]):
        pass
    assert mirror.told == []


def test_only_the_first_of_several_processes_speaks(mirror, monkeypatch):
    from lightning.fabric.utilities.rank_zero import rank_zero_only  # noqa: PLC0415

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with closing_mirrors([mirror]):
        mirror.log_metrics({"a": 1.0}, 0)
        mirror.log_picture("a", Path("b.png"))
        mirror.publish(Published())
    assert mirror.told == []


def test_pictures_go_to_the_mirrors(mirror, tmp_path):
    paths = [tmp_path / "highest.png", tmp_path / "lowest.png"]
    log_figures([MetricsCSV(tmp_path / "metrics.csv"), mirror], "visa", paths, step=3)
    assert mirror.told[1:] == [("picture", f"figures/visa/{path.stem}", path, 3) for path in paths]


def test_macro_averages_get_keys_of_their_own(mirror):
    row = ResultRow("visa", "pcb1", {"image_auroc": 0.5}, 3, 4, is_mean=False)
    mean = ResultRow("visa", "mean", {"image_auroc": 0.75, "pixel_ap": None}, 3, 4, is_mean=True)
    publish([mirror], lambda: Published(rows=[row, mean]))
    assert mirror.told[-1] == ("publish", {"mean/visa/i_auroc": 0.75})


def test_a_folder_is_read_only_for_a_mirror(tmp_path):
    csv = MetricsCSV(tmp_path / "metrics.csv")

    def read():
        raise AssertionError("nobody asked")

    publish([csv], read)
    assert not has_mirror([csv])


def test_an_id_is_kept(tmp_path):
    path = tmp_path / "id"
    assert kept_id(path) is None
    assert keep_id(path, "abc") == kept_id(path) == "abc"
    assert new_id() != new_id()


def test_a_missing_package_is_named_with_the_extra_that_has_it():
    require_package("json", "logger=json")
    with pytest.raises(MissingPackageError, match=r"logger=x needs .* nowhere.* pip install -e '\.\[dashboards\]'"):
        require_package("nowhere", "logger=x")
