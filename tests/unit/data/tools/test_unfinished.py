import os
import platform
import subprocess
import sys

import pytest

from afr_clip.data.tools.unfinished import unfinished_folder


def test_what_a_killed_process_left_is_removed_and_a_living_ones_stays(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, kept, other = (
        tmp_path / f".[set].unfinished-{platform.node()}-{pid}-x" for pid in (ended.pid, os.getppid(), "?")
    )
    for folder in (left, kept, other):
        (folder / "content").mkdir(parents=True)
    with unfinished_folder(tmp_path / "[set]") as mine:
        assert mine.is_dir()
        assert not left.exists()
        with unfinished_folder(tmp_path / "[set]"):
            assert mine.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {kept.name, other.name}


def test_nothing_is_left_after_an_error(tmp_path):
    def fail() -> None:
        with unfinished_folder(tmp_path / "a/set") as folder:
            (folder / "file").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list((tmp_path / "a").iterdir()) == []
