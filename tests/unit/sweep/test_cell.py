import fcntl
import json
import subprocess
import sys
import time

import pytest

from afr_clip.processes.signals import EXIT_STOPPED
from afr_clip.sweep import cell as cells
from afr_clip.sweep.cell import DONE, WAITING, CellProcess, State, state_of, write_plan


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


RESULTS = "import json, pathlib, sys; pathlib.Path({path!r}).write_text('{{}}')"


def test_a_cell_is_done_once_its_process_ended_well_and_left_results(started, cell):
    process = started(RESULTS.format(path=str(cell().folder / "results.json")))
    assert process.finish() == State("done") == state_of(process.folder)
    assert json.loads((process.folder / DONE).read_text())["digest"] == "0123"
    assert CellProcess.start(process.folder, {}) is None  # nobody starts what is done


@pytest.mark.parametrize(
    ("source", "state"),
    [
        ("pass", State("failed", "The cell ended without results.json.")),
        (
            "import sys; sys.exit('much\\nerror: It must hold, and does not.')",
            State("failed", "It must hold, and does not."),
        ),
        ("import sys; sys.exit(3)", State("failed", "The process ended with exit code 3 and said nothing.")),
        ("import os; os.kill(os.getpid(), 9)", State("failed", "The process was ended by signal 9 (SIGKILL).")),
        (f"import sys; sys.exit({EXIT_STOPPED})", WAITING),
    ],
)
def test_how_a_cell_ended_is_marked_with_a_sentence(started, source, state):
    process = started(source)
    assert process.finish() == state
    assert state_of(process.folder) == state
    assert not (process.folder / DONE).exists()


def test_only_what_this_attempt_said_is_its_tail(started):
    process = started("print('first'); raise SystemExit(1)")
    process.finish()
    again = started("print('second')")
    again.finish()
    assert again.tail() == "second"


def test_a_cell_gets_the_variables_of_its_own(started):
    process = started("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])", {"CUDA_VISIBLE_DEVICES": "3"})
    process.finish()
    assert process.tail() == "3"


def test_nobody_else_starts_a_cell_that_is_run_and_its_orphan_keeps_it(started):
    process = started("import time; time.sleep(60)")
    assert CellProcess.start(process.folder, {}) is None
    process._lock.close()  # as where the sweep is gone, and the cell is not
    assert CellProcess.start(process.folder, {}) is None
    process.ask_to_stop()
    process.stop()
    with (process.folder / cells.LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_command_is_the_training_and_goes_on_where_there_is_something(cell, monkeypatch):
    made = cell()
    write_plan(made, ["num_threads=2"])
    ended = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    monkeypatch.setattr(cells.subprocess, "Popen", lambda *_args, **_kwargs: ended)
    with (made.folder / "lock").open("ab") as lock:
        first = CellProcess(made.folder, lock, {})._command()
        (made.folder / "checkpoints").mkdir()
        second = CellProcess(made.folder, lock, {})._command()
    ended.wait()
    own = ["-m", "afr_clip.train", *made.overrides, "num_threads=2", f"run_dir='{made.folder.resolve()}'"]
    assert first[-len(own) :] == own
    assert second == [*first, "resume=true"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_a_cell_ends_with_the_sweep_that_started_it(tmp_path):
    child = "import time; print('up', flush=True); time.sleep(60)"
    source = (
        "import os, signal, subprocess, sys\n"
        f"command = [sys.executable, '-S', '-c', {cells._END_WITH_PARENT!r}, str(os.getpid()), '-S', '-c', {child!r}]\n"
        "process = subprocess.Popen(command, stdout=subprocess.PIPE)\n"
        "process.stdout.readline()\n"
        "print(process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    for _ in range(100):
        if not is_alive(int(done.stdout)):
            return
        time.sleep(0.05)
    pytest.fail("the cell outlived its sweep")


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().split()[2] != "Z"
    except OSError:
        return False
