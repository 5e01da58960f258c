"""Photographs that a Ray cluster scores have the scores of a single process, also if one of its workers is killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from helpers.overrides import last_of_each

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(find_spec("ray") is None or find_spec("pyarrow") is None, reason="needs the extra ray"),
]

KEYS = ("category=plate", "num_threads=1", "data.num_workers=0", "data.eval_batch_size=4")
NUM, SHARD = 44, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs, of which one cannot be read and others have a spot."""
    folder, draw = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(NUM):
        pixels = draw.integers(90, 150, (48, 64, 3), dtype=np.uint8)
        if number % 5 == 0:
            pixels[10:30, 15:35] = draw.integers(0, 255, 3)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "17.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def local(run_once, folder, tmp_path_factory):
    """What a single process finds."""
    out = tmp_path_factory.mktemp("local") / "run"
    assert run_once("predict", f"images={folder}", *KEYS, "region_threshold=0.3", f"run_dir={out}") == 3
    with (out / "scores.csv").open(newline="") as file:
        scores = {row["image"]: float(row["image_score"]) for row in csv.DictReader(file)}
    regions = {one["image"]: one["regions"] for one in json.loads((out / "regions.json").read_text())}
    return scores, regions, out


def start(images: str, out: Path, *more: str) -> subprocess.Popen:
    words = [f"images={images}", "runs_on=ray", "workers=2", f"shard_size={SHARD}", *KEYS, f"run_dir={out}", *more]
    command = [sys.executable, "-m", "afr_clip", "predict", *last_of_each(words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished_shards(out: Path) -> list[Path]:
    return sorted((out / "shards").glob("*.parquet"))


def rows_of(out: Path) -> list[dict]:
    from pyarrow import parquet  # noqa: PLC0415 - not everywhere installed

    return [row for shard in finished_shards(out) for row in parquet.read_table(shard).to_pylist()]


def table_of(paths: list[str], place: Path) -> Path:
    from pyarrow import parquet, table  # noqa: PLC0415 - not everywhere installed

    parquet.write_table(table({"path": paths}), place)
    return place


def test_two_workers_of_which_one_is_killed_find_what_one_process_finds(folder, local, tmp_path, run, capsys):
    urls = [f"{folder.as_uri()}/{name}.png" for name in ("00", "gone")]
    out, images = tmp_path / "run", f"[{folder},{table_of(urls, tmp_path / 'urls.parquet')}]"
    process = start(images, out, "region_threshold=0.3")
    deadline = time.monotonic() + 300
    while not finished_shards(out) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [one for one in children if "ShardScorer" in " ".join(one.cmdline())]
    assert len(workers) == 2
    os.kill(workers[0].pid, signal.SIGKILL)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 3, said
    assert printed == f"scores: {out / 'shards'}\nrun: {out}\n"
    assert f"2 of {NUM + 2} photographs could not be scored: {folder / '17.png'}" in said
    assert "Traceback" not in said
    *rows, fetched, gone = rows_of(out)
    assert [row["image"] for row in rows] == [f"{number:02d}.png" for number in range(NUM)]
    assert (fetched["image"], fetched["fault"]) == (urls[0], None)
    assert gone["fault"].startswith(f"{urls[1]} cannot be fetched: No such file or directory. Check the address")
    scores, regions, local_out = local
    assert fetched["image_score"] == pytest.approx(scores["00.png"], abs=1e-5)  # in another batch
    assert {row["image"]: row["image_score"] for row in rows if row["fault"] is None} == scores
    assert {row["image"]: json.loads(row["regions"]) for row in rows if row["fault"] is None} == regions

    # What is repaired or was removed is scored again, and nothing else. A broken link leads to no photograph.
    (folder / "link.png").symlink_to("nowhere")
    Image.fromarray(np.full((48, 64, 3), 120, np.uint8)).save(folder / "17.png")
    kept = {shard.name: shard.stat().st_mtime_ns for shard in finished_shards(out)}
    (out / "shards" / "00005.parquet").unlink()
    process = start(images, out, "region_threshold=0.3", "resume=true", "workers=1")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 3, said
    assert f"1 of {NUM + 2} photographs could not be scored: {urls[1]} cannot be fetched" in said
    assert "1 link leads nowhere: link.png" in said.splitlines()[-1]
    after = {shard.name: shard.stat().st_mtime_ns for shard in finished_shards(out)}
    assert {name for name in after if after[name] != kept[name]} == {"00002.parquet", "00005.parquet"}
    assert [row["image"] for row in rows_of(out) if row["fault"] is None] == [*sorted([*scores, "17.png"]), urls[0]]

    # What could not become the same results is refused before there is a cluster.
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(folder / "03.png")
    for given, place, more, sentence in (
        (images, out, "shard_size=16", "The photographs changed since the run was started"),
        (images, out, "workers=1", "Changed or removed since scored: 1 photograph, 03.png. Restore"),
        (folder, local_out, "workers=1", "runs_on changed since"),
    ):
        words = (f"images={given}", "runs_on=ray", f"shard_size={SHARD}", *KEYS, "region_threshold=0.3", more)
        assert run("predict", *words, f"run_dir={place}", "resume=true") == 1
        assert sentence in capsys.readouterr().err
