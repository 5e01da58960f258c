"""Run the demo over seeds and variants, score the photographs with it, and collect the results.

python experiments/demo/study.py --out outputs/demo_study --photographs ../shared/data
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

VARIANTS = {
    "full": [],
    "no_cmfr": ["ablation=no_cmfr"],
    "untrained": ["trainer.limit_train_batches=0"],
}
"""What is compared: the method, the method without CMFR, and its untrained adapters."""

PHOTOGRAPHS = ("mvtec_ad", "mpdd", "isic", "colon_db", "clinic_db", "head_ct", "brain_mri", "br35h")
"""Datasets that are scored if they are on disk."""

SIZES = (160, 320)
"""Sides of the input in pixels at which photographs are scored; training is at the first."""


def main() -> None:
    """Run what has not been run, then collect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and results.json")
    parser.add_argument("--photographs", type=Path, help="folder that holds the public datasets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    common = [f"num_threads={arguments.threads}"]
    for variant, overrides in VARIANTS.items():
        for seed in arguments.seeds:
            run_once(
                "train", arguments.out / f"{variant}_{seed}", ["experiment=demo", f"seed={seed}", *overrides, *common]
            )
        if variant == "full" and arguments.photographs is not None:
            score_photographs(arguments.out, arguments.photographs, common)
    (arguments.out / "results.json").write_text(json.dumps(collect(arguments.out, arguments.seeds), indent=1) + "\n")


def score_photographs(out: Path, photographs: Path, common: list[str]) -> None:
    """Score the photographs with the demo's model, and with one trained on those of MVTec AD.

    Args:
        out: Folder of the runs.
        photographs: Folder of the datasets.
        common: Overrides of every command.
    """
    common = [*common, f"data_dir={photographs}", "num_figures=2"]
    run_once("train", out / "mvtec", ["experiment=photographs", *common])
    for size in SIZES:
        for dataset in PHOTOGRAPHS:
            scored = [f"dataset={dataset}", f"backbone.image_size={size}", *common]
            run_once("evaluate", out / f"drawn_{dataset}_{size}", [f"checkpoint={out / 'full_0'}", *scored])
            if dataset != "mvtec_ad":
                run_once("evaluate", out / f"mvtec_{dataset}_{size}", [f"checkpoint={out / 'mvtec'}", *scored])


def run_once(command: str, folder: Path, overrides: list[str]) -> None:
    """Run a command unless its results are there."""
    if (folder / "report.html").is_file():
        return
    words = [sys.executable, "-m", f"afr_clip.{command}", *overrides, f"run_dir={folder}"]
    sys.stderr.write(f"{' '.join(words[1:])}\n")
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def collect(out: Path, seeds: list[int]) -> dict[str, object]:
    """Read every run's results.

    Args:
        out: Folder of the runs.
        seeds: Which seeds were run.

    Returns:
        Per variant and metric mean and standard deviation over the seeds; per photograph run the values by category.
    """
    variants = {}
    for variant in VARIANTS:
        by_metric = defaultdict(list)
        for seed in seeds:
            for row in _rows(out / f"{variant}_{seed}"):  # none where the run was left out
                if row["category"] == "mean":
                    by_metric[row["metric"]].append(float(row["value"]))
        variants[variant] = {
            metric: {
                "mean": statistics.fmean(values),
                "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
                "values": values,
            }
            for metric, values in by_metric.items()
        }
    photographs = {}
    for folder in sorted(out.glob("*_*_[0-9][0-9]*")):
        values: dict[str, dict[str, float]] = defaultdict(dict)
        for row in _rows(folder):
            if row["value"] != "nan":
                values[row["category"]][row["metric"]] = float(row["value"])
        photographs[folder.name] = values
    manifest = json.loads((out / f"full_{seeds[0]}" / "manifest.json").read_text())
    kept = ("commit", "packages", "machine", "backbone", "trainable_parameters", "seconds_training")
    return {
        "demo_unseen": variants,
        "photographs": photographs,
        "manifest": {key: manifest[key] for key in kept if key in manifest},
    }


def _rows(folder: Path) -> list[dict[str, str]]:
    table = folder / "results.csv"
    if not table.is_file():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
