"""Train every cell of experiment=mechanism, diagnose it, and estimate what each reading changes.

python experiments/mechanism/study.py --out outputs/mechanism
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from afr_clip.reports.compare.paired import bootstrap_interval

FACTORS = (
    "reading_unit_tokens",
    "no_cmfr",
    "no_sp",
    "no_temperature",
    "reading_raw_text",
    "reading_universal",
    "table6_3",
    "reading_stage_loss",
)
"""Files of conf/ablation that are combined; each changes one setting of the demo's recipe."""

GENERATORS = {4: (1, 2, 3), 5: (0, 2, 3), 6: (0, 1, 2), 7: (0, 1, 3)}
"""The level of each further factor is the product of three of the first four: a 2^(8-4) design of resolution IV."""

ALONE = (*FACTORS, "reading_temperature_hundred")
"""Files that are also changed one at a time."""

SINGLE, FRACTION = "single", "fraction"
"""Folders of the two sweeps: the recipe with every single change, and the other combinations of the fraction."""

REFERENCE, OWN, PARTNER, OBJECT = "full", "as_it_is", "partner", "object"

MEASURES = {
    "right": ((OWN,), "image_auroc"),
    "wrong": ((PARTNER,), "image_auroc"),
    "object": ((OBJECT,), "image_auroc"),
    "gap": ((OWN, PARTNER), "image_auroc"),
    "pixel_ap": ((OWN,), "pixel_ap"),
    "pixel_ap_gap": ((OWN, PARTNER), "pixel_ap"),
}
"""Names of a diagnosis, of which a second one is subtracted, and the metric."""

SHARES = {"text_share_class": ("class token", "share"), "text_share_patches": ("patches", "share")}


@dataclass(frozen=True)
class Cell:
    """A diagnosed training.

    Attributes:
        by_pair: For each of `MEASURES` the value of every pair of names in percent, the mean of its two names.
        shares: `SHARES` in percent, the means over the stages; empty without CMFR.
        reads_name: Whether the text differs between names at all.
    """

    setting: str
    seed: int
    by_pair: Mapping[str, Mapping[str, float]]
    shares: Mapping[str, float]
    bound: float
    reads_name: bool
    manifest: Mapping[str, Any]


def fraction() -> list[frozenset[str]]:
    """Return the changed factors of each of the sixteen runs; the first changes none."""
    runs = []
    for signs in product((-1, 1), repeat=len(FACTORS) - len(GENERATORS)):
        levels = [*signs, *(signs[a] * signs[b] * signs[c] for a, b, c in GENERATORS.values())]
        runs.append(frozenset(factor for factor, level in zip(FACTORS, levels, strict=True) if level > 0))
    return runs


def changed(setting: str) -> frozenset[str]:
    """Return the files of conf/ablation that a setting joins."""
    return frozenset(setting.split("+")) - {REFERENCE}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has not been run, then collect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the cells, results.json and the tables")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the recipe and the single changes")
    parser.add_argument("--fraction-seeds", type=int, nargs="*", default=[0], help="of the other combinations")
    parser.add_argument("--leave-out", nargs="*", default=[], help="settings to skip")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time, one thread each")
    parser.add_argument("--experiment", default="mechanism", help="or [mechanism,NAME] for another backbone")
    parser.add_argument("overrides", nargs="*", help="key=value, for every cell")
    typed = parser.parse_args(arguments)
    common = ["num_threads=1", "data.num_workers=0"]
    keys = {override.partition("=")[0] for override in typed.overrides}
    unless_typed = [override for override in common if override.partition("=")[0] not in keys]
    combined = ["+".join(name for name in FACTORS if name in run) for run in fraction() if len(run) > 1]
    sides = {SINGLE: (typed.seeds, combined), FRACTION: (typed.fraction_seeds, [*ALONE, REFERENCE])}
    for name, (seeds, others) in sides.items():
        if seeds:
            own = [f"experiment={typed.experiment}", f"sweep_dir={typed.out / name}", f"jobs={typed.jobs}"]
            chosen = [f"seeds={listed(seeds)}", f"leave_out={listed([*others, *typed.leave_out])}"]
            command("sweep", *own, *chosen, *unless_typed, *typed.overrides)
    folders = [folder for _, _, folder in done(typed.out) if not (folder / "diagnosis.json").is_file()]
    with ThreadPoolExecutor(typed.jobs) as pool:
        list(pool.map(lambda folder: command("diagnose", str(folder), *common, "data.eval_batch_size=16"), folders))
    write(typed.out, [read_cell(*one) for one in done(typed.out)])


def listed(items: Sequence[object]) -> str:
    """Write a list as an override does."""
    return f"[{','.join(map(str, items))}]"


def command(name: str, *overrides: str) -> None:
    """Run a command in a process of its own."""
    words = [sys.executable, "-m", f"afr_clip.{name}", *overrides]
    sys.stderr.write(f"{' '.join(words[1:])}\n")
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def done(out: Path) -> Iterator[tuple[str, int, Path]]:
    """Yield setting, seed and folder of each finished cell, the single changes first."""
    for side in (SINGLE, FRACTION):
        record = out / side / "mechanism.json"
        for cell in json.loads(record.read_text())["cells"] if record.is_file() else ():
            if cell["state"] == "done":
                yield cell["setting"], cell["seed"], out / side / cell["folder"]


