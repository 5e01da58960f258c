"""Whole predictions on folders of sound, damaged and oddly named files."""

import csv
import os
import subprocess
import sys
import time
from statistics import median

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.fuzzing import SCALE, fuzzed, guarded
from helpers.mutations import damaged
from helpers.picture_files import picture_files

QUICK = (
    "module=clip_similarity", "backbone=tiny", "backbone.image_size=64", "num_threads=1", "data.num_workers=0",
    "category=thing",
)  # fmt: skip

stems = st.one_of(
    st.sampled_from(
        (b"a", b"A", b"b\xff", b"two\nlines", b"x" * 240, "Los 7, groß".encode(), b"=cmd", b"a.jpg", b"-rf", b"\\")
    ),
    st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & set(b"/\0") and not name.startswith(b".")),
)
suffixes = st.sampled_from((b".png", b".jpg", b".PNG", b".jpeg", b".tif", b".bmp", b".webp"))


def scores(folder) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@fuzzed(40)
@given(
    files=st.lists(
        st.tuples(
            stems,
            suffixes,
            picture_files().flatmap(lambda file: st.one_of(st.just(file.content), damaged(file.content))),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_every_file_is_scored_or_named(tmp_path_factory, run, capsys, files):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "photographs").mkdir()
    for stem, suffix, content in files:
        with open(os.fsencode(folder / "photographs") + b"/" + stem + suffix, "wb") as file:  # noqa: PTH123 - odd bytes
            file.write(content)
    number = len(list((folder / "photographs").iterdir()))
    with guarded(folder):
        code = run("predict", f"images={folder / 'photographs'}", f"run_dir={folder / 'run'}", *QUICK)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "Unexpected" not in said
    rows = scores(folder / "run")
    assert code == (0 if len(rows) == number else 1)
    assert len({row["image"] for row in rows}) == len(rows)
    assert all(0 <= float(row["image_score"]) <= 1 for row in rows)
    for kind in ("maps", "overlays"):
        assert sum(path.is_file() for path in (folder / "run" / kind).rglob("*")) == len(rows)
    if code:
        assert f"{number - len(rows)} of {number}" in said


@pytest.mark.parametrize("num_workers", [0, 1])
def test_memory_and_handles_stay_flat(tmp_path, num_workers):
    number = max(400, round(5000 * SCALE))
    (tmp_path / "photographs").mkdir()
    for index in range(number):
        Image.new("RGB", (48, 40), (index % 256, index // 256, 90)).save(tmp_path / "photographs" / f"{index}.png")
    overrides = (*QUICK[:-2], f"data.num_workers={num_workers}", "category=thing", "images=photographs", "run_dir=run")
    command = [sys.executable, "-m", "afr_clip.predict", *overrides]
    seen: list[tuple[int, int, int]] = []
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            done = len(list((tmp_path / "run" / "maps").glob("*"))) if (tmp_path / "run" / "maps").exists() else 0
            if done > number // 4 and done < number:
                with process.oneshot():
                    seen.append((done, process.memory_info().rss, process.num_fds()))
            time.sleep(0.05)
        assert running.returncode == 0
    assert len(scores(tmp_path / "run")) == number
    assert len(seen) > 8, "too quick to be watched; take more photographs"
    # Writing a photograph opens some files for a moment, so single counts differ.
    quarter = len(seen) // 4
    first_fds, last_fds = (median(fds for _, _, fds in part) for part in (seen[:quarter], seen[-quarter:]))
    (_, first_rss, _), (_, last_rss, _) = seen[0], seen[-1]
    assert last_rss < 1.03 * first_rss + 8e6
    assert last_fds <= first_fds + 2
