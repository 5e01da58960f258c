"""Score good and bad parts once, calibrate on random splits of the good ones, and count false alarms on the others.

python experiments/calibration/coverage.py --photographs ../shared/data --out experiments/calibration
"""

import argparse
import csv
import hashlib
import json
from collections.abc import Iterator
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

import afr_clip
from afr_clip.data.disk.picture_files import read_picture
from afr_clip.data.disk.reading import DatasetSpec, read_samples
from afr_clip.inspection.calibration import calibrate
from afr_clip.inspection.settings import Rule, num_needed
from afr_clip.metrics.thresholds import overkill_at_escape
from afr_clip.reports.record.manifest import build_manifest
from afr_clip.settings import DecideBy
from drawn_anomalies.catalogue import CATEGORIES
from drawn_anomalies.kinds import GOOD
from drawn_anomalies.settings import DrawnSet, DrawnSettings
from drawn_anomalies.tree import Picture, draw

PHOTOGRAPHS = (
    ("mvtec_ad", "bottle"),
    ("mvtec_ad", "grid"),
    ("mvtec_ad", "pill"),
    ("mpdd", "metal_plate"),
    ("head_ct", None),
    ("brain_mri", None),
)
DRAWN, NUM_GOOD, NUM_BAD = ("capsule", "gear", "marble"), 300, 100
REFERENCES = (0, 1, 4, 16)
BUDGETS = (0.01, 0.05, 0.1)
ESCAPES = (0.02, 0.05)
SPLITS = 1000


