import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from afr_clip.processes.signals import EXIT_STOPPED, Stopped
from afr_clip.reports.record.run_folder import write_json
from afr_clip.sweep import cells
from afr_clip.sweep.cells import DONE, FAILED, LOCK, CellProcess, State, run_here, state_of, write_plan


@pytest.fixture
def started(cell, monkeypatch):
    """Start a cell whose training is a line of Python."""

    def start(source: str, environment: dict[str, str] | None = None) -> CellProcess:
        made = cell()
        write_plan(made)
        monkeypatch.setattr(CellProcess, "_command", lambda _self: [sys.executable, "-S", "-c", source])
        process = CellProcess.start(made.folder, environment or {})
        assert process is not None
        return process

    return start


def test_a_cell_is_done_once_its_process_ended_well_and_left_results(started, cell):
    process = started(f"import pathlib; pathlib.Path({str(cell().folder / 'results.json')!r}).write_text('{{}}')")
    assert process.finish() == State("done") == state_of(process.folder)
    assert json.loads((process.folder / DONE).read_text())["digest"] == "0123"


@pytest.mark.parametrize(
    ("source", "state"),
    [
        ("pass", State("failed", "The cell ended without results.json.")),
        (
            "import sys; sys.exit('much\\nerror: It must hold, and does not.')",
            State("failed", "It must hold, and does not."),
        ),
        ("import sys; sys.exit(3)", State("failed", "The process ended with exit code 3 and no message.")),
        ("import os; os.kill(os.getpid(), 9)", State("failed", "The process was ended by signal 9 (SIGKILL).")),
        (f"import sys; sys.exit({EXIT_STOPPED})", State("waiting")),
    ],
)
def test_how_a_cell_ended_is_marked_with_a_sentence(started, source, state, caplog):
    process = started(source)
    assert process.finish() == state
    assert state_of(process.folder) == state
    assert state.error is None or f"failed: {state.error}" in caplog.text
    assert not (process.folder / DONE).exists()


def test_only_what_this_attempt_said_is_its_tail(started):
    started("print('first'); raise SystemExit(1)").finish()
    again = started("print('second')")
    again.finish()
    assert again.tail() == "second"


def test_a_cell_gets_the_variables_of_its_own(started):
    process = started("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])", {"CUDA_VISIBLE_DEVICES": "3"})
    process.finish()
    assert process.tail() == "3"


def test_the_command_is_the_training_and_goes_on_where_there_is_something(cell, monkeypatch):
    made = cell()
    write_plan(made, ["num_threads=2"])
    commands = []
    monkeypatch.setattr(cells, "start_child", lambda command, *_args, **_options: commands.append(command))
    CellProcess.start(made.folder, {})
    (made.folder / "checkpoints").mkdir()
    CellProcess.start(made.folder, {})
    folder = str(made.folder.resolve())
    own = ["-m", "afr_clip.sweep.cells", folder, "train", *made.overrides, "num_threads=2", f"run_dir='{folder}'"]
    assert commands == [[sys.executable, *own], [sys.executable, *own, "resume=true"]]


def test_nobody_else_starts_a_cell_whose_training_still_runs_without_its_sweep(cell):
    made = cell()
    write_plan(made)
    holding = (
        "import runpy, sys, time\n"
        "runpy.run_module = lambda *_, **__: (print(sys.argv[1:], flush=True), time.sleep(60))\n"
        f"sys.argv = ['', {str(made.folder)!r}, 'train', 'seed=0']\n"
        f"exec(compile(open({cells.__file__!r}).read(), 'cells', 'exec'))"
    )
    orphan = subprocess.Popen([sys.executable, "-c", holding], stdout=subprocess.PIPE, text=True)
    assert orphan.stdout is not None
    assert orphan.stdout.readline() == "['seed=0']\n"
    assert CellProcess.start(made.folder, {}) is None
    orphan.kill()
    orphan.communicate()
    with cells.FileLock(made.folder / LOCK, timeout=0):
        pass


class Runner:
    """Pretends to run cells; each ends when it is asked a second time, as was said beforehand."""

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
        return Fake(self, folder, environment)


class Fake:
    def __init__(self, runner: Runner, folder: Path, environment) -> None:
        self.runner, self.folder, self.environment, self.polls = runner, folder, environment, 0

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


@pytest.fixture
def pretend(monkeypatch):
    """Pretend to run cells."""

    def make(*args) -> Runner:
        runner = Runner(*args)
        monkeypatch.setattr(CellProcess, "start", runner.start)
        monkeypatch.setattr(cells, "POLL_SECONDS", 0)
        return runner

    return make


@pytest.fixture
def folders(tmp_path):
    made = [tmp_path / name for name in "abcd"]
    for folder in made:
        folder.mkdir()
    return made


def test_cells_run_in_order_no_more_at_a_time_than_there_are_environments(folders, pretend):
    runner, ended = pretend({}), []
    run_here(folders, ({"GPU": "0"}, {"GPU": "1"}), lambda folder: ended.append((folder.name, state_of(folder).name)))
    assert (runner.started, runner.most) == (["a", "b", "c", "d"], 2)
    assert sorted(ended) == [(name, "done") for name in "abcd"]
    assert [environment["GPU"] for environment in runner.environments] == ["0", "1", "0", "1"]


def test_a_finished_cell_never_runs_again(folders, pretend):
    write_json(folders[1] / DONE, {})
    runner = pretend({})
    run_here(folders)
    run_here(folders)
    assert runner.started == ["a", "c", "d"]


def test_a_cell_that_an_orphan_still_runs_is_waited_for(folders, pretend, caplog):
    runner = pretend({}, {"a": 3})
    run_here(folders[:2])
    assert runner.started == ["b", "a"]
    assert caplog.text.count("still being run by an earlier sweep") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_all_running_cells_before_it_waits_for_any_and_is_said(folders, pretend, number):
    runner, before = pretend({}), signal.getsignal(number)
    runner.on_poll = lambda: os.kill(os.getpid(), number)
    with pytest.raises(Stopped) as stopped:
        run_here(folders, ({}, {}))
    assert str(stopped.value).startswith(f"Stopped by {number.name}.")
    assert runner.stopped == [("a", ["a", "b"]), ("b", ["a", "b"])]
    assert runner.started == ["a", "b"]
    assert signal.getsignal(number) == before
