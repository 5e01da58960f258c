"""Commands killed with SIGKILL at random moments and started again: what they leave equals an undisturbed run.

``AFR_CLIP_KILLS=60 AFR_CLIP_KILLS_SEED=1 pytest tests/kills`` makes so many kills from a seed; without them it is four.
A command runs in a fork of this process, which has loaded PyTorch already, so that a kill meets work and no imports.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

import afr_clip.cli.hydra_commands
import afr_clip.run.evaluate
import afr_clip.run.predict
import afr_clip.run.train
import afr_clip.sweep.command  # noqa: F401 - loaded before the fork
from afr_clip.cli.main import run as run_command_line
from drawn_anomalies.settings import DrawnSet, DrawnSettings
from drawn_anomalies.tree import drawn_dataset
from helpers.trees import write_mvtec_tree, write_visa_tree

pytestmark = pytest.mark.integration

NUM_KILLS = int(os.environ.get("AFR_CLIP_KILLS", "4"))
SEED = int(os.environ.get("AFR_CLIP_KILLS_SEED", "0"))

SECONDS = 300
"""After which a command counts as hanging."""

COMPARED = ("*.csv", "maps/**/*", "masks/**/*", "overlays/**/*", "figures/**/*", "afr_clip_drawn/**/*")
"""What must be the same to the last byte; other files say when they were written."""

QUICK = ("backbone=tiny", "backbone.image_size=64", "trainer.max_epochs=2", "data.num_workers=0", "num_threads=1",
         "data.batch_size=3", "trainer.log_every_n_steps=1", "num_figures=1", "save_maps=true")  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Something to be killed.

    Attributes:
        start: Runs it in a folder of its own, in the forked process; ``again`` if it was killed there before.
    """

    name: str
    start: Callable[[Path, bool], object]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_mvtec_tree(folder / "auxiliary", ("bolt", "tile"))
    write_mvtec_tree(folder / "unseen", ("fabric", "metal_plate"), seed=1)
    write_visa_tree(folder / "all" / "VisA", ("candle",))
    write_mvtec_tree(folder / "all" / "mvtec_anomaly_detection", ("bottle",), seed=3)
    (folder / "photographs").mkdir()
    for i in range(30):
        pixels = np.random.default_rng(i).integers(0, 255, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photographs" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def works(data: Path) -> list[Work]:
    trained = [*("dataset=folder", "dataset.name=generated", f"dataset.root={data / 'auxiliary'}"), *QUICK]
    target = [*trained, "protocol.targets=[parts]", f"+protocol.roots.parts={data / 'unseen'}"]

    def command(name: str, *typed: str, resumes: bool = False) -> Callable[[Path, bool], object]:
        def start(folder: Path, again: bool) -> object:
            own = [f"run_dir={folder / 'run'}", f"cache_dir={folder / 'cache'}"]
            return _typed(name, *typed, *own, *(["resume=true"] if again and resumes else []))

        return start

    def sweep(folder: Path, again: bool) -> object:
        cells = ["experiment=table6", "leave_out=[table6_3]", f"sweep_dir={folder}", f"cache_dir={folder / 'cache'}"]
        return _typed("sweep", *target, *cells)

    def draw(folder: Path, again: bool) -> object:
        settings = DrawnSettings(
            DrawnSet.auxiliary,
            images_per_category=4,
            size=48,
            defect_scale=1.6,
            least_contrast=0.3,
            least_area=0.012,
            seed=0,
        )
        return drawn_dataset(settings, folder)

    scored = ["dataset=folder", f"dataset.root={data / 'unseen'}", "num_threads=1", "data.num_workers=0"]
    shown = [f"images={data / 'photographs'}", "category=bolt", "num_threads=1", "data.num_workers=0"]
    legs = ["protocol=cross_dataset", "protocol.legs.visa=[mvtec_ad]", "protocol.legs.mvtec_ad=[visa]"]
    return [
        Work("train", command("train", *target, resumes=True)),
        Work(
            "evaluate", command("evaluate", *scored, "save_maps=true", "checkpoint=package:afr_clip/pocket/demo.ckpt")
        ),
        Work("predict", command("predict", *shown, "data.eval_batch_size=3", resumes=True)),
        Work("protocol", command("train", *legs, f"data_dir={data / 'all'}", *QUICK)),
        Work("pixel cache", command("train", *target, "data.cache=true", resumes=True)),
        Work("feature cache", command("train", *target, "ablation=no_sp", "data.feature_cache=true", resumes=True)),
        Work("sweep", sweep),
        Work("drawing", draw),
    ]


def test_what_is_killed_at_random_moments_ends_as_if_nothing_had_happened(works, tmp_path):
    random = Random(SEED)
    undisturbed: dict[str, tuple[float, dict[str, bytes]]] = {}
    for number in range(NUM_KILLS):
        work = works[number % len(works)] if len(works) <= NUM_KILLS else works[(number + SEED) % len(works)]
        if work.name not in undisturbed:
            began, whole = time.monotonic(), tmp_path / "whole" / work.name
            assert _finish(work, whole) == 0, _said(whole)
            undisturbed[work.name] = time.monotonic() - began, _contents(whole)
        seconds, expected = undisturbed[work.name]
        folder, moments = (
            tmp_path / f"killed_{number}",
            [random.uniform(0, seconds) for _ in range(random.choice([1, 1, 2]))],
        )
        for attempt, moment in enumerate(moments):
            _kill(work, folder, moment, again=attempt > 0)
        code = _finish(work, folder, again=True)
        killed = (
            f"{work.name}, kill {number} after {', '.join(f'{moment:.2f}' for moment in moments)} of {seconds:.1f} s"
        )
        sys.stderr.write(f"{killed}: code {code}\n")
        assert code == 0, f"{killed}: {_said(folder)}"
        found = _contents(folder)
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        assert not differing, f"{killed}: {differing} differ"
        assert not list(folder.rglob("*unfinished*")), killed


def _typed(name: str, *overrides: str) -> object:
    sys.argv = [f"afr_clip.{name}", *overrides]
    return run_command_line(name)


def _begin(work: Work, folder: Path, *, again: bool) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        log = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115
        os.chdir(folder)
        torch.set_num_threads(1)
        work.start(folder, again)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _finish(work: Work, folder: Path, *, again: bool = False) -> int:
    child, deadline = _begin(work, folder, again=again), time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124


def _kill(work: Work, folder: Path, moment: float, *, again: bool) -> None:
    child = _begin(work, folder, again=again)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)  # it alone, as the system does when memory runs out
    os.waitpid(child, 0)


def _said(folder: Path) -> str:
    return (folder / "said.txt").read_text(errors="replace")[-2000:]


def _contents(folder: Path) -> dict[str, bytes]:
    files = {path for pattern in COMPARED for path in folder.rglob(pattern) if path.is_file()}
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(files)}
    for path in folder.rglob("last.ckpt"):
        weights = torch.load(path, weights_only=True)["state_dict"]
        found[path.relative_to(folder).as_posix()] = b"".join(value.numpy().tobytes() for value in weights.values())
    return found
