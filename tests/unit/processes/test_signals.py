import signal

from afr_clip.processes.signals import EXIT_STOPPED, STOP_SIGNALS, Stopped


def test_ctrl_c_is_no_signal_of_a_scheduler():
    assert set(STOP_SIGNALS) == {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}


def test_a_stop_is_an_exit_that_says_what_asked_what_is_saved_and_how_to_go_on():
    stopped = Stopped(signal.SIGTERM, "The training is finished and saved.")
    assert stopped.code == EXIT_STOPPED == 75
    assert str(stopped) == (
        "Stopped by SIGTERM. The training is finished and saved. The same command goes on from there, with resume=true "
        "where it is a single training."
    )
