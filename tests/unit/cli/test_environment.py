import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from afr_clip.cli import environment
from afr_clip.cli.environment import SILENT, settle


def test_libraries_report_to_nobody_unless_the_user_says_so(tmp_path):
    given = {"MLFLOW_DISABLE_TELEMETRY": "false", "MPLCONFIGDIR": "mine", "HOME": str(tmp_path)}
    settle(given)
    assert given == {"HOME": str(tmp_path), "MPLCONFIGDIR": "mine"} | SILENT | {"MLFLOW_DISABLE_TELEMETRY": "false"}
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_keeps_its_files_in_the_users_cache(tmp_path, monkeypatch):
    given = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    settle(given)
    assert given["MPLCONFIGDIR"] == str(tmp_path / "cache" / "afr_clip" / "matplotlib")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for relative in ({}, {"XDG_CACHE_HOME": "relative"}, {"XDG_CACHE_HOME": ""}):
        settle(relative)
        assert relative["MPLCONFIGDIR"] == str(tmp_path / "home" / ".cache" / "afr_clip" / "matplotlib")
        assert Path(relative["MPLCONFIGDIR"]).is_dir()


def no_home() -> Path:
    raise RuntimeError


@pytest.mark.parametrize("home", ["a file", "not writable", "none", "not there"])
def test_without_a_home_a_private_folder_does(tmp_path, monkeypatch, home):
    (tmp_path / "file").touch()
    monkeypatch.setattr(environment.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(environment.atexit, "register", lambda *_, **__: None)
    given = {"XDG_CACHE_HOME": str(tmp_path / ("file" if home == "a file" else "cache"))}
    if home == "not writable":
        monkeypatch.setattr(environment.os, "access", lambda *_: False)
    elif home == "none":
        given = {}
        monkeypatch.setattr(environment.Path, "home", no_home)
    elif home == "not there":
        given = {}
        monkeypatch.setenv("HOME", str(tmp_path / "gone"))
    settle(given)
    folder = Path(given["MPLCONFIGDIR"])
    assert folder.parent == tmp_path
    assert not (tmp_path / "gone").exists()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_private_folder_goes_with_the_process(tmp_path):
    source = "from afr_clip.cli.environment import settle; import os; settle(); print(os.environ['MPLCONFIGDIR'])"
    (tmp_path / "file").touch()
    variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "file"), "TMPDIR": str(tmp_path)}
    variables.pop("MPLCONFIGDIR", None)
    line = [sys.executable, "-c", source]
    done = subprocess.run(line, env=variables, check=True, capture_output=True, text=True)
    assert Path(done.stdout.strip()).parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert done.stderr == ""
