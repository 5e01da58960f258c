import os
import signal
import sys

import pytest
from omegaconf import OmegaConf

from afr_clip.processes.signals import STOP_SIGNALS, Stopped
from afr_clip.processes.stopping import goes_on, interruptible, listening, stoppable

CONFIG = OmegaConf.create({"requeue": False, "resume": False})
REQUEUED = OmegaConf.create({"requeue": True, "resume": False})


@pytest.fixture(autouse=True)
def given_back():
    """Whatever a test does, the signals are handled afterwards as they were before."""
    before = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    yield
    after = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    for signum, handler in before.items():
        signal.signal(signum, handler)
    assert after == before


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_a_signal_stops_a_training_wherever_it_is(signum):
    with pytest.raises(Stopped, match=f"Stopped by {signum.name}. Files written so far are whole"), stoppable(CONFIG):
        os.kill(os.getpid(), signum)


def test_a_signal_interrupts_what_cannot_go_on():
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)


def test_who_listened_before_is_called_after_the_end_and_decides_how_it_ends():
    calls = []

    def exit_as_submitit_does(signum, frame):
        calls.append((signum, signal.getsignal(signal.SIGTERM)))
        sys.exit(-1)

    with listening(exit_as_submitit_does), pytest.raises(SystemExit, match="-1"), stoppable(CONFIG):
        os.kill(os.getpid(), signal.SIGUSR2)
    assert calls == [(signal.SIGUSR2, signal.SIG_IGN)]  # another signal does not come between


def test_requeueing_outside_slurm_is_said_to_do_nothing(monkeypatch, caplog):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(Stopped), stoppable(REQUEUED):
        os.kill(os.getpid(), signal.SIGTERM)
    assert "this is no SLURM job" in caplog.text


def test_a_machine_without_scontrol_is_said(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Stopped), stoppable(REQUEUED):
        os.kill(os.getpid(), signal.SIGTERM)
    assert "SLURM job 7 could not be requeued" in caplog.text
    assert "Submit it again." in caplog.text


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
    assert goes_on(OmegaConf.create({"resume": resume, "requeue": requeue}), tmp_path) is expected
