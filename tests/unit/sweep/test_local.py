import os
import signal
from pathlib import Path

import pytest

from afr_clip.processes.signals import Stopped
from afr_clip.reports.record.run_folder import write_json
from afr_clip.sweep import local
from afr_clip.sweep.cell import DONE, FAILED, State, state_of
from afr_clip.sweep.launch import run_cells
from afr_clip.sweep.local import run_here


class Runner:
    """Pretends to run cells; each ends when it is first asked, as was said beforehand."""

    def __init__(self, endings: dict[str, list[str]], busy: dict[str, int] | None = None) -> None:
        self.endings, self.busy = endings, busy or {}
        self.started: list[str] = []
        self.environments: list[dict[str, str]] = []
        self.running: set[str] = set()
        self.most = 0
        self.asked: list[str] = []
        self.stopped: list[tuple[str, list[str]]] = []
        self.on_poll = lambda: None

    def start(self, folder: Path, environment):
        if self.busy.get(folder.name, 0):
            self.busy[folder.name] -= 1
            return None
        self.started.append(folder.name)
        self.environments.append(dict(environment))
        self.running.add(folder.name)
        self.most = max(self.most, len(self.running))
        return Fake(self, folder)


class Fake:
    def __init__(self, runner: Runner, folder: Path) -> None:
        self.runner, self.folder, self.polls = runner, folder, 0

    def ended(self) -> bool:
        self.runner.on_poll()
        self.polls += 1
        return self.polls > 1

    def finish(self) -> State:
        self.runner.running.discard(self.folder.name)
        ending = self.runner.endings.get(self.folder.name, ["done"])
        state = ending.pop(0) if ending else "done"
        (self.folder / FAILED).unlink(missing_ok=True)
        if state != "waiting":
            write_json(self.folder / {"done": DONE, "failed": FAILED}[state], {"error": "It failed."})
        return state_of(self.folder)

    def ask_to_stop(self) -> None:
        self.runner.asked.append(self.folder.name)

    def stop(self) -> None:
        self.runner.stopped.append((self.folder.name, [*self.runner.asked]))

    def tail(self) -> str:
        return "the end of its log"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(local, "POLL_SECONDS", 0)


@pytest.fixture
def folders(tmp_path):
    made = [tmp_path / name for name in "abcd"]
    for folder in made:
        folder.mkdir()
    return made


def test_cells_run_in_order_no_more_at_a_time_than_there_are_environments(folders):
    runner, heard = Runner({}), []
    gpus = ({"GPU": "0"}, {"GPU": "1"})
    run_here(folders, gpus, lambda folder, state: heard.append((folder.name, state.name)), runner.start)
    assert (runner.started, runner.most) == (["a", "b", "c", "d"], 2)
    assert sorted(heard) == [(name, "done") for name in "abcd"]
    assert [environment["GPU"] for environment in runner.environments] == ["0", "1", "0", "1"]


def test_a_finished_cell_never_runs_again(folders):
    write_json(folders[1] / DONE, {})
    runner = Runner({})
    run_here(folders, start=runner.start)
    run_here(folders, start=runner.start)
    assert runner.started == ["a", "c", "d"]


def test_a_cell_that_an_orphan_still_runs_is_waited_for(folders, caplog):
    runner = Runner({}, busy={"a": 3})
    run_here(folders[:2], start=runner.start)
    assert runner.started == ["b", "a"]
    assert caplog.text.count("still being run by an earlier sweep") == 1


def test_what_failed_is_tried_once_more_and_the_others_go_on(folders, caplog):
    runner = Runner({"a": ["failed"], "b": ["failed", "failed", "done"], "c": ["waiting"]})
    run_cells(folders, lambda wanted: run_here(wanted, start=runner.start))
    assert runner.started == ["a", "b", "c", "d", "a", "b"]
    assert [state_of(folder).name for folder in folders] == ["done", "failed", "waiting", "done"]
    assert "the end of its log" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_all_running_cells_before_it_waits_for_any_and_is_said(folders, number):
    runner, before = Runner({}), signal.getsignal(number)
    runner.on_poll = lambda: os.kill(os.getpid(), number)
    with pytest.raises(Stopped) as stopped:
        run_here(folders, ({}, {}), start=runner.start)
    assert str(stopped.value).startswith(f"Stopped by {number.name}.")
    assert runner.stopped == [("a", ["a", "b"]), ("b", ["a", "b"])]
    assert runner.started == ["a", "b"]
    assert signal.getsignal(number) == before
