"""Runs of several processes: what they compute equals what one computes, and they end as one."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers.trees import write_mvtec_tree

pytestmark = pytest.mark.integration

SAME_WEIGHTS = 1e-5
"""How far the weights may differ after an epoch, a hundredth of a step of Adam. Gradients are summed in another order:
7.8e-7 and 1.6e-6 on two kinds of CPU."""


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trees")
    auxiliary = write_mvtec_tree(folder / "auxiliary", ("bolt", "tile"))
    return {"auxiliary": auxiliary, "unseen": write_mvtec_tree(folder / "unseen", ("fabric",), seed=1)}


def overrides(trees, run_dir: Path, *more: str) -> list[str]:
    data = ["dataset=folder", "dataset.name=generated", f"dataset.root={trees['auxiliary']}", "data.num_workers=0"]
    quick = ["backbone=tiny", "backbone.image_size=64", "trainer.max_epochs=1", "num_threads=1", "num_figures=2"]
    return [*data, *quick, "trainer.accelerator=cpu", f"run_dir={run_dir}", *more]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def alone(trees, run_once, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "alone"
    assert run_once("train", *overrides(trees, folder)) == 0
    return folder


def test_an_epoch_of_two_machines_makes_the_weights_of_one_process(trees, alone, tmp_path):
    command = [sys.executable, "-m", "afr_clip.train", *overrides(trees, tmp_path / "run", "trainer.num_nodes=2")]
    meeting = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    machines = [
        subprocess.Popen(command, env=meeting | {"NODE_RANK": str(node)}, stdout=subprocess.PIPE, text=True)
        for node in range(2)
    ]
    said = [machine.communicate(timeout=200)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0]
    assert said == [f"run: {tmp_path / 'run'}\n", ""]
    own, theirs = weights(alone), weights(tmp_path / "run")
    assert max((own[name] - theirs[name]).abs().max().item() for name in own) < SAME_WEIGHTS
    facts = read(tmp_path / "run", "manifest.json")
    assert (facts["processes"], facts["effective_batch_size"]) == (2, 4)


def test_three_processes_score_as_one_to_the_last_bit_though_one_has_nothing_to_do(trees, alone, run, tmp_path):
    scored = [f"checkpoint={alone}", "dataset=folder", "dataset.name=unseen", f"dataset.root={trees['unseen']}"]
    shared = ["data.num_workers=0", "num_threads=1", "num_figures=2", "trainer.accelerator=cpu", "save_maps=true"]
    for name, devices in (("one", 1), ("three", 3)):
        folder = f"run_dir={tmp_path / name}"
        assert run("evaluate", *scored, *shared, folder, f"trainer.devices={devices}") == 0
    assert read(tmp_path / "one", "results.json")["results"] == read(tmp_path / "three", "results.json")["results"]
    written = [file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*.png")]
    assert len(written) > 2 * 8
    for file in [*written, "scores.csv", "metrics.csv"]:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "three" / file).read_bytes(), file


def test_each_job_of_a_multirun_is_processes_in_a_folder_of_its_own(trees, run, tmp_path):
    typed = overrides(trees, tmp_path / "runs", "trainer.devices=2", "num_figures=0")
    assert run("train", "-m", *typed, "seed=0,1") == 0
    for number in (0, 1):
        facts = read(tmp_path / "runs" / str(number), "manifest.json")
        assert (facts["seed"], facts["processes"]) == (number, 2)
        assert facts["config"]["run_dir"] == str(tmp_path / "runs" / str(number))


def test_a_fault_in_one_process_ends_all_in_its_sentence(trees, run, tmp_path, capfd):
    broken = write_mvtec_tree(tmp_path / "broken", ("bolt", "tile"))
    image = sorted((broken / "bolt" / "test" / "good").iterdir())[0]
    image.write_bytes(image.read_bytes()[:100])
    started = time.monotonic()
    typed = overrides(trees, tmp_path / "run", "trainer.devices=2", f"dataset.root={broken}")
    assert run("train", *typed) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert errors == [f"error: {image} is not a valid image file (it ends too early). Copy it again from its source."]
    assert time.monotonic() - started < 120


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