def read_cell(setting: str, seed: int, folder: Path) -> Cell:
    """Read what was found on the only target of a cell."""
    content = json.loads((folder / "diagnosis.json").read_text())
    (found,) = content["datasets"]
    values: dict[str, dict[str, dict[str, float]]] = {}
    for row in found["metrics"]:
        value = np.nan if row["value"] is None else 100 * row["value"]
        values.setdefault(row["text"], {}).setdefault(row["metric"], {})[row["category"]] = value
    reads_name = PARTNER in values
    if not reads_name:  # the same text for every name, so the same scores
        values |= dict.fromkeys((PARTNER, OBJECT), values[OWN])
    partners = found["names"]["partners"]
    pairs = sorted({tuple(sorted(pair)) for pair in partners.items()})
    by_pair = {}
    for measure, (texts, metric) in MEASURES.items():
        own, *others = (values[text][metric] for text in texts)
        of_name = {name: own[name] - sum(other[name] for other in others) for name in partners}
        by_pair[measure] = {"/".join(pair): fmean(of_name[name] for name in pair) for pair in pairs}
    shares = {}
    for share, (tokens, column) in SHARES.items():
        stages = [100 * row[column] for row in found["terms"] if row["tokens"] == tokens]
        if stages:
            shares[share] = fmean(stages)
    bound = 100 * found["names"]["image_only_bound"]
    return Cell(setting, seed, by_pair, shares, bound, reads_name, content["manifest"])


def difference(
    cells: Sequence[Cell], measure: str, high: Sequence[str], low: Sequence[str]
) -> dict[str, float | int | None] | None:
    """Compare the mean over some settings with that over others, paired by seed and pair of names.

    Returns:
        Points with a 95 % interval over seeds and pairs; ``None`` without a seed in which all settings are done.
    """
    by_setting: dict[str, dict[int, Cell]] = {}
    for cell in cells:
        by_setting.setdefault(cell.setting, {})[cell.seed] = cell
    complete = [by_setting.get(setting, {}) for setting in (*high, *low)]
    seeds = sorted(set.intersection(*map(set, complete)))
    if not seeds:
        return None

    def values(setting: str, seed: int) -> list[float]:
        return list(by_setting[setting][seed].by_pair[measure].values())

    means = [[np.mean([values(one, seed) for one in side], axis=0) for side in (high, low)] for seed in seeds]
    matrix = np.array([above - below for above, below in means])
    matrix = matrix[:, ~np.isnan(matrix).any(axis=0)]
    if not matrix.size:
        return None
    interval = bootstrap_interval(np.ascontiguousarray(matrix))
    return {
        "points": float(matrix.mean()),
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "num_seeds": matrix.shape[0],
        "num_pairs": matrix.shape[1],
    }


def effects(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Estimate every main effect in the fraction, and every single change of the recipe."""
    runs = {changed(cell.setting): cell.setting for cell in cells}
    design = fraction()
    rows = []

    def add(kind: str, change: str, high: Sequence[str], low: Sequence[str]) -> None:
        for measure in MEASURES:
            found = difference(cells, measure, high, low)
            if found is not None:
                rows.append({"kind": kind, "change": change, "measure": measure, **found})

    if all(run in runs for run in design):
        for factor in FACTORS:
            sides = [[runs[run] for run in design if (factor in run) == is_high] for is_high in (True, False)]
            add("main effect", factor, *sides)
    if frozenset() in runs:
        for run, setting in runs.items():
            if len(run) == 1:
                add("single change", setting, [setting], [runs[frozenset()]])
    return rows


def row_of(cell: Cell) -> dict[str, Any]:
    """Sum up a cell in one row: levels, then means over the pairs."""
    files = changed(cell.setting)
    levels = {factor: int(factor in files) for factor in FACTORS}
    means = {measure: float(np.nanmean([*values.values()])) for measure, values in cell.by_pair.items()}
    shares = {share: cell.shares.get(share) for share in SHARES}
    known = {"setting": cell.setting, "seed": cell.seed, "is_in_fraction": files in fraction()}
    return known | levels | {"reads_name": cell.reads_name} | means | {"bound": cell.bound} | shares


def write(out: Path, cells: Sequence[Cell]) -> None:
    """Write ``results.json``, ``cells.csv`` and ``effects.csv``."""
    rows, found = [row_of(cell) for cell in cells], effects(cells)
    kept = ("commit", "packages", "machine", "backbone", "trainable_parameters", "seconds_training")
    manifest = {key: value for key, value in cells[0].manifest.items() if key in kept} if cells else {}
    content = {"cells": rows, "effects": found, "manifest": manifest}
    (out / "results.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    for name, table in (("cells.csv", rows), ("effects.csv", found)):
        if table:
            with (out / name).open("w", newline="") as file:
                writer = csv.DictWriter(file, table[0], lineterminator="\n")
                writer.writeheader()
                writer.writerows(table)


if __name__ == "__main__":
    main()
