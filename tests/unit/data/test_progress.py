import pytest

from afr_clip.data import progress
from afr_clip.data.progress import tracked


def test_quick_work_is_silent(capfd):
    assert list(tracked([1, 2], "Working")) == [1, 2]
    assert capfd.readouterr() == ("", "")


def test_slow_work_shows_itself_on_stderr_only(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    assert list(tracked(range(3), "Working")) == [0, 1, 2]
    out, err = capfd.readouterr()
    assert out == ""
    assert "Working" in err


def test_a_log_file_gets_no_bar(capfd, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    assert list(tracked(range(3), "Working")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_without_a_terminal_a_line_is_logged_once_an_interval(caplog, monkeypatch):
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with caplog.at_level("INFO"), progress.progress_bar("Working", 9) as reached:
        for number in range(1, 10):
            reached(number)
    assert caplog.messages[0].startswith("Working: ")
    assert 2 <= len(caplog.messages) < 9


def test_a_failure_ends_the_bar(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    for _ in range(2):  # rich refuses a second live bar while one is on
        with pytest.raises(ZeroDivisionError):
            list(map((1).__truediv__, tracked([2, 1, 0], "Working")))
