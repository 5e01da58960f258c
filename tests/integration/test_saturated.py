"""MVTec LOCO AD from its files to the report: sPRO is what its definition gives for the saved maps."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from afr_clip.data.disk.pixels import resize_mask
from afr_clip.metrics.average import SATURATED_PRO
from helpers.naive_metrics import naive_auspro
from helpers.official import OFFICIAL

pytestmark = pytest.mark.integration

CATEGORIES = ("pushpins", "screw_bag")
ENTRIES = {237: (4, False), 238: (0.5, True), 255: (0.7, True)}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def regions_of(folder: Path, size: tuple[int, int]) -> list[tuple[np.ndarray, float]]:
    """The regions of an image at the size of its map, each with the number of pixels to be found."""
    regions = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            stored = np.array(image)
        threshold, is_relative = ENTRIES[int(stored.max())]
        area = int((stored > 0).sum())
        wanted = int(threshold * area) if is_relative else min(threshold, area)
        mask = resize_mask(torch.from_numpy(stored > 0), size).numpy()
        regions.append((mask, float(wanted / area * mask.sum())))
    return regions


def expected(root: Path, maps: Path) -> list[float]:
    areas = []
    for kind in ("logical", "structural"):
        pictures = [*sorted((maps / "good").iterdir()), *sorted((maps / f"{kind}_anomalies").iterdir())]
        read = np.stack([tifffile.imread(path) for path in pictures])
        truth = [regions_of(root / "ground_truth" / path.parent.name / path.stem, read.shape[1:]) for path in pictures]
        areas.append(naive_auspro(read, truth, 0.05))
    return [(areas[0] + areas[1]) / 2, *areas]


def test_overlap_of_saved_maps_by_one_and_by_two_processes_and_in_the_report(run, tmp_path):
    root = OFFICIAL["mvtec_loco"](tmp_path / "loco", dict.fromkeys(CATEGORIES, (3, 4)))
    entries = [
        {"defect_name": str(value), "pixel_value": value, "saturation_threshold": one[0], "relative_saturation": one[1]}
        for value, one in ENTRIES.items()
    ]
    for category in CATEGORIES:
        (root / category / "defects_config.json").write_text(json.dumps(entries))
    chosen = ["checkpoint=pocket", "backbone.image_size=80", "dataset=mvtec_loco", f"dataset.root={root}"]
    chosen += ["data.num_workers=0", "num_threads=1", "num_figures=0", "trainer.accelerator=cpu"]
    chosen += ["save_maps=true", "map_format=tiff", "data.batch_size=3"]
    for name, processes in (("one", 1), ("two", 2)):
        assert run("evaluate", *chosen, f"run_dir={tmp_path / name}", f"trainer.devices={processes}") == 0
    assert (tmp_path / "two" / "results.csv").read_bytes() == (tmp_path / "one" / "results.csv").read_bytes()

    measured = {(row["category"], row["metric"]): float(row["value"]) for row in rows(tmp_path / "one" / "results.csv")}
    by_category = []
    for category in CATEGORIES:
        by_category.append(expected(root / category, tmp_path / "one" / "maps" / "mvtec_loco" / category))
        assert [measured[category, name] for name in SATURATED_PRO] == pytest.approx(by_category[-1], abs=1e-4)
        assert all(0.1 < value < 1 for value in by_category[-1])
    assert [measured["mean", name] for name in SATURATED_PRO] == pytest.approx(np.mean(by_category, axis=0), abs=1e-4)
    assert ">sPRO logical<" in (tmp_path / "one" / "report.html").read_text()

    assert run("report", str(tmp_path / "one"), "--out", str(tmp_path / "report")) == 0
    found = [row for row in rows(tmp_path / "report" / "values.csv") if row["metric"] in SATURATED_PRO]
    assert {(row["category"], row["metric"]): float(row["value"]) / 100 for row in found} == pytest.approx(
        {place: value for place, value in measured.items() if place[1] in SATURATED_PRO}
    )
