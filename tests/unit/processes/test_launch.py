import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from afr_clip.processes.launch import Member, World, _faults, _watch
from afr_clip.processes.signals import LOST, SENTENCE_FILE, SpokenExit

MEETING = {"NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
STARTED = {"RANK": "1", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("world", "environment"),
    [
        (World(1), {}),
        (World(2), {}),
        (World(2, num_nodes=2, has_run_dir=True), MEETING),
        (World(2, num_nodes=2, has_run_dir=True), STARTED),
        (World(4, has_run_dir=True), STARTED),
        (World(4), STARTED | {SENTENCE_FILE: "by launch itself"}),
    ],
)
def test_what_was_asked_for_can_be_started(world, environment):
    assert list(_faults(world, environment)) == []


@pytest.mark.parametrize(
    ("world", "environment", "sentence"),
    [
        (World(1), STARTED, "must equal the number of processes that were started, 4, got trainer.devices=1"),
        (World(4), STARTED, "run_dir must be given where processes are started one by one"),
        (World(1, num_nodes=2), MEETING, "run_dir must be given where processes are started one by one"),
        (World(1, num_nodes=2, has_run_dir=True), {"NODE_RANK": "0"}, "but lacks MASTER_ADDR, MASTER_PORT"),
    ],
)
def test_what_cannot_be_started_is_said(world, environment, sentence):
    (fault,) = _faults(world, environment)
    assert sentence in fault


def member(rank: int, tmp_path: Path, source: str, sentence: str | None = None) -> Member:
    file = tmp_path / str(rank)
    if sentence is not None:
        file.write_text(sentence)
    return Member(rank, subprocess.Popen([sys.executable, "-S", "-c", source]), file)


FOREVER = "import time; time.sleep(600)"


def test_where_all_end_well_nothing_is_said(tmp_path, capsys):
    _watch([member(rank, tmp_path, "") for rank in range(3)])
    assert capsys.readouterr() == ("", "")


def test_the_first_failure_ends_all(tmp_path, capsys):
    others = member(1, tmp_path, FOREVER)
    with pytest.raises(SpokenExit) as end:
        _watch([member(0, tmp_path, "raise SystemExit(3)", "It broke."), others])
    assert (end.value.code, capsys.readouterr().err) == (3, "error: It broke.\n")
    assert others.code == -signal.SIGTERM


def test_who_still_saves_when_another_one_has_stopped_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("afr_clip.processes.launch.GRACE", 0.2)
    saving = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(2)"
    process = subprocess.Popen([sys.executable, "-S", "-c", saving], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(SpokenExit) as end:
        _watch([member(0, tmp_path, "raise SystemExit(75)", "Stopped."), Member(1, process, tmp_path / "1")])
    process.stdout.close()
    assert (end.value.code, process.returncode) == (75, 0)


def test_a_process_that_only_lost_another_one_does_not_speak_for_it(tmp_path, capsys):
    slow = member(1, tmp_path, "import time; time.sleep(0.5); raise SystemExit(1)", "The cause.")
    with pytest.raises(SpokenExit):
        _watch([member(0, tmp_path, "raise SystemExit(1)", f"{LOST}."), slow])
    assert capsys.readouterr().err == "error: The cause.\n"


def test_a_killed_process_is_said_to_be_killed(tmp_path, capsys):
    with pytest.raises(SpokenExit) as end:
        _watch([member(0, tmp_path, "import os; os.kill(os.getpid(), 9)"), member(1, tmp_path, FOREVER)])
    assert end.value.code == 1
    assert "Process 0 of the run was killed by signal 9." in capsys.readouterr().err


def test_a_signal_reaches_the_processes(tmp_path, capsys):
    listening = (
        "import os, signal, time; signal.signal(signal.SIGUSR1, lambda *_: os._exit(75)); print(flush=True);" + FOREVER
    )
    process = subprocess.Popen([sys.executable, "-S", "-c", listening], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    (tmp_path / "0").write_text("Stopped.")
    asks = subprocess.Popen([sys.executable, "-S", "-c", f"import os, time; time.sleep(1); os.kill({os.getpid()}, 10)"])
    with pytest.raises(SpokenExit) as end:
        _watch([Member(0, process, tmp_path / "0")])
    asks.wait()
    process.stdout.close()
    assert (end.value.code, capsys.readouterr().err) == (75, "error: Stopped.\n")
