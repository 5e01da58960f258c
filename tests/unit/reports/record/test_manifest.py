import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import torch

import afr_clip
from afr_clip.reports.record import manifest
from afr_clip.reports.record.manifest import PACKAGES, build_manifest

CONFIG = {"seed": 7, "data": {"batch_size": 4, "root": None}, "tags": ["a"]}


def build() -> dict:
    return build_manifest("train", ("seed=7",), CONFIG)


def test_a_manifest_survives_json_and_a_checkpoint(tmp_path):
    built = build()
    assert json.loads(json.dumps(built, allow_nan=False)) == built
    torch.save(built, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True) == built


def test_a_manifest_says_what_was_run_with_what():
    built = build()
    assert (built["command"], built["overrides"], built["config"], built["seed"]) == ("train", ["seed=7"], CONFIG, 7)
    assert built["afr_clip"] == afr_clip.__version__
    assert built["packages"].keys() == set(PACKAGES)
    assert built["packages"]["torch"] == torch.__version__.split("+")[0]
    assert built["machine"]["threads"] == torch.get_num_threads()
    assert len(built["machine"]["gpus"]) == torch.cuda.device_count()
    assert built["machine"]["processor"]
    started = time.strptime(built["started"], "%Y-%m-%dT%H:%M:%S%z")
    assert abs(time.mktime(started) - time.mktime(time.localtime())) < 60


def test_a_package_that_is_absent_has_no_version(monkeypatch):
    monkeypatch.setattr(manifest, "PACKAGES", ("torch", "no-such-package"))
    assert build()["packages"] == {"torch": torch.__version__.split("+")[0], "no-such-package": None}


def answers(tracked: bool, changes: str):
    def git(folder, *arguments):
        if arguments[0] == "ls-files" and not tracked:
            raise subprocess.CalledProcessError(1, "git")
        return {"rev-parse": "0123abc", "ls-files": "manifest.py", "status": changes}[arguments[0]]

    return git


@pytest.mark.parametrize(("changes", "dirty"), [("", False), (" M src/afr_clip/train.py", True)])
def test_the_commit_says_whether_the_checkout_was_changed(monkeypatch, changes, dirty):
    monkeypatch.setattr(manifest, "_git", answers(tracked=True, changes=changes))
    assert build()["commit"] == {"hash": "0123abc", "dirty": dirty}


def test_a_checkout_of_something_else_has_no_commit_of_ours(monkeypatch):
    monkeypatch.setattr(manifest, "_git", answers(tracked=False, changes=""))
    assert build()["commit"] is None


def test_outside_a_checkout_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(manifest, "__file__", str(tmp_path / "manifest.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert build()["commit"] is None


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert build()["commit"] is None


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    line = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A repository of two commits that holds this package's file."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for content in ("a = 0\n", "a = 1\n"):
        (folder / "manifest.py").write_text(content)
        git(folder, "add", "manifest.py")
        git(folder, "commit", "--quiet", "--message", content)
    monkeypatch.setattr(manifest, "__file__", str(folder / "manifest.py"))
    return folder


def test_the_commit_is_the_checkouts_own(checkout, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/elsewhere")  # as in a hook
    commit = build()["commit"]
    monkeypatch.delenv("GIT_DIR")
    assert commit == {"hash": git(checkout, "rev-parse", "HEAD"), "dirty": False}
    assert re.fullmatch("[0-9a-f]{40}", commit["hash"])
    (checkout / "untracked.txt").touch()
    assert build()["commit"]["dirty"] is False
    (checkout / "manifest.py").write_text("a = 2\n")
    assert build()["commit"]["dirty"] is True


@pytest.mark.parametrize("kind", ["worktree", "shallow clone"])
def test_other_kinds_of_checkouts_have_a_commit_too(checkout, tmp_path, monkeypatch, kind):
    other = tmp_path / "other"
    if kind == "worktree":
        git(checkout, "worktree", "add", "--quiet", str(other))
    else:
        git(tmp_path, "clone", "--quiet", "--depth=1", checkout.as_uri(), str(other))
    monkeypatch.setattr(manifest, "__file__", str(other / "manifest.py"))
    assert build()["commit"] == {"hash": git(checkout, "rev-parse", "HEAD"), "dirty": False}


def test_reading_the_commit_changes_nothing_and_runs_nothing(checkout):
    program = checkout / "run.sh"
    program.write_text(f"#!/bin/sh\ntouch {checkout}/ran\n")
    program.chmod(0o755)
    git(checkout, "config", "core.fsmonitor", str(program))
    git(checkout, "config", "core.hooksPath", str(checkout))
    os.utime(checkout / "manifest.py", (1, 1))  # a status would refresh the index for it
    before = (checkout / ".git" / "index").read_bytes()
    assert build()["commit"]["dirty"] is False
    assert not (checkout / "ran").exists()
    assert (checkout / ".git" / "index").read_bytes() == before
    git(checkout, "status")
    assert (checkout / "ran").exists()  # the config does what it is meant to do
    assert (checkout / ".git" / "index").read_bytes() != before


def test_a_git_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(manifest, "GIT_SECONDS", 0.1)
    started = time.monotonic()
    assert build()["commit"] is None
    assert time.monotonic() - started < 5
