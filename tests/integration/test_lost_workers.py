"""A loading process that is lost names the image it was reading, and leaves neither processes nor half files behind."""

import os
import subprocess
import sys

import pytest
import torch

from helpers.overrides import last_of_each
from helpers.trees import write_mvtec_tree

pytestmark = pytest.mark.integration

LOSING = """
import ctypes, os, signal
from torch.utils.data import get_worker_info
from afr_clip.cli.main import run
from afr_clip.data.disk import pixels

def losing(path, **how):
    if path.name == {image!r} and get_worker_info() is not None and os.path.exists({switch!r}):
        {end}
    return decode(path, **how)

decode = pixels.decode_picture
pixels.decode_picture = losing
run("train")
"""
"""A train command whose loading processes do not survive an image once a file exists."""


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "is killed by signal: Killed"),
        ("ctypes.string_at(0)", "is killed by signal: Segmentation fault"),
    ],
    ids=["out of memory", "a decoder that crashes"],
)
def test_a_lost_loading_process_names_its_image_and_keeps_the_checkpoint(run, small, tmp_path, end, words):
    root = write_mvtec_tree(tmp_path / "tree")
    fatal, run_dir = root / "tile" / "test" / "good" / "fatal.png", tmp_path / "r"
    (root / "tile" / "test" / "good" / "002.png").rename(fatal)
    overrides = last_of_each([*small, f"dataset.root={root}", "data.num_workers=2", f"run_dir={run_dir}"])
    # The file that switches it on is written with the first whole epoch.
    source = LOSING.format(image=fatal.name, switch=str(run_dir / "checkpoints" / "resume.ckpt"), end=end)
    process = subprocess.Popen(
        [sys.executable, "-c", source, *overrides], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    said = process.communicate(timeout=120)[1].replace("\0", "")  # which PyTorch prints after a segmentation fault
    assert process.returncode == 1, said
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert words in sentence
    assert str(fatal) in sentence
    assert "Traceback" not in said
    assert _is_group_gone(process.pid)
    kept = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["manifest"]["epochs"] == 1
    assert run("train", *overrides, "resume=true") == 0


def _is_group_gone(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return True
    return False
