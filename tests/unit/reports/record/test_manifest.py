import json
import re
import subprocess
import time

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


def test_the_commit_is_the_checkouts_own(monkeypatch, tmp_path):
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        line = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "manifest.py").write_text("a = 1\n")
    git("add", "manifest.py")
    git("commit", "--quiet", "--message", "first")
    monkeypatch.setattr(manifest, "__file__", str(tmp_path / "manifest.py"))
    commit = build()["commit"]
    assert commit == {"hash": git("rev-parse", "HEAD"), "dirty": False}
    assert re.fullmatch("[0-9a-f]{40}", commit["hash"])
    (tmp_path / "untracked.txt").touch()
    assert build()["commit"]["dirty"] is False
    (tmp_path / "manifest.py").write_text("a = 2\n")
    assert build()["commit"]["dirty"] is True
