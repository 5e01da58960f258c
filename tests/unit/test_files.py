import errno
import os
import platform
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from afr_clip.files import (
    ABANDONED_AFTER,
    as_cell,
    from_cell,
    in_one_line,
    remove_abandoned,
    shown,
    unfinished_folder,
    written_whole,
)


def test_a_file_is_whole_or_the_one_before(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with written_whole(path) as unfinished:
        unfinished.write_text("first")
        assert not path.exists()

    def fail() -> None:
        with written_whole(path) as unfinished:
            unfinished.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_finds_no_room_names_its_file(tmp_path):
    def fail() -> None:
        with written_whole(tmp_path / "a.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left") as full:
        fail()
    assert full.value.filename == str(tmp_path / "a.txt")


KILLED = """
import os, signal, sys
from pathlib import Path
from afr_clip.files import written_whole
with written_whole(Path(sys.argv[1])) as unfinished:
    unfinished.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_stays(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "deep" / "a.ckpt")], check=False)
    assert len(list((tmp_path / "deep").iterdir())) == 1
    with written_whole(tmp_path / "deep" / "b.ckpt") as unfinished:
        unfinished.write_text("b")
        remove_abandoned(tmp_path)
        assert list((tmp_path / "deep").iterdir()) == [unfinished]
    remove_abandoned(tmp_path / "nowhere")


def test_two_threads_may_write_one_file_at_the_same_time(tmp_path):
    def write(text):
        with written_whole(tmp_path / "a") as unfinished:
            unfinished.write_text(text)
            both.wait()

    both = threading.Barrier(2, timeout=30)
    with ThreadPoolExecutor() as pool:
        list(pool.map(write, ("one", "two")))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() in ("one", "two")


def test_another_machines_files_are_removed_only_when_they_are_old(tmp_path):
    other, drawn = tmp_path / f".a.unfinished-not-{platform.node()}-1", tmp_path / ".data.unfinished-0123abcd"
    for path in (other, drawn):
        path.write_text("half")
    remove_abandoned(tmp_path)
    assert other.exists()
    os.utime(other, (0, other.stat().st_mtime - ABANDONED_AFTER - 1))
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == [drawn]  # not one of these files


@pytest.mark.parametrize(
    ("name", "as_shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\\nb", r"a\\nb"),
        (os.fsdecode(b"b\xff.png"), r"b\xff.png"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("photo\u202egnp.exe", r"photo\u202egnp.exe"),
        ("Haselnüsse (Los 7), ok", "Haselnüsse (Los 7), ok"),
    ],
)
def test_a_name_is_shown_in_one_line_and_no_two_become_equal(name, as_shown):
    assert shown(name) == as_shown
    as_shown.encode()


def test_text_with_shown_names_keeps_its_backslashes():
    assert in_one_line(shown("a\\b\n")) == shown("a\\b\n") == r"a\\b\n"


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", "+1+cmd", "-1+1", "@SUM(A1)", "\tx", "\rx", "'x", "''", "-", "=-1"]
)
def test_a_formula_is_quoted_in_a_cell_and_read_back(text):
    assert as_cell(text)[0] == "'"
    assert from_cell(as_cell(text)) == text


@pytest.mark.parametrize("text", ["", "-0.5", "+5", "-1e-05", "0.25", "bottle", "a=b", "x'"])
def test_numbers_and_plain_text_stay_as_they_are(text):
    assert as_cell(text) == from_cell(text) == text


def test_a_scratch_folder_that_a_killed_process_left_is_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, kept, other = (
        tmp_path / f".[set].unfinished-{platform.node()}-{pid}" for pid in (ended.pid, os.getppid(), "?")
    )
    for folder in (left, kept, other):
        (folder / "content").mkdir(parents=True)
    with unfinished_folder(tmp_path / "[set]") as mine:
        assert mine.is_dir()
        assert not left.exists()
    assert {path.name for path in tmp_path.iterdir()} == {kept.name, other.name}


def test_no_scratch_folder_is_left_after_an_error(tmp_path):
    def fail() -> None:
        with unfinished_folder(tmp_path / "a/set") as folder:
            (folder / "file").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list((tmp_path / "a").iterdir()) == []
