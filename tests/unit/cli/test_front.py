"""The folder of a run: its own, and gone again if the run is refused."""

import os
import sys
from types import SimpleNamespace

import pytest

from afr_clip.cli import front
from afr_clip.cli.help import TEXTS, help_of
from afr_clip.cli.main import never_fail_to_print
from afr_clip.cli.places import faults_of_output
from afr_clip.config.keys import groups_of, key_of
from afr_clip.processes.signals import SpokenExit
from afr_clip.reports.record.run_folder import write_json


def refuse(folder, error: Exception, *files: str) -> None:
    """Write files to a folder and end with an error, as a command does."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).touch()
    try:
        raise error
    except Exception:
        raise SpokenExit(1)  # noqa: B904 - the cause is found in the context, as in a command


def test_commands_of_the_same_second_get_folders_of_their_own(tmp_path):
    folder = tmp_path / "outputs" / "predict" / "now"
    with front._run_folder(folder, True) as first, front._run_folder(folder, True) as second:
        (first / "a").touch()
        (second / "a").touch()
    assert (first.name, second.name) == ("now", "now_2")


@pytest.mark.parametrize("is_named_after_time", [True, False])
def test_a_refused_run_leaves_no_folder(tmp_path, is_named_after_time):
    folder = tmp_path / "outputs" / "predict" / "now"
    with pytest.raises(SpokenExit), front._run_folder(folder, is_named_after_time) as own:
        refuse(own, ValueError("no"), "predict.log")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "files"), [(RuntimeError("a bug"), ["predict.log"]), (ValueError("late"), ["predict.log", "scores.csv"])]
)
def test_the_log_of_a_bug_and_results_are_kept(tmp_path, error, files):
    with pytest.raises(SpokenExit), front._run_folder(tmp_path / "run", False) as own:
        refuse(own, error, *files)
    assert sorted(path.name for path in own.iterdir()) == files


def test_a_folder_that_was_there_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "old.log").touch()
    with pytest.raises(SpokenExit), front._run_folder(tmp_path / "mine", False) as own:
        refuse(own, ValueError("no"))
    assert (tmp_path / "mine" / "old.log").exists()


def test_resume_without_a_run_names_the_newest(tmp_path):
    for name in ("2026-01-02_00-00-00", "2026-01-10_00-00-00", "2026-01-11_00-00-00"):
        (tmp_path / name).mkdir()
    (tmp_path / "2026-01-02_00-00-00" / "scores.csv").touch()
    (tmp_path / "2026-01-10_00-00-00" / "scores.csv").touch()  # the last one holds nothing to resume
    assert front._nothing_to_resume(tmp_path).endswith(f"The newest run is run_dir={tmp_path}/2026-01-10_00-00-00.")


def test_a_read_only_disk_is_not_answered_with_permissions(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    (said,) = faults_of_output("run_dir", tmp_path / "new")
    assert "change the permissions" in said
    flags = SimpleNamespace(f_flag=os.ST_RDONLY | os.ST_NOSUID)
    monkeypatch.setattr(os, "statvfs", lambda path: flags if path == tmp_path else pytest.fail("another folder"))
    (said,) = faults_of_output("run_dir", tmp_path / "new")
    assert said == f"run_dir={tmp_path}/new lies on a read-only file system. Choose another run_dir."


@pytest.mark.parametrize("place", ["", "checkpoints/last.ckpt"])
@pytest.mark.parametrize(
    ("recorded", "chosen"), [("uni_adet", ["module=uni_adet"]), ("unknown", []), (None, [])], ids=str
)
def test_the_keys_of_a_method_are_those_of_the_checkpoints_run(tmp_path, place, recorded, chosen):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    if recorded is not None:
        write_json(tmp_path / "manifest.json", {"config": {"module": {"name": recorded}}})
    typed = [f"checkpoint={tmp_path / place}", "module.network.shots=1"]
    assert front._method_of_checkpoint(typed) == chosen
    assert front._method_of_checkpoint([*typed, "module=af_clip"]) == []
    assert front._method_of_checkpoint(typed[:1]) == front._method_of_checkpoint(typed[1:]) == []


@pytest.mark.parametrize("command", TEXTS)
def test_help_fits_on_one_screen_and_names_keys_that_exist(command):
    lines = help_of(command).splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 110
    for key, _ in TEXTS[command][2]:
        assert key_of(command, key) or key in groups_of(command), key


def test_what_a_stream_cannot_show_is_escaped(tmp_path, monkeypatch):
    with (tmp_path / "out").open("w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        never_fail_to_print()
        stream.write("nö")
    assert (tmp_path / "out").read_text(encoding="ascii") == "n\\xf6"
