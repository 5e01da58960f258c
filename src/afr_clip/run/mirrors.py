"""From a config and a run folder to what mirrors of the run are told."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afr_clip.metrics.log_keys import heat_map_key
from afr_clip.reports.compare.ablation.paper import FULL
from afr_clip.reports.pictures.heat_maps import FOLDER, read_heat_maps
from afr_clip.reports.record.results import read_tables
from afr_clip.reports.record.run_folder import MANIFEST
from afr_clip.training.checkpoint import LAST
from afr_clip.training.loggers.metrics_csv import read_metrics
from afr_clip.training.loggers.mirror import Mirror, RunFacts
from afr_clip.training.loggers.mlflow import MLflowMirror
from afr_clip.training.loggers.published import HeatMap, Published, ResultRow
from afr_clip.training.loggers.tensorboard import TensorBoardMirror
from afr_clip.training.loggers.wandb import WandbMirror


def build_mirrors(
    chosen: Mapping[str, Any], folder: Path, manifest: Mapping[str, Any], drop_from_step: int | None = None
) -> list[Mirror]:
    """Build what ``logger=`` adds to the CSV file.

    Args:
        chosen: The node ``logger``, plain.
        folder: The run folder.
        manifest: What is known of the run when it begins.
        drop_from_step: Step from which a resumed training logs again; ``None`` where nothing was logged before.

    Returns:
        The mirrors, none of them open yet.

    Raises:
        MissingPackageError: If a package is not installed.
    """
    mirrors: list[Mirror] = []
    if (wandb := chosen.get("wandb")) is not None:
        where = {key: value for key, value in wandb.items() if key != "tags"}
        earlier = list(read_metrics(folder / "metrics.csv")) if drop_from_step else []
        mirrors.append(WandbMirror(facts_of(folder, manifest, wandb["tags"]), **where, earlier=earlier))
    facts = facts_of(folder, manifest)
    if (tensorboard := chosen.get("tensorboard")) is not None:
        mirrors.append(TensorBoardMirror(facts, **tensorboard, drop_from_step=drop_from_step))
    if (mlflow := chosen.get("mlflow")) is not None:
        mirrors.append(MLflowMirror(facts, **mlflow))
    return mirrors


def facts_of(folder: Path, manifest: Mapping[str, Any], tags: Sequence[str] = ()) -> RunFacts:
    """Say what describes a run: its config as it was resolved, and beside it the facts of its manifest.

    Args:
        folder: The run folder.
        manifest: Of the run.
        tags: Labels that were typed.

    Returns:
        The facts; the run also gets its method, its backbone and what it was trained on as labels.
    """
    config = dict(manifest["config"])
    auxiliary = (manifest.get("auxiliary") or (manifest.get("checkpoint") or {}).get("auxiliary") or {}).get("name")
    named = {"method": config["module"]["name"], "backbone": config["backbone"]["name"], "trained_on": auxiliary}
    labels = [*tags, *(f"{key}:{value}" for key, value in named.items() if value)]
    described = {
        "ablation": (manifest.get("choices") or {}).get("ablation", FULL),
        "trained_on": auxiliary,
        "manifest": {key: value for key, value in manifest.items() if key != "config"},
    }
    return RunFacts(folder, manifest["command"], config | described, tuple(dict.fromkeys(labels)))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a run folder.

    Args:
        folder: The run folder.

    Returns:
        Plain values.

    Raises:
        FileNotFoundError: If the folder is not that of a run.
    """
    path = folder / MANIFEST
    if not path.is_file():
        msg = f"A run folder must hold {MANIFEST}, got {folder}, which does not. Pass run folders."
        raise FileNotFoundError(msg)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def read_published(folder: Path) -> Published:
    """Read what a finished run left in its folder.

    Args:
        folder: The run folder.

    Returns:
        Results, heat maps, checkpoint; whatever of it is there.
    """
    files = [path for name in ("results.json", "results.csv") if (path := folder / name).is_file()]
    results = json.loads(files[0].read_text(encoding="utf-8"))["results"] if files else []
    heat_maps: dict[str, list[HeatMap]] = {}
    for path in sorted((folder / FOLDER).glob("*/")):
        for sheet, kept in read_heat_maps(path).items():
            if kept:
                heat_maps[heat_map_key(path.name, sheet)] = [HeatMap(**vars(one)) for one in kept]
    checkpoint = folder / "checkpoints" / LAST
    return Published(
        rows=_rows(results),
        heat_maps=heat_maps,
        checkpoint=checkpoint if checkpoint.is_file() else None,
        files=files,
        manifest=read_manifest(folder),
    )


def _rows(results: Sequence[Mapping[str, Any]]) -> list[ResultRow]:
    return [
        ResultRow(dataset, row.category, row.values, row.num_normal, row.num_anomalous, is_mean=i == len(rows) - 1)
        for dataset, rows in read_tables(results).items()
        for i, row in enumerate(rows)
    ]
