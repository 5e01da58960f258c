"""`python -m afr_clip.dashboard`: upload offline runs, rebuild runs from their files, build workspace and report."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from afr_clip.config.nodes import config_dir
from afr_clip.metrics.log_keys import figure_key
from afr_clip.reports.dashboards import DashboardSettings, build_report, build_workspace, write_specs
from afr_clip.run.mirrors import facts_of, read_manifest, read_published
from afr_clip.training.loggers.metrics_csv import read_metrics
from afr_clip.training.loggers.mirror import Mirror, Picture, read_id, write_id
from afr_clip.training.loggers.wandb import RUN_ID, Wandb, default_entity, has_api_key, reaches_server

KILLED_AFTER = 60.0
"""Seconds without a change after which an unfinished offline run counts as killed."""


class DashboardError(ValueError):
    """Weights & Biases is missing something, or refused a request."""


@dataclass(frozen=True)
class OfflineRun:
    """A run that was logged offline.

    Attributes:
        pieces: A file for each time it was started, in that order.
        is_superseded: Whether the run folder has another id by now, because the run was rebuilt.
    """

    folder: Path
    run_id: str
    pieces: tuple[Path, ...]
    is_superseded: bool


def is_uploaded(piece: Path) -> bool:
    """Whether Weights & Biases marked a file as uploaded."""
    return piece.with_suffix(".wandb.synced").exists()


def require_key() -> None:
    """Raise ``DashboardError`` if there is no API key."""
    if not has_api_key():
        msg = (
            "Uploading needs an API key of Weights & Biases, but none is set. Set WANDB_API_KEY or run wandb login. "
            "Until then, the run folders keep everything."
        )
        raise DashboardError(msg)


def find_offline_runs(folders: Sequence[Path]) -> list[OfflineRun]:
    """Find what was logged offline in and below folders: one entry per run folder and id.

    Raises:
        FileNotFoundError: If a folder does not exist.
        DashboardError: If there is nothing.
    """
    found: dict[tuple[Path, str], set[Path]] = defaultdict(set)
    for folder in folders:
        if not folder.is_dir():
            msg = f"{folder} is not a directory. Pass run folders, or a folder that contains run folders."
            raise FileNotFoundError(msg)
        for piece in folder.resolve().rglob("wandb/offline-run-*/run-*.wandb"):
            found[piece.parents[2], piece.stem.removeprefix("run-")].add(piece)
    if not found:
        msg = (
            f"{folders[0]} contains no runs that were logged offline (RUN/wandb/offline-run-*). "
            f"Train with logger=wandb, or create the W&B runs from the folders: "
            f"afr-clip dashboard rebuild RUN."
        )
        raise DashboardError(msg)
    return [
        # The names of the pieces begin with their starting times.
        OfflineRun(folder, run_id, tuple(sorted(pieces)), read_id(folder / RUN_ID) not in {run_id, None})
        for (folder, run_id), pieces in sorted(found.items())
    ]


def sync(folders: Sequence[Path], project: str | None, entity: str | None) -> bool:
    """Upload what was logged offline, and print the outcome for every run.

    Args:
        folders: Run folders, or folders that contain some.
        project: Replaces the project of each run.
    """
    runs = find_offline_runs(folders)
    require_key()
    if not reaches_server():
        msg = "Uploading needs a network, but the server of Weights & Biases does not answer. Try again later."
        raise DashboardError(msg)
    outcomes = []
    for run in runs:
        is_up, outcome = _upload(run, project, entity)
        outcomes.append(is_up)
        sys.stdout.write(f"{run.folder} ({run.run_id}): {outcome}\n")
    return all(outcomes)


def _upload(run: OfflineRun, project: str | None, entity: str | None) -> tuple[bool, str]:
    if run.is_superseded:
        return True, "skipped, because the run was rebuilt under another id"
    states = {piece: state_of(piece) for piece in run.pieces if not is_uploaded(piece)}
    if not states:
        return True, "already uploaded"
    if "running" in states.values():
        return False, "still running; upload it when it has finished"
    pending, empty = [p for p in states if states[p] != "empty"], list(states.values()).count("empty")
    note = f"; {empty} are empty, because their process was killed early" if empty else ""
    if not pending:
        return True, f"nothing to upload{note}"
    options = [*(["--project", project] if project else []), *(["--entity", entity] if entity else [])]
    environment = {key: value for key, value in os.environ.items() if key not in {"WANDB_MODE", "WANDB_SILENT"}}
    # All pieces in one call: W&B then appends them to each other under the id that they share.
    command = [sys.executable, "-m", "wandb", "sync", *options, *(str(piece.parent) for piece in pending)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    left = [piece for piece in pending if not is_uploaded(piece)]
    if not left:
        return True, f"uploaded, {len(pending)} of {len(run.pieces)} pieces{note}"
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return False, f"failed, {len(left)} pieces are left: {lines[-1] if lines else 'wandb sync printed nothing'}"


def state_of(piece: Path) -> str:
    """Return ``running``, ``empty`` where nothing can be read, or ``ended``, whether finished or killed."""
    summary = read_offline_summary(piece)
    if summary.get("state") != "finished" and time.time() - piece.stat().st_mtime <= KILLED_AFTER:
        return "running"
    return "ended" if summary.get("run_id") else "empty"


def read_offline_summary(piece: Path) -> dict[str, Any]:
    """Read state, config, tags and last values of an offline run with W&B's own reader; nothing if it fails."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(piece)]
    environment = os.environ | {"WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    try:
        summary: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        return {}
    return summary


def rebuild(folders: Sequence[Path], changed: Mapping[str, str | None]) -> None:
    """Create the W&B runs of run folders again, under new ids, from the files in the folders alone.

    Args:
        changed: Project, entity and group that replace the run's own; ``None`` keeps them.

    Raises:
        DashboardError: If Weights & Biases fails; the folder then keeps its earlier id.
    """
    manifests = {folder: read_manifest(folder) for folder in folders}  # before anything is sent
    for folder, manifest in manifests.items():
        run_id = _rebuild(folder.resolve(), manifest, changed)
        without = "" if (folder / "heat_maps").is_dir() else "; without heat maps, which only logger=wandb writes"
        sys.stdout.write(f"{folder} ({run_id}): rebuilt{without}\n")


def _rebuild(folder: Path, manifest: Mapping[str, Any], changed: Mapping[str, str | None]) -> str:
    own = (manifest["config"].get("logger") or {}).get("wandb")
    node: Any = own or OmegaConf.load(Path(config_dir()) / "logger" / "wandb.yaml").wandb
    chosen = dict(node) | {key: value for key, value in changed.items() if value is not None}
    tags = chosen.pop("tags")
    before = read_id(folder / RUN_ID)
    run_id = write_id(folder / RUN_ID, secrets.token_hex(4))  # W&B never accepts the id of a deleted run again
    mirror = Mirror(Wandb, facts_of(folder, manifest, tags), list(read_metrics(folder / "metrics.csv")), **chosen)
    for path in sorted((folder / "figures").glob("*/*.png")):
        if path.resolve().is_relative_to(folder):  # a link could upload a file from elsewhere
            mirror.log_pictures(figure_key(path.parent.name, path.stem), [Picture(path)])
    mirror.publish(read_published(folder))
    mirror.close(succeeded=True)
    if mirror.is_lost:
        if before is not None:
            write_id(folder / RUN_ID, before)
        msg = f"The W&B run of {folder} could not be rebuilt; its id is still {before}. See the warning above."
        raise DashboardError(msg)
    return run_id


def datasets_of_the_paper() -> list[str]:
    """Name the targets of the paper's protocol."""
    legs = OmegaConf.load(Path(config_dir()) / "protocol" / "cross_dataset.yaml").legs
    return list(dict.fromkeys(str(name) for targets in legs.values() for name in targets))


def build(settings: DashboardSettings, out: Path | None) -> None:
    """Build workspace and report; write their JSON to ``out``, or save them at Weights & Biases.

    Raises:
        DashboardError: If they are to be saved and there is no API key, or Weights & Biases refuses them.
    """
    if out is not None:
        for path in write_specs(build_workspace(settings), build_report(settings), out):
            sys.stdout.write(f"{path}\n")
        return
    require_key()
    try:
        own = replace(settings, entity=settings.entity or default_entity())
        for name, make in (("workspace", build_workspace), ("report", build_report)):
            built = make(own)
            built.save()
            sys.stdout.write(f"{name}: {built.url}\n")
    except Exception as error:
        msg = f"Weights & Biases refused the dashboards: {error}. Check project, entity and network."
        raise DashboardError(msg) from error