def main() -> None:
    """Score what was not scored, then split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, help="folder that holds the public datasets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the records; scores.csv is kept")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    scores = arguments.out / "scores.csv"
    if not scores.exists():
        with scores.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("category", "references", "is_bad", "image_score", "map_maximum"))
            for row in score_all(arguments.photographs):
                rows.writerow(row)
                file.flush()
    table = list(coverage(scores, np.random.default_rng(arguments.seed)))
    with (arguments.out / "coverage.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    config = {"seed": arguments.seed, "checkpoint": "pocket", "splits": SPLITS, "drawn": [NUM_GOOD, NUM_BAD]}
    manifest = build_manifest("coverage", [], config)
    manifest["scores_sha256"] = hashlib.sha256(scores.read_bytes()).hexdigest()
    record = {"manifest": manifest, "summary": summary(table), "coverage": table}
    (arguments.out / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def score_all(photographs: Path | None) -> Iterator[tuple[str, int, int, float, float]]:
    """Score every set with every number of references that leaves enough good parts; references are not scored."""
    sets = [read_set(name, category, photographs) for name, category in PHOTOGRAPHS] if photographs else []
    for category, good, bad in [*sets, *(drawn_set(category) for category in DRAWN)]:
        for references in REFERENCES:
            if len(good) - references < num_needed(max(BUDGETS)) + 1:
                continue
            detector = afr_clip.load("pocket", batch_size=16)
            if references:
                detector.scanner.learn(good[:references], category)
            for is_bad, parts in ((0, good[references:]), (1, bad)):
                for scan in detector.scanner.scan(((str(i), part) for i, part in enumerate(parts)), category):
                    yield category, references, is_bad, scan.image_score, float(scan.anomaly_map.max())


def read_set(name: str, category: str | None, folder: Path) -> tuple[str, list[np.ndarray], list[np.ndarray]]:
    """Read one category: its good photographs, those for training first, and its bad ones."""
    categories = None if category is None else (category,)
    parts: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for split in ("train", "test") if name == "mvtec_ad" else ("test",):
        for sample in read_samples(DatasetSpec(name, name, categories=categories, split=split, data_dir=folder)):
            parts[sample.is_anomalous].append(read_picture(sample.image_path).rgb.transpose(2, 0, 1))
    return category or name, parts[False], parts[True]


def drawn_set(category: str) -> tuple[str, list[np.ndarray], list[np.ndarray]]:
    """Draw good and bad parts of a category of the demo's unseen set."""
    settings = DrawnSettings(DrawnSet.unseen, NUM_GOOD, 256, 1.6, 0.3, 0.012, seed=1)
    number = [one.name for one in CATEGORIES[DrawnSet.unseen]].index(category)
    kinds = CATEGORIES[DrawnSet.unseen][number].defects
    good = [Picture(number, "test", GOOD, i) for i in range(NUM_GOOD + max(REFERENCES))]
    bad = [Picture(number, "test", kinds[i % len(kinds)], i // len(kinds)) for i in range(NUM_BAD)]
    drawn = [[draw(settings, one)[0].transpose(2, 0, 1) for one in some] for some in (good, bad)]
    return category, *drawn


def coverage(scores: Path, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Measure false alarms on random splits of the good parts, for each set, budget and way to decide."""
    table = np.genfromtxt(scores, delimiter=",", names=True, dtype=None, encoding="utf-8")
    for category, references in dict.fromkeys(
        zip(table["category"].tolist(), table["references"].tolist(), strict=True)
    ):
        chosen = table[(table["category"] == category) & (table["references"] == references)]
        pairs = np.stack([chosen["image_score"], chosen["map_maximum"]], axis=1)
        # The drawn parts that were never references are the same whatever the number of references.
        good, bad = pairs[chosen["is_bad"] == 0][-NUM_GOOD:], pairs[chosen["is_bad"] == 1]
        for decide_by in DecideBy:
            for budget in BUDGETS:
                needed = num_needed(budget / (2 if decide_by is DecideBy.either else 1))
                if needed >= len(good):
                    continue
                num = max(needed, len(good) // 2)
                yield {
                    "category": category,
                    "references": references,
                    "decide_by": decide_by.value,
                    "budget": budget,
                    "good": len(good),
                    "bad": len(bad),
                    "calibrated_on": num,
                    "bound": round(exact_bound(num, budget, decide_by), 4),
                    **false_alarms(good, bad, num, budget, decide_by, rng),
                    **{
                        f"overkill_at_escape_{100 * escape:g}": round(
                            overkill_at_escape(good[:, 0], bad[:, 0], escape), 4
                        )
                        for escape in ESCAPES
                    },
                }


def summary(table: list[dict[str, Any]]) -> dict[str, object]:
    """Count in how many rows the budget is kept, and the bound met."""
    alone = [row for row in table if row["decide_by"] != DecideBy.either.value]
    return {
        "rows": len(table),
        "interval_not_above_budget": sum(row["low"] <= row["budget"] for row in table),
        "rows_of_one_score": len(alone),
        "interval_holds_bound": sum(row["low"] <= row["bound"] <= row["high"] for row in alone),
        "largest_difference_to_bound": max(round(abs(row["false_alarms"] - row["bound"]), 4) for row in alone),
    }


def exact_bound(num: int, budget: float, decide_by: DecideBy) -> float:
    """Return the probability of a false alarm without ties, which whole numbers of parts keep below the budget.

    With ``either`` it is an upper bound: of the two scores, which usually rise together.
    """
    rule = Rule(decide_by)
    share = floor((num + 1) * rule.budget(budget)) / (num + 1)
    return 2 * share if decide_by is DecideBy.either else share


def false_alarms(
    good: np.ndarray, bad: np.ndarray, num: int, budget: float, decide_by: DecideBy, rng: np.random.Generator
) -> dict[str, object]:
    """Calibrate on `num` good parts and decide about the others, again and again.

    The interval is that of one tested part for each split, drawn at random: those are independent Bernoulli trials,
    given the set. The 95th percentile is over splits: what a line may see that calibrated once.
    """
    deciding = {DecideBy.image: [0], DecideBy.region: [1], DecideBy.either: [0, 1]}[decide_by]
    rates, escapes, single = [], [], 0
    for _ in range(SPLITS):
        order = rng.permutation(len(good))
        calibrating, tested = good[order[:num]], good[order[num:]]
        made = calibrate(calibrating[:, 0], calibrating[:, 1], budget, {"category": ""}, rule=Rule(decide_by))
        thresholds = np.array([made.image.threshold, made.region.threshold])
        alarms = (tested > thresholds)[:, deciding].any(axis=1)
        rates.append(float(alarms.mean()))
        escapes.append(float((~(bad > thresholds)[:, deciding].any(axis=1)).mean()))
        single += bool(alarms[0])
    interval = binomtest(single, SPLITS).proportion_ci(0.95)
    return {
        "false_alarms": round(float(np.mean(rates)), 4),
        "one_part_each": single / SPLITS,
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "percentile_95": round(float(np.percentile(rates, 95)), 4),
        "escape": round(float(np.mean(escapes)), 4),
    }


if __name__ == "__main__":
    main()
