"""From a config and a run folder to what Lightning's loggers are given."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afr_clip.metrics.average import METRICS
from afr_clip.metrics.log_keys import heat_map_key, mean_key
from afr_clip.models.checkpoint import LAST
from afr_clip.reports.compare.paper import FULL
from afr_clip.reports.compare.settings import run_name
from afr_clip.reports.pictures.heat_maps import FOLDER, read_heat_maps
from afr_clip.reports.record.results import RESULTS, category_results, read_results, read_values
from afr_clip.reports.record.run_folder import MANIFEST
from afr_clip.reports.record.schema import Mirrored, read_record
from afr_clip.training.loggers.metrics_csv import read_metrics
from afr_clip.training.loggers.mirror import Mirror, Picture, Published, RunFacts, require_package
from afr_clip.training.loggers.mlflow import MLflow
from afr_clip.training.loggers.tensorboard import TensorBoard
from afr_clip.training.loggers.wandb import Wandb


def build_mirrors(
    chosen: Mapping[str, Any], folder: Path, manifest: Mapping[str, Any], drop_from_step: int | None = None
) -> list[Mirror]:
    """Build the loggers that ``logger=`` adds to ``metrics.csv``.

    Args:
        chosen: The config node ``logger``; plain values.
        manifest: The manifest as the run starts.
        drop_from_step: Step from which a resumed training logs again; ``None`` if nothing was logged before.

    Returns:
        The loggers, none of them open yet.

    Raises:
        MissingPackageError: If a package is not installed.
    """
    mirrors: list[Mirror] = []
    if (wandb := chosen.get("wandb")) is not None:
        require_package("wandb", "logger=wandb")
        where = {key: value for key, value in wandb.items() if key != "tags"}
        earlier = list(read_metrics(folder / "metrics.csv")) if drop_from_step else []
        mirrors.append(Mirror(Wandb, facts_of(folder, manifest, wandb["tags"]), earlier, **where))
    facts = facts_of(folder, manifest)
    if (tensorboard := chosen.get("tensorboard")) is not None:
        require_package("tensorboard", "logger=tensorboard")
        mirrors.append(Mirror(TensorBoard, facts, **tensorboard, drop_from_step=drop_from_step))
    if (mlflow := chosen.get("mlflow")) is not None:
        require_package("mlflow", "logger=mlflow")
        if mlflow["tracking_uri"] is None or mlflow["tracking_uri"].startswith("sqlite:"):
            require_package("sqlalchemy", "logger=mlflow with a local database")
        mirrors.append(Mirror(MLflow, facts, **mlflow))
    return mirrors


def facts_of(folder: Path, manifest: Mapping[str, Any], tags: Sequence[str] = ()) -> RunFacts:
    """Describe a run by its config and manifest; its method, backbone and training set become tags too."""
    config = dict(manifest["config"])
    auxiliary = (manifest.get("auxiliary") or (manifest.get("checkpoint") or {}).get("auxiliary") or {}).get("name")
    named = {"method": config["module"]["name"], "backbone": config["backbone"]["name"], "trained_on": auxiliary}
    labels = [*tags, *(f"{key}:{value}" for key, value in named.items() if value)]
    described = {
        "ablation": (manifest.get("choices") or {}).get("ablation", FULL),
        "trained_on": auxiliary,
        "manifest": {key: value for key, value in manifest.items() if key != "config"},
    }
    name = run_name(manifest) if manifest.get("backbone") is not None else ""
    return RunFacts(folder, manifest["command"], config | described, tuple(dict.fromkeys(labels)), name)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a run folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = folder / MANIFEST
    if not path.is_file():
        msg = f"{folder} is not a run folder: it holds no {MANIFEST}. Pass run folders."
        raise FileNotFoundError(msg)
    return read_record(path, Mirrored)


def read_published(folder: Path) -> Published:
    """Read what a finished run left in its folder; results, heat maps and checkpoint may be missing."""
    files = [path for name in (RESULTS, "results.csv") if (path := folder / name).is_file()]
    measured = read_results(folder / RESULTS)[1] if folder / RESULTS in files else read_values([])
    rows: list[list[str | float | int | None]] = []
    means: dict[str, float] = {}
    for dataset, values in measured.groupby("dataset", sort=False):
        categories = category_results(values)
        for row in categories:
            known = [None if math.isnan(row.values[metric]) else row.values[metric] for metric in METRICS]
            rows.append([str(dataset), row.category, *known, row.num_normal, row.num_anomalous])
        for metric, value in categories[-1].values.items():  # the last row is the mean
            if not math.isnan(value):
                means[mean_key(str(dataset), metric)] = value
    heat_maps = {
        heat_map_key(path.name, sheet): [Picture(**one) for one in kept]
        for path in sorted((folder / FOLDER).glob("*/"))
        for sheet, kept in read_heat_maps(path).items()
        if kept
    }
    checkpoint = folder / "checkpoints" / LAST
    return Published(rows, means, heat_maps, checkpoint if checkpoint.is_file() else None, files, read_manifest(folder))
