"""What a run before in the same folder scored, read back."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afr_clip.metrics.protocol import CategoryResult
from afr_clip.reports.record.results import TableRow, read_tables
from afr_clip.reports.record.tables import DatasetResult, ImageRow, ScoredDataset, read_scores


def read_scored(folder: Path, scored_with: Mapping[str, Any]) -> dict[str, ScoredDataset] | None:
    """Read what was scored in a run folder, as it was written.

    Args:
        folder: The run folder.
        scored_with: What the manifest must say datasets were scored with: weights, and what a scoring leaves behind.

    Returns:
        The datasets by name, those that lack images in ``scores.csv`` left out; ``None`` where nothing was scored, or
        with something else.
    """
    path = folder / "results.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"manifest": {}}
    if content["manifest"].get("scored_with") != scored_with:
        return None
    images: dict[str, list[ImageRow]] = {}
    for row in read_scores(folder):
        images.setdefault(row.dataset, []).append(row)
    scored = {}
    for name, rows in read_tables(content["results"]).items():
        *categories, mean = rows
        if len(images.get(name, ())) == mean.num_normal + mean.num_anomalous:
            result = DatasetResult(name, tuple(map(_as_measured, categories)), content["vanished_defects"][name])
            scored[name] = ScoredDataset(content["manifest"]["targets"][name], result, images[name])
    return scored


def unchanged(scored: Mapping[str, ScoredDataset], facts: Mapping[str, Mapping[str, Any]]) -> dict[str, ScoredDataset]:
    """Choose the datasets whose images are still the ones that were scored.

    Args:
        scored: What was scored.
        facts: What the targets are now, by name.

    Returns:
        Those of ``scored`` that are among the targets and hold the same images.
    """
    return {
        name: dataset
        for name, dataset in scored.items()
        if name in facts and facts[name]["sha256"] == dataset.facts["sha256"]
    }


def _as_measured(row: TableRow) -> CategoryResult:
    values = {metric: math.nan if value is None else value for metric, value in row.values.items()}
    return CategoryResult(row.category, values, row.num_normal, row.num_anomalous)
