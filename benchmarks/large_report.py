"""Time a report over 61 runs of 12 methods in 13 settings, with drawn numbers, and measure its page.

python benchmarks/large_report.py [DIR]

The runs are the paper's protocol after training on VisA: five seeds of each setting, one of WinCLIP, on ten datasets
with 31 categories. They are written below DIR, by default a temporary folder, and the report to DIR/report.
"""

import copy
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from afr_clip.metrics.average import METRICS, CategoryResult
from afr_clip.report import main
from afr_clip.reports.compare.paper import DATASETS
from afr_clip.reports.record.provenance import PAPER_ARCHITECTURE
from afr_clip.reports.record.results import DatasetResult, write_results
from afr_clip.reports.record.run_folder import write_json

SEEDS = range(5)
SETTINGS: dict[str, dict[str, Any]] = {
    "afr_clip": {},
    "afr_clip no CMFR": {"module.network.cmfr.enabled": False},
    **{
        method: {}
        for method in (
            *("april_gan", "anomaly_clip", "ada_clip", "af_clip", "aa_clip", "uni_adet", "visual_ad"),
            *("coop", "cocoop", "dense_clip", "winclip"),
        )
    },
}
"""What is changed in the config, by method and a word that tells settings apart."""

CONFIG: dict[str, Any] = {
    "backbone": {"name": "vit_l_14_336", "image_size": 518},
    "module": {
        "name": "afr_clip",
        "network": {
            "mpfa_window": 3,
            "cmfr": {"enabled": True},
            "self_prompting": {"enabled": True},
            "scoring": {"temperature": 1.0},
        },
    },
    "optimizer": {"lr": 0.001},
    "trainer": {"max_epochs": 100, "precision": "32-true"},
}


def described(name: str, title: str, num_categories: int, counts: tuple[int, int]) -> dict[str, Any]:
    """Return the entry of a dataset in a manifest."""
    categories = [f"{name}_{i}" for i in range(num_categories)]
    known = {"name": name, "title": title, "categories": categories, "sha256": f"{sum(map(ord, name)):064x}"}
    return known | {"num_normal": counts[0], "num_anomalous": counts[1]}


def write_run(folder: Path, setting: str, seed: int) -> None:
    """Write the results of one run."""
    draw = random.Random(f"{setting} {seed}")
    method, config = setting.split(maxsplit=1)[0], copy.deepcopy(CONFIG)
    config["module"]["name"] = method
    for key, value in SETTINGS[setting].items():
        *above, last = key.split(".")
        node = config
        for name in above:
            node = node[name]
        node[last] = value
    sources = {d.name: described(d.name, d.title, d.num_categories, (d.num_normal, d.num_anomalous)) for d in DATASETS}
    auxiliary = sources.pop("visa")
    cost = {"milliseconds_per_image": draw.uniform(30, 90), "peak_memory_mib": draw.uniform(2000, 4000)}
    cost |= {"device": "a GPU", "threads": 8, "batch_size": 4, "image_size": config["backbone"]["image_size"]}
    backbone = {"name": "vit_l_14_336", "architecture": PAPER_ARCHITECTURE}
    manifest = {
        "command": "train",
        "overrides": [],
        "config": config,
        "seed": seed,
        "started": "2026-11-30T20:00:00+0000",
        "afr_clip": "0.2.0",
        "commit": {"hash": "c0ffee" * 6, "dirty": False},
        "python": "3.11.9",
        "packages": {"torch": "2.9.0", "lightning": "2.6.6"},
        "machine": {"system": "Linux", "processor": "a processor", "threads": 8, "gpus": ["a GPU"]},
        "backbone": backbone | {"random_weights": False, "fingerprint": "f" * 64},
        "targets": sources,
        "trainable_parameters": 0 if method == "winclip" else 28_403_456,
        "cost": dict.fromkeys(sources, cost),
        "seconds_training": 3600.0,
        "seconds_scoring": dict.fromkeys(sources, 60.0),
        "scored_with": {"checkpoint_sha256": f"{draw.getrandbits(256):064x}"},
    }
    manifest |= {} if method == "winclip" else {"auxiliary": auxiliary}
    level = random.Random(setting).uniform(0.7, 0.9)
    results = []
    for name, source in sources.items():
        rows = []
        for category in source["categories"]:
            values = {metric: min(1.0, max(0.0, draw.gauss(level, 0.05))) for metric in METRICS}
            rows.append(CategoryResult(category, values, 30, 40))
        results.append(DatasetResult(name, tuple(rows), {}))
    for result in results:
        manifest["targets"][result.dataset]["categories"] = [row.category for row in result.categories]
    write_results(
        folder, [DatasetResult(r.dataset, r.categories, dict.fromkeys(sources, 0)) for r in results], manifest
    )
    write_json(folder / "manifest.json", manifest)


def time_report(folder: Path) -> dict[str, float]:
    """Write the runs, report on them, and return seconds and the size of the page."""
    for setting in SETTINGS:
        for seed in SEEDS if setting != "winclip" else (0,):
            write_run(folder / "runs" / f"{setting.replace(' ', '_')}-{seed}", setting, seed)
    started = time.perf_counter()
    sys.argv = ["report", str(folder / "runs"), "--out", str(folder / "report")]
    main()
    seconds = time.perf_counter() - started
    files = [path for path in (folder / "report").rglob("*") if path.is_file()]
    page = (folder / "report" / "report.html").stat().st_size
    return {
        "runs": len(list((folder / "runs").iterdir())),
        "settings": len(SETTINGS),
        "seconds": round(seconds, 1),
        "page_kib": round(page / 1024),
        "all_files_kib": round(sum(path.stat().st_size for path in files) / 1024),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(time_report(Path(sys.argv[1] if len(sys.argv) > 1 else scratch))))
