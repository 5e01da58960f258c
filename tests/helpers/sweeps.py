"""Sweeps written by hand: run folders with the numbers a test wants, and the record that a sweep leaves of them."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afr_clip.metrics.average import METRICS, CategoryResult
from afr_clip.reports.compare.ablation import AblationTable, measure
from afr_clip.reports.compare.paper import ABLATIONS
from afr_clip.reports.compare.report import collect
from afr_clip.reports.compare.sweeps import read_sweep
from afr_clip.reports.record.results import DatasetResult, write_results
from afr_clip.reports.record.run_folder import write_json
from helpers.results import CONFIG, FACTS, name_of, source

VISA = source("VisA")

Numbers = Mapping[str, float]
"""A metric by category; NaN where it is undefined."""


def config_with(**keys: Any) -> dict[str, Any]:
    """Change keys of the config that runs here have; ``__`` stands for a dot."""
    config = copy.deepcopy(CONFIG)
    for key, value in keys.items():
        *path, last = key.split("__")
        node: dict[str, Any] = config
        for part in path:
            node = node[part]
        node[last] = value
    return config


def write_cell(
    folder: Path,
    values: Mapping[str, float] | Sequence[float],
    *,
    seed: int = 0,
    title: str = "MVTec AD",
    target: Mapping[str, Any] | None = None,
    auxiliary: Mapping[str, Any] | None = None,
    **manifest: Any,
) -> Path:
    """Write the run folder of one cell.

    Args:
        folder: The run folder.
        values: Every metric by category; a sequence stands for the first categories of the dataset.
        seed: Of the training.
        title: What was scored.
        target: What the manifest says of it; by default what the values name.
        auxiliary: What was trained on; VisA by default.
        manifest: Changed facts.

    Returns:
        ``folder``.
    """
    named = values if isinstance(values, Mapping) else {f"{title} {i}": value for i, value in enumerate(values)}
    facts = dict(target or source(title, list(named)))
    content = {
        **FACTS,
        "config": CONFIG,
        "seed": seed,
        "auxiliary": dict(auxiliary or VISA),
        "targets": {name_of(title): facts},
        **manifest,
    }
    rows = tuple(CategoryResult(category, dict.fromkeys(METRICS, value), 3, 4) for category, value in named.items())
    write_results(folder, [DatasetResult(name_of(title), rows, dict.fromkeys(named, 0))], content)
    write_json(folder / "manifest.json", content)
    return folder


def write_loss(folder: Path, losses: Sequence[float]) -> None:
    """Write the ``metrics.csv`` of a training."""
    rows = [f"{epoch},{epoch},train/loss_epoch,{loss}" for epoch, loss in enumerate(losses)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,step,metric,value", *rows, ""]))


def cell(setting: str, seed: int, state: str = "done", error: str | None = None, folder: str = "") -> dict[str, Any]:
    """Describe a cell as a sweep does."""
    place = folder or f"cells/{setting}_{seed}"
    return {"setting": setting, "seed": seed, "folder": place, "state": state, "error": error}


def write_record(sweep: Path, cells: Sequence[Mapping[str, Any]], name: str = "table3", reference: str = "") -> Path:
    """Write the record of an experiment.

    Args:
        sweep: The sweep folder.
        cells: What `cell` gives.
        name: Of the experiment.
        reference: Its reference; that of the paper's table by default.

    Returns:
        The file.
    """
    path = sweep / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "experiment": name,
        "reference": reference or ABLATIONS[name].reference,
        "axes": {},
        "overrides": [],
        "cells": [*cells],
    }
    path.write_text(json.dumps(content))
    return path


def write_search(sweep: Path, values: Sequence[float | None], **content: Any) -> Path:
    """Write the record of a search over a learning rate, a window and a style of the prompts."""
    trials = [
        {
            "number": i,
            "params": {
                "optimizer.lr": 10 ** (-4 + 0.5 * (i % 5)),
                "module.network.mpfa_window": 1 + 2 * (i % 3),
                "module.network.prompts.style": ("single", "winclip")[i % 2],
            },
            "value": value,
            "state": "COMPLETE" if value is not None else "FAIL",
            "folder": f"trials/{i}",
        }
        for i, value in enumerate(values)
    ]
    path = sweep / "search.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"objective": {"metric": "image_auroc", "direction": "maximize"}, "trials": trials} | content)
    )
    return path


def table_of(sweep: Path) -> AblationTable:
    """Put the cells of the only experiment of a sweep together."""
    (experiment,) = read_sweep(sweep).experiments
    return measure(experiment)


def write_ablations(sweep_dir: Path, out: Path) -> Path:
    """Write the report of a sweep and return its page."""
    return collect([read_sweep(sweep_dir)]).write(out).path
