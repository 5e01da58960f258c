import os
import subprocess
import time

import pytest

from afr_clip.cli import dashboard
from afr_clip.cli.dashboard import DashboardError, datasets_of_the_paper, find_offline_runs, state_of, sync


@pytest.fixture
def pieces(tmp_path):
    """A sweep of two runs: the first was started twice, the second was rebuilt since."""
    made = []
    for run, name in (
        ("a", "offline-run-20260102_000000-id1/run-id1.wandb"),
        ("a", "offline-run-20260101_000000-id1/run-id1.wandb"),
        ("b", "offline-run-20260101_000000-old/run-old.wandb"),
    ):
        path = tmp_path / "sweep" / run / "wandb" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        os.utime(path, (0, 0))
        made.append(path)
    (tmp_path / "sweep" / "a" / "wandb_run_id").write_text("id1\n")
    (tmp_path / "sweep" / "b" / "wandb_run_id").write_text("new\n")
    return made


def test_pieces_of_a_run_are_found_in_the_order_they_were_written(pieces, tmp_path):
    a, b = find_offline_runs([tmp_path / "sweep", tmp_path / "sweep" / "a"])
    assert (a.folder.name, a.run_id, a.pieces) == ("a", "id1", (pieces[1], pieces[0]))
    assert (a.is_superseded, b.is_superseded) == (False, True)


def test_nothing_to_upload_is_a_sentence(tmp_path):
    with pytest.raises(DashboardError, match=r"contains no runs.*Train with logger=wandb"):
        find_offline_runs([tmp_path])
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        find_offline_runs([tmp_path / "nowhere"])


@pytest.fixture
def uploads(monkeypatch):
    """Stand for `wandb sync`: marks what it is given as uploaded, unless it fails."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "offline")
    calls: list[list[str]] = []

    def upload(command, env, **options):
        assert "WANDB_MODE" not in env
        calls.append(command)
        if uploads_fail:
            return subprocess.CompletedProcess(command, 1, "", "wandb: first\nwandb: no network\n")
        for folder in command[4:]:
            for piece in dashboard.Path(folder).glob("*.wandb"):
                piece.with_suffix(".wandb.synced").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    uploads_fail: list[bool] = []
    monkeypatch.setattr(dashboard, "reaches_server", lambda: True)
    monkeypatch.setattr(dashboard, "read_offline_summary", lambda piece: {"state": "finished", "run_id": "id1"})
    monkeypatch.setattr(dashboard.subprocess, "run", upload)
    return calls, uploads_fail


def test_every_run_is_uploaded_once_in_one_call(pieces, tmp_path, uploads, capsys):
    calls, _ = uploads
    assert sync([tmp_path / "sweep"], None, None)
    assert calls == [[dashboard.sys.executable, "-m", "wandb", "sync", str(pieces[1].parent), str(pieces[0].parent)]]
    assert "a (id1): uploaded, 2 of 2 pieces" in capsys.readouterr().out
    assert sync([tmp_path / "sweep"], None, None)
    assert len(calls) == 1
    said = capsys.readouterr().out
    assert "a (id1): already uploaded" in said
    assert "b (old): skipped, because the run was rebuilt under another id" in said


def test_what_came_since_is_uploaded_alone(pieces, tmp_path, uploads, capsys):
    pieces[1].with_suffix(".wandb.synced").touch()
    assert sync([tmp_path / "sweep" / "a"], None, None)
    assert "a (id1): uploaded, 1 of 2 pieces" in capsys.readouterr().out
    assert uploads[0][0][4:] == [str(pieces[0].parent)]


def test_what_fails_is_said_and_tried_again(pieces, tmp_path, uploads, capsys):
    calls, fail = uploads
    fail.append(True)
    assert not sync([tmp_path / "sweep"], "p", "e")
    assert "a (id1): failed, 2 pieces are left: wandb: no network" in capsys.readouterr().out
    assert calls[0][4:8] == ["--project", "p", "--entity", "e"]
    fail.clear()
    assert sync([tmp_path / "sweep"], None, None)


STATES = [
    # what the reader says, seconds since the last change, what it means
    ({"state": "finished", "run_id": "a"}, 0, "ended"),
    ({"state": "running", "run_id": "a"}, 0, "running"),
    ({"state": "unknown", "run_id": ""}, 0, "running"),  # W&B writes nothing before a block is full
    ({"state": "running", "run_id": "a"}, 999, "ended"),  # killed
    ({"state": "unknown", "run_id": ""}, 999, "empty"),
    ({}, 999, "empty"),
]


@pytest.mark.parametrize(("summary", "age", "expected"), STATES)
def test_a_piece_that_does_not_change_any_more_has_ended(pieces, monkeypatch, summary, age, expected):
    os.utime(pieces[0], (time.time() - age,) * 2)
    monkeypatch.setattr(dashboard, "read_offline_summary", lambda piece: summary)
    assert state_of(pieces[0]) == expected


def test_a_run_that_goes_on_is_left_alone(pieces, tmp_path, uploads, monkeypatch, capsys):
    monkeypatch.setattr(dashboard, "state_of", lambda piece: "running")
    assert not sync([tmp_path / "sweep" / "a"], None, None)
    assert "still running" in capsys.readouterr().out
    assert uploads[0] == []


def test_a_piece_that_holds_nothing_keeps_no_other_from_being_uploaded(pieces, tmp_path, uploads, monkeypatch, capsys):
    monkeypatch.setattr(dashboard, "state_of", lambda piece: "empty" if piece == pieces[1] else "ended")
    for _ in range(2):
        assert sync([tmp_path / "sweep" / "a"], None, None)
    said = capsys.readouterr().out
    assert "uploaded, 1 of 2 pieces; 1 are empty, because their process was killed early" in said
    assert "nothing to upload; 1 are empty" in said
    assert [call[4:] for call in uploads[0]] == [[str(pieces[0].parent)]]


def test_without_a_network_nothing_is_tried(pieces, tmp_path, uploads, monkeypatch):
    monkeypatch.setattr(dashboard, "reaches_server", lambda: False)
    with pytest.raises(DashboardError, match=r"needs a network.*Try again"):
        sync([tmp_path / "sweep"], None, None)


def test_without_a_key_nothing_is_tried(pieces, tmp_path, monkeypatch):
    monkeypatch.setattr(dashboard, "has_api_key", lambda: False)
    with pytest.raises(DashboardError, match=r"needs an API key.*WANDB_API_KEY"):
        sync([tmp_path / "sweep"], None, None)


def test_the_datasets_are_those_of_the_paper():
    datasets = datasets_of_the_paper()
    assert len(datasets) == len(set(datasets)) == 11
    assert {"visa", "mvtec_ad", "tn3k"} <= set(datasets)
