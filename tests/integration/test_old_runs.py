"""Run folders that version 0.1 wrote (commit b98896e) are still scored, resumed, swept and reported on."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from afr_clip.cli.main import main
from afr_clip.data.disk.loaded import load_dataset
from afr_clip.data.disk.reading import DatasetSpec
from drawn_anomalies.settings import DrawnSet, DrawnSettings
from drawn_anomalies.tree import drawn_dataset

pytestmark = pytest.mark.integration

OLD = Path(__file__).parents[1] / "fixtures" / "version_0_1"

KEYS = (
    "experiment=smoke",
    "num_threads=1",
    "data.num_workers=0",
    "backbone.image_size=64",
    "dataset.drawn.size=64",
    "module.network.cmfr.inner_dim=2",
    "module.network.self_prompting.num_prompts=1",
    "num_figures=0",
    "save_maps=false",
)
"""What the runs were started with."""


@pytest.fixture(scope="module")
def drawn_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw what the runs were trained on; other versions of the image libraries may write other bytes."""
    folder = tmp_path_factory.mktemp("drawn")
    root = drawn_dataset(DrawnSettings(DrawnSet.auxiliary, 2, 64, 1.6, 0.3, 0.012, 0), folder)
    recorded = json.loads((OLD / "half" / "manifest.json").read_text())["auxiliary"]["sha256"]
    if load_dataset(DatasetSpec("demo", "mvtec_ad", root, None)).digest.sha256 != recorded:
        pytest.skip("the image libraries of this environment write other bytes than those the runs were trained on")
    return folder


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def assert_same_numbers(new: Path, old: Path) -> None:
    """Compare tables cell by cell; processors may differ in the last bits of a number.

    Version 0.1 counted pixels in fewer bins, so scores that are told apart now were tied; of these small maps enough to
    move average precision by 2e-4.
    """
    rows, expected = read_csv(new), read_csv(old)
    assert [row[:3] for row in rows] == [row[:3] for row in expected]
    for row, wanted in zip(rows[1:], expected[1:], strict=True):
        of_pixels = row[2].startswith("pixel_") or "/p_" in row[2]
        assert float(row[3]) == pytest.approx(float(wanted[3]), abs=3e-4 if of_pixels else 1e-5, nan_ok=True), row


def test_an_old_checkpoint_scores_as_it_did(run, drawn_dir, tmp_path):
    keys = ("dataset=demo_unseen", "num_threads=1", "data.num_workers=0", "num_figures=0", f"drawn_dir={drawn_dir}")
    assert run("evaluate", f"checkpoint={OLD / 'whole'}", *keys, f"run_dir={tmp_path / 'new'}") == 0
    assert_same_numbers(tmp_path / "new" / "results.csv", OLD / "whole" / "results.csv")


def test_an_old_run_is_diagnosed_with_its_numbers(run, drawn_dir, tmp_path):
    shutil.copytree(OLD / "whole", tmp_path / "old")
    keys = ("num_threads=1", "data.num_workers=0", f"drawn_dir={drawn_dir}")
    assert run("diagnose", str(tmp_path / "old"), *keys) == 0
    (found,) = json.loads((tmp_path / "old" / "diagnosis.json").read_text())["datasets"]
    own = {(row["category"], row["metric"]): row["value"] for row in found["metrics"] if row["text"] == "as_it_is"}
    recorded = {tuple(row[1:3]): float(row[3]) for row in read_csv(OLD / "whole" / "results.csv")[1:]}
    # How an old checkpoint's maps are measured is the test above.
    of_images = {key: value for key, value in recorded.items() if key[0] != "mean" and key[1].startswith("image")}
    assert {key: own[key] for key in of_images} == pytest.approx(of_images, abs=1e-5)
    assert own.keys() == {key for key in recorded if key[0] != "mean"}
    assert len(found["terms"]) == 8


def test_an_old_run_that_was_killed_is_resumed_to_the_same_weights(run, drawn_dir, tmp_path):
    shutil.copytree(OLD / "half", tmp_path / "half")
    assert run("train", *KEYS, f"drawn_dir={drawn_dir}", f"run_dir={tmp_path / 'half'}", "resume=true") == 0
    new, old = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (tmp_path / "half", OLD / "whole")
    )
    assert new.keys() == old.keys()
    for name, weight in old.items():
        # Version 0.1 kept M_t's half of CMFR, which its default never read.
        used = weight[: len(weight) // 2] if ".mix." in name else weight
        assert_close(new[name], used, rtol=0, atol=1e-5)
    assert_same_numbers(tmp_path / "half" / "metrics.csv", OLD / "whole" / "metrics.csv")
    assert_same_numbers(tmp_path / "half" / "results.csv", OLD / "whole" / "results.csv")


def test_an_old_sweep_runs_no_finished_cell_again(run, drawn_dir, tmp_path):
    sweep = tmp_path / "sweep"
    shutil.copytree(OLD / "sweep", sweep)
    (cell,) = (sweep / "cells").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in cell.iterdir()}
    typed = ("experiment=[table6,smoke]", *KEYS[1:], f"drawn_dir={drawn_dir}", f"sweep_dir={sweep}")
    assert run("sweep", *typed, "leave_out=[table6_3,table6_5]") == 0
    assert [path.name for path in (sweep / "cells").iterdir()] == [cell.name]
    assert {path.name: path.stat().st_mtime_ns for path in cell.iterdir()} == before


def test_an_old_run_is_reported_with_its_numbers(tmp_path):
    main(["report", str(OLD / "whole"), "--out", str(tmp_path)])
    header, *rows = read_csv(tmp_path / "categories.csv")
    reported = {(row[header.index("category")], row[header.index("metric")]): row[header.index("mean")] for row in rows}
    results = json.loads((OLD / "whole" / "results.json").read_text())["results"]
    for result in results:
        shown = reported[result["category"], result["metric"]]
        assert float(shown) == pytest.approx(100 * result["value"])
