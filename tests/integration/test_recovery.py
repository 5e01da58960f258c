"""A fault in the middle of a training ends in one sentence; once it is fixed, the training resumes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from afr_clip.training.module import AnomalyDetectionModule

pytestmark = pytest.mark.integration


def last_epochs(folder: Path) -> int:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["manifest"]["epochs"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_dataset_that_vanishes_is_named_and_its_return_is_enough(
    disturbed, auxiliary, tmp_path, assert_goes_on, num_workers
):
    root = tmp_path / "data"
    shutil.copytree(auxiliary, root)
    away = tmp_path / "away"
    data = (f"dataset.root={root}", f"data.num_workers={num_workers}")
    code, said, overrides = disturbed((1, 1), lambda: root.rename(away), *data)
    assert code == 1
    assert f"{root}/" in said
    assert "does not exist. Was it moved after the run began?" in said
    assert last_epochs(tmp_path / "run") == 1
    away.rename(root)
    assert_goes_on(overrides)


def test_a_loss_that_is_no_number_keeps_a_checkpoint_to_go_on_from(disturbed, tmp_path, assert_goes_on, monkeypatch):
    refuse = AnomalyDetectionModule._refuse_divergence

    def break_the_loss() -> None:
        monkeypatch.setattr(
            AnomalyDetectionModule,
            "_refuse_divergence",
            lambda self, value, batch: refuse(self, value * torch.nan, batch),
        )

    code, said, overrides = disturbed((1, 2), break_the_loss)
    assert code == 1
    assert "The loss became nan in epoch 2" in said
    assert last_epochs(tmp_path / "run") == 1
    monkeypatch.undo()
    assert_goes_on(overrides)


FILLING = """
import os, sys
from afr_clip.cli.main import run
from afr_clip.training.module import AnomalyDetectionModule

def filling(self, batch, batch_idx):
    if (self.current_epoch, batch_idx) == (1, 1):
        with open({filler!r}, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1024))
            except OSError:
                pass
    return step(self, batch, batch_idx)

step = AnomalyDetectionModule.training_step
AnomalyDetectionModule.training_step = filling
run("train")
"""
"""A train command whose disk is filled by something else in the second epoch."""

ON_A_SMALL_DISK = """
mount -t tmpfs -o size=32m tmpfs "$1" || exit 99
"$2" -c "$3" "${@:4}"
code=$?
cp -r "$1/run" "$1/../copy"
exit $code
"""
"""The disk vanishes with its namespace, so the run is copied to where the test can resume it."""


def test_a_full_disk_is_said_and_with_room_the_training_goes_on(short, assert_goes_on, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    source = FILLING.format(filler=str(disk / "filler"))
    inside = [
        "bash",
        "-c",
        ON_A_SMALL_DISK,
        "bash",
        str(disk),
        sys.executable,
        source,
        *short,
        f"run_dir={disk / 'run'}",
    ]
    try:
        done = subprocess.run(["unshare", "-rm", *inside], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if done.returncode == 99 or "unshare:" in done.stderr:
        pytest.skip("needs to be allowed to mount a small disk")
    assert done.returncode == 1, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said.startswith("error: The disk is full:")
    assert "Traceback" not in done.stderr
    assert last_epochs(tmp_path / "copy") == 1
    assert not list((tmp_path / "copy").rglob("*unfinished*"))
    assert_goes_on([*short, f"run_dir={tmp_path / 'copy'}"])
