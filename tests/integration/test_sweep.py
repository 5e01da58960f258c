"""A sweep with real processes: killed and resumed, and run through a launcher."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from helpers.trees import write_mvtec_tree, write_visa_tree

pytestmark = pytest.mark.integration

SECONDS = 300


def sweep(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "afr_clip.sweep", *overrides]


def finish(*overrides: str) -> str:
    done = subprocess.run(sweep(*overrides), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def kill_when(command: Sequence[str], holds: Callable[[], bool]) -> None:
    """Start a sweep and kill it as soon as something holds."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def trainings_started(folder: Path) -> int:
    manifest = json.loads((folder / "manifest.json").read_text())
    return 1 + len(manifest.get("resumed_from", []))


@pytest.fixture
def two_cells(small, unseen, tmp_path) -> list[str]:
    targets = ["protocol.targets=[parts]", f"+protocol.roots.parts={unseen}", "num_figures=0"]
    return [*small, *targets, "experiment=table6", "leave_out=[table6_3]", f"sweep_dir={tmp_path / 'sweep'}"]


def test_a_sweep_killed_in_its_second_cell_runs_no_cell_twice(two_cells, tmp_path):
    folder = tmp_path / "sweep"

    def cells(pattern: str) -> list[Path]:
        return sorted(folder.glob(f"cells/*/{pattern}"))

    kill_when(sweep(*two_cells), lambda: len(cells("DONE")) == 1 and len(cells("checkpoints/resume.ckpt")) == 2)
    (done,) = cells("DONE")
    before = done.stat().st_mtime_ns, (done.parent / "cell.log").stat().st_size
    assert finish(*two_cells) == f"sweep: {folder}"
    assert before == (done.stat().st_mtime_ns, (done.parent / "cell.log").stat().st_size)
    (other,) = (path.parent for path in cells("DONE") if path != done)
    assert (trainings_started(done.parent), trainings_started(other)) == (1, 2)
    for cell in (done.parent, other):
        epochs = {line.split(",")[0] for line in (cell / "metrics.csv").read_text().splitlines()[1:]}
        assert {"0", "1"} <= epochs
        assert json.loads((cell / "manifest.json").read_text())["choices"]["ablation"] in cell.name
    record = json.loads((folder / "table6.json").read_text())
    assert [(c["setting"], c["seed"], c["state"]) for c in record["cells"]] == [
        ("table6_1", 0, "done"), ("table6_5", 0, "done")
    ]  # fmt: skip


def test_a_dry_run_says_what_it_would_cost_and_runs_nothing(run, two_cells, tmp_path, capsys):
    assert run("sweep", *two_cells, "dry_run=true") == 0
    out = capsys.readouterr().out
    assert "table6_1" in out
    assert "table6_3" not in out
    assert "2 cells to run: 64 images to train on (counted once an epoch), 32 images to score." in out
    assert "one training step and one scored batch" in out
    assert not (tmp_path / "sweep" / "cells").exists()


def test_a_sweep_over_methods_ends_with_tables_figures_and_one_page(quick, tmp_path):
    write_visa_tree(tmp_path / "data" / "VisA", ("pcb1",))
    write_mvtec_tree(tmp_path / "data" / "mvtec_anomaly_detection", ("bolt",), seed=1)
    legs = ["protocol.legs.visa=[mvtec_ad,tn3k]", "protocol.legs.mvtec_ad=[visa]", f"data_dir={tmp_path / 'data'}"]
    others = "leave_out=[ada_clip,anomaly_clip,april_gan]"
    finish(*quick, *legs, "experiment=methods", others, "num_figures=1", f"sweep_dir={tmp_path / 'sweep'}")
    names = {path.name.rsplit("-", 1)[0] for path in (tmp_path / "sweep" / "cells").iterdir()}
    assert names == {"afr_clip-seed0", "winclip-mvtec_ad", "winclip-visa"}  # TN3K is absent
    report = tmp_path / "sweep" / "report"
    drawn = {path.stem for path in (report / "figures").glob("*.pdf")}
    assert drawn == {"figure1_mvtec_ad_visa", "figure3_mvtec_ad_visa", "figure4_mvtec_ad", "figure4_visa"}
    facts = json.loads((report / "figures" / "figure4_mvtec_ad.json").read_text())
    assert facts["runs"] == ["AFR-CLIP", "WinCLIP"]
    page = (report / "paper.html").read_text()
    assert page.count("data:image/webp") >= 4
    assert {"AFR-CLIP", "WinCLIP"} <= set(re.findall(r'<th scope="row">([^<,]+?)(?: \(tiny[^<]*)?</th>', page))


def test_a_missing_dataset_is_one_sentence_before_anything_runs(run, two_cells, tmp_path, capsys):
    assert run("sweep", *two_cells, "protocol.roots.parts=nowhere") == 1
    assert "nowhere" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "sweep" / "cells").exists()


@pytest.mark.skipif("AFR_CLIP_TEST_LAUNCHERS" not in os.environ, reason="set AFR_CLIP_TEST_LAUNCHERS=1; takes a minute")
@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_a_launcher_runs_the_cells(two_cells, tmp_path, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher")
    assert finish(*two_cells, f"hydra/launcher={launcher}") == f"sweep: {tmp_path / 'sweep'}"
    record = json.loads((tmp_path / "sweep" / "table6.json").read_text())
    assert [cell["state"] for cell in record["cells"]] == ["done", "done"]


def test_plain_multirun_gives_every_job_a_folder_and_overwrites_none(run, small, tmp_path, capsys):
    command = ["-m", *small, "ablation=table3_baseline,table3_cmfr", f"run_dir={tmp_path / 'runs'}", "num_figures=0"]
    assert run("train", *command) == 0
    for job, ablation in enumerate(("table3_baseline", "table3_cmfr")):
        manifest = json.loads((tmp_path / "runs" / str(job) / "manifest.json").read_text())
        assert (manifest["choices"]["ablation"], manifest["choices"]["backbone"]) == (ablation, "tiny")
        assert not any(group.startswith("hydra") for group in manifest["choices"])
    before = (tmp_path / "runs" / "0" / "manifest.json").read_text()
    assert run("train", *command) == 1
    assert "run_dir must be new" in capsys.readouterr().err
    assert (tmp_path / "runs" / "0" / "manifest.json").read_text() == before
