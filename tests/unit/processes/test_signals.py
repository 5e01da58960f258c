import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from afr_clip.processes.signals import (
    EXIT_STOPPED,
    STOP_SIGNALS,
    Stopped,
    forget_run,
    how_to_resume,
    interrupted,
    interruptible,
    listening,
    note_run,
    stoppable,
    was_requeued,
)
from afr_clip.processes.stopping import resumes


@pytest.fixture(autouse=True)
def given_back():
    """Whatever a test does, the signals are handled afterwards as they were before."""
    before = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    yield
    after = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    for signum, handler in before.items():
        signal.signal(signum, handler)
    assert after == before


def test_ctrl_c_is_no_signal_of_a_scheduler():
    assert set(STOP_SIGNALS) == {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


def test_a_stop_is_an_exit_that_says_what_asked_what_is_saved_and_how_to_go_on():
    forget_run()  # of a command that another test ran in this process
    stopped = Stopped(signal.SIGTERM, "The training is finished and saved.")
    assert stopped.code == EXIT_STOPPED == 75
    said = "Stopped by SIGTERM. The training is finished and saved."
    assert str(stopped) == f"{said} Nothing was begun that could be resumed; run the same command again."
    try:
        note_run(Path("runs/a"))
        note_run(Path("runs/a/leg"))  # the whole is resumed, not a part
        assert (
            str(stopped) == f"{said} The run is in runs/a; the same command with run_dir=runs/a resume=true resumes it."
        )
        assert interrupted().endswith(how_to_resume())
        forget_run()
        note_run(Path("runs/Los (7)"))
        assert "the same command with run_dir='runs/Los (7)' resume=true resumes it" in how_to_resume()
    finally:
        forget_run()
    assert "runs/a" not in str(stopped)


def test_a_stop_is_said_once_where_one_listener_is_inside_another():
    with pytest.raises(Stopped, match="inner"), stoppable("outer"), stoppable("inner"):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("handler", "goes_on"), [(signal.SIG_IGN, True), (signal.SIG_DFL, False)])
def test_a_command_under_nohup_outlives_its_terminal(handler, goes_on):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with nullcontext() if goes_on else pytest.raises(Stopped, match="SIGHUP"), stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_a_signal_stops_a_training_wherever_it_is(signum):
    with pytest.raises(Stopped, match=f"Stopped by {signum.name}. Files written so far are complete"), stoppable():
        os.kill(os.getpid(), signum)


def test_a_signal_interrupts_what_cannot_go_on():
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)


def test_who_listened_before_is_called_after_the_end_and_decides_how_it_ends():
    calls = []

    def exit_as_submitit_does(signum, frame):
        calls.append((signum, signal.getsignal(signal.SIGTERM)))
        sys.exit(-1)

    with listening(exit_as_submitit_does), pytest.raises(SystemExit, match="-1"), stoppable():
        os.kill(os.getpid(), signal.SIGUSR2)
    assert calls == [(signal.SIGUSR2, signal.SIG_IGN)]  # another signal does not come between


@pytest.mark.parametrize(
    ("job", "words"), [(None, ["this is not a SLURM job"]), ("7", ["SLURM job 7 could not be", "Submit it again."])]
)
def test_where_a_job_cannot_be_requeued_a_warning_says_why(monkeypatch, caplog, tmp_path, job, words):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))  # no scontrol
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    with pytest.raises(Stopped), stoppable(requeue=True):
        os.kill(os.getpid(), signal.SIGTERM)
    assert all(word in caplog.text for word in words)


@pytest.mark.parametrize(
    ("resume", "requeue", "restarts", "holds", "expected"),
    [
        (False, False, "1", True, False),
        (True, False, None, False, True),
        (False, True, "1", True, True),
        (False, True, "0", True, False),
        (False, True, None, True, False),
        (False, True, "2", False, False),
    ],
)
def test_a_run_goes_on_where_it_was_told_so_or_its_job_was_requeued(
    monkeypatch, tmp_path, resume, requeue, restarts, holds, expected
):
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if restarts is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    if holds:
        (tmp_path / "checkpoints").mkdir()
    assert was_requeued() is (restarts in ("1", "2"))
    assert resumes(tmp_path, resume=resume, requeue=requeue) is expected


CHILD = """
import os, signal, time
from afr_clip.processes.signals import watch_parent
signal.signal(signal.SIGTERM, lambda *_: (open({asked!r}, "w").close(), os._exit(0)))
watch_parent()
print("up", flush=True)
time.sleep(60)
"""

PARENT = """
import os, signal, subprocess, sys
from afr_clip.processes.signals import start_child
child = start_child([sys.executable, "-c", {child!r}], {{}}, at_death=signal.{signum}, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("signum", ["SIGTERM", "SIGKILL"])
def test_a_child_gets_its_signal_when_its_parent_is_killed(tmp_path, signum):
    child = CHILD.format(asked=str(tmp_path / "asked"))
    source = PARENT.format(child=child, signum=signum)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 20
    while is_alive(int(done.stdout)):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)
    assert (tmp_path / "asked").exists() == (signum == "SIGTERM")


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().split()[2] != "Z"
    except OSError:
        return False
