"""Runs written by hand: a `results.json` with the numbers a test wants, in the form that runs write."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afr_clip.metrics.average import METRICS, CategoryResult
from afr_clip.reports.compare.tables import aggregate
from afr_clip.reports.compare.values import Measured, read_runs
from afr_clip.reports.record.provenance import PAPER_ARCHITECTURE
from afr_clip.reports.record.results import DatasetResult, write_results
from afr_clip.reports.record.run_folder import write_json

PUBLISHED = {
    "VisA": (12, 962, 1200),
    "BTAD": (3, 451, 290),
    "MPDD": (6, 176, 282),
    "MVTec AD": (15, 467, 1258),
    "Head CT": (1, 100, 100),
    "Brain MRI": (1, 98, 155),
    "Br35H": (1, 1500, 1500),
    "ISIC": (1, 0, 379),
    "ColonDB": (1, 0, 380),
    "ClinicDB": (1, 0, 612),
    "TN3K": (1, 0, 614),
}
"""Categories, normal and anomalous images of the published test splits."""

BACKBONE = {
    "name": "vit_l_14_336",
    "architecture": PAPER_ARCHITECTURE,
    "random_weights": False,
    "fingerprint": "f" * 64,
}
OF_WINCLIP = BACKBONE | {"name": "vit_b_16_plus_240", "architecture": "ViT-B-16-plus-240"}
TINY = {"name": "tiny", "architecture": "afr-clip-tiny", "random_weights": True, "fingerprint": "0" * 64}

FACTS: dict[str, Any] = {
    "command": "train",
    "overrides": [],
    "started": "2026-11-28T12:00:00+0000",
    "afr_clip": "0.2.0",
    "commit": None,
    "python": "3.11.7",
    "packages": {"torch": "2.6.0"},
    "machine": {"system": "Linux", "processor": "A processor", "threads": 2, "gpus": []},
    "backbone": BACKBONE,
}
"""What every manifest says."""

CONFIG = {
    "task_name": "train",
    "backbone": {"name": "vit_l_14_336", "image_size": 518, "weights": "/here/weights.pt"},
    "module": {"name": "afr_clip", "network": {"mpfa_window": 3, "cmfr": {"enabled": True}}},
    "loss": {"image_weight": 1.0},
    "data": {"batch_size": 4, "num_workers": 2},
    "trainer": {"max_epochs": 100, "precision": "32-true", "accelerator": "auto"},
}


def name_of(title: str) -> str:
    """Give a dataset the name its config would have."""
    return title.lower().replace(" ", "_")


def source(title: str, categories: Sequence[str] | None = None, digest: str = "a") -> dict[str, Any]:
    """Describe a dataset as a manifest does; the published test split unless categories are named."""
    num, num_normal, num_anomalous = PUBLISHED.get(title, (1, 3, 4))
    names = [f"{title} {i}" for i in range(num)] if categories is None else list(categories)
    return {
        "name": name_of(title),
        "title": title,
        "categories": names,
        "num_normal": num_normal,
        "num_anomalous": num_anomalous,
        "sha256": digest * 64,
    }


def write_run(
    folder: Path,
    values: Mapping[str, float | Mapping[str, float]],
    *,
    auxiliary: Mapping[str, Any] | None = None,
    seed: int = 0,
    sources: Mapping[str, Mapping[str, Any]] | None = None,
    **manifest: Any,
) -> Path:
    """Write the results of one run.

    Args:
        folder: The run folder.
        values: By title of the dataset: every metric in every category, or single metrics, the others 0.5.
        auxiliary: What was trained on; without it, nothing was.
        seed: Of the training.
        sources: Datasets other than the published test splits, by title.
        manifest: Changed facts.

    Returns:
        ``folder``.
    """
    targets = {name_of(title): dict((sources or {}).get(title) or source(title)) for title in values}
    trained = {"seed": seed} | ({} if auxiliary is None else {"auxiliary": dict(auxiliary)})
    content = {**FACTS, "config": CONFIG, "targets": targets, **trained, **manifest}
    results = []
    for title, given in values.items():
        numbers = given if isinstance(given, Mapping) else dict.fromkeys(METRICS, given)
        row = dict.fromkeys(METRICS, 0.5) | dict(numbers)
        categories = targets[name_of(title)]["categories"]
        rows = tuple(CategoryResult(category, row, 3, 4) for category in categories)
        results.append(DatasetResult(name_of(title), rows, dict.fromkeys(categories, 0)))
    write_results(folder, results, content)
    write_json(folder / "manifest.json", content)
    return folder


def measured_in(folder: Path) -> Measured:
    """Put everything together that the runs below a folder measured."""
    return aggregate(read_runs([folder]))
