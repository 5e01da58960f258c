"""What `python -m afr_clip.dashboard` does: upload offline runs, make runs anew from their files, build dashboards."""

import json
import logging
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from afr_clip.cli.command import config_dir
from afr_clip.config.assemble import plain
from afr_clip.metrics.log_keys import figure_key
from afr_clip.reports.dashboards.build import build_report, build_workspace, write_specs
from afr_clip.reports.dashboards.settings import DashboardSettings
from afr_clip.run.mirrors import facts_of, read_manifest, read_published
from afr_clip.training.loggers.metrics_csv import read_metrics
from afr_clip.training.loggers.mirror import keep_id, kept_id, new_id
from afr_clip.training.loggers.wandb import RUN_ID, WandbMirror, default_entity, has_api_key, reaches_server

logger = logging.getLogger(__name__)

STILL = 60.0
"""Seconds without a change after which a piece that never ended belongs to a run that was killed."""


class DashboardError(ValueError):
    """Something that Weights & Biases cannot be asked for, or did not do."""


@dataclass(frozen=True)
class OfflineRun:
    """A run that was logged offline, in one piece for every time that it was started.

    Attributes:
        folder: The run folder.
        run_id: Its id at Weights & Biases.
        pieces: The files, in the order they were written.
        is_superseded: Whether the folder's run has another id by now, because it was made anew.
    """

    folder: Path
    run_id: str
    pieces: tuple[Path, ...]
    is_superseded: bool

    @property
    def pending(self) -> list[Path]:
        """The pieces that are not marked as uploaded."""
        return [piece for piece in self.pieces if not is_uploaded(piece)]


def is_uploaded(piece: Path) -> bool:
    """Whether Weights & Biases marked a file as uploaded."""
    return piece.with_suffix(".wandb.synced").exists()


def require_key() -> None:
    """Make sure that there is an API key.

    Raises:
        DashboardError: If there is none.
    """
    if not has_api_key():
        msg = (
            "Uploading needs an API key of Weights & Biases, and there is none. Set WANDB_API_KEY or run wandb login; "
            "what the dashboards are made of stays in the run folders."
        )
        raise DashboardError(msg)


def find_offline_runs(folders: Sequence[Path]) -> list[OfflineRun]:
    """Find what was logged offline in and below folders.

    Args:
        folders: Run folders, or folders that hold some.

    Returns:
        One entry per run folder and id.

    Raises:
        FileNotFoundError: If a folder does not exist.
        DashboardError: If there is nothing.
    """
    found: dict[tuple[Path, str], set[Path]] = defaultdict(set)
    for folder in folders:
        _require_folder(folder)
        for piece in folder.resolve().rglob("wandb/offline-run-*/run-*.wandb"):
            found[piece.parents[2], piece.stem.removeprefix("run-")].add(piece)
    if not found:
        msg = (
            f"{folders[0]} must hold runs that were logged offline (RUN/wandb/offline-run-*), and holds none. "
            f"Train with logger=wandb, or make the runs from their folders: python -m afr_clip.dashboard rebuild RUN."
        )
        raise DashboardError(msg)
    return [
        # The names of the pieces begin with the time they were begun.
        OfflineRun(folder, run_id, tuple(sorted(pieces)), kept_id(folder / RUN_ID) not in {run_id, None})
        for (folder, run_id), pieces in sorted(found.items())
    ]


def sync(folders: Sequence[Path], project: str | None, entity: str | None) -> bool:
    """Upload what was logged offline, and say of every run what became of it.

    Args:
        folders: Run folders, or folders that hold some.
        project: Another project than the one each run names.
        entity: Another user or team.

    Returns:
        Whether everything is uploaded now.
    """
    runs = find_offline_runs(folders)
    require_key()
    if not reaches_server():
        msg = "Uploading needs a network, and the server of Weights & Biases does not answer. Run again when it does."
        raise DashboardError(msg)
    outcomes = []
    for run in runs:
        is_up, said = _upload(run, project, entity)
        outcomes.append(is_up)
        sys.stdout.write(f"{run.folder} ({run.run_id}): {said}\n")
    return all(outcomes)


def _upload(run: OfflineRun, project: str | None, entity: str | None) -> tuple[bool, str]:
    pending = run.pending
    if run.is_superseded:
        return True, "left out, the run was made anew under another id"
    if not pending:
        return True, "was uploaded before"
    states = {piece: state_of(piece) for piece in pending}
    if "running" in states.values():
        return False, "is still running; upload it when it has ended"
    pending, empty = [p for p in pending if states[p] != "empty"], list(states.values()).count("empty")
    said = f"; {empty} hold nothing, because their process was killed early" if empty else ""
    if not pending:
        return True, f"there is nothing to upload{said}"
    options = [*(["--project", project] if project else []), *(["--entity", entity] if entity else [])]
    environment = {key: value for key, value in os.environ.items() if key not in {"WANDB_MODE", "WANDB_SILENT"}}
    # All pieces in one call: W&B then puts one behind the other under the id that they share.
    command = [sys.executable, "-m", "wandb", "sync", *options, *(str(piece.parent) for piece in pending)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    left = [piece for piece in pending if not is_uploaded(piece)]
    if not left:
        return True, f"uploaded, {len(pending)} of {len(run.pieces)} pieces{said}"
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return False, f"failed, {len(left)} pieces are left: {lines[-1] if lines else 'without a word'}"


def state_of(piece: Path) -> str:
    """Say what an offline run is: ``running``, ``empty`` where nothing can be read, or ``ended``, however it did.

    Args:
        piece: A ``run-ID.wandb``.

    Returns:
        One of the three.
    """
    summary = read_offline_summary(piece)
    is_still = time.time() - piece.stat().st_mtime > STILL
    if summary.get("state") != "finished" and not is_still:
        return "running"
    return "ended" if summary.get("run_id") else "empty"


def read_offline_summary(piece: Path) -> dict[str, Any]:
    """Read state, config, tags and last values of an offline run with W&B's own reader.

    Args:
        piece: A ``run-ID.wandb``.

    Returns:
        As the reader gives it; nothing where it cannot read the file.
    """
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(piece)]
    environment = os.environ | {"WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    try:
        summary: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        return {}
    return summary


def rebuild(folders: Sequence[Path], changed: Mapping[str, str | None]) -> None:
    """Make the runs of folders anew at Weights & Biases, from the files in the folders alone.

    Args:
        folders: Run folders.
        changed: Project, entity and group, where they are not to be the run's own.

    Raises:
        DashboardError: If Weights & Biases fails; the folder then keeps the id it had.
    """
    manifests = {folder: read_manifest(folder) for folder in folders}  # before anything is sent
    for folder, manifest in manifests.items():
        mirror = _rebuilt(folder.resolve(), manifest, changed)
        heat_maps = (
            ""
            if (folder / "heat_maps").is_dir()
            else "; it has no heat maps, which a run with logger=wandb keeps once a target is scored"
        )
        sys.stdout.write(f"{folder} ({mirror}): made anew{heat_maps}\n")


def _rebuilt(folder: Path, manifest: Mapping[str, Any], changed: Mapping[str, str | None]) -> str:
    chosen = _wandb_node(manifest) | {key: value for key, value in changed.items() if value is not None}
    tags = chosen.pop("tags")
    before = kept_id(folder / RUN_ID)
    # W&B never gives an id out again, not even that of a deleted run.
    run_id = keep_id(folder / RUN_ID, new_id())
    mirror = WandbMirror(facts_of(folder, manifest, tags), **chosen)
    for values, step in read_metrics(folder / "metrics.csv"):
        mirror.log_metrics(values, step)
    for path in sorted((folder / "figures").glob("*/*.png")):
        mirror.log_picture(figure_key(path.parent.name, path.stem), path)
    mirror.publish(read_published(folder))
    mirror.close(succeeded=True)
    if mirror.is_lost:
        if before is not None:
            keep_id(folder / RUN_ID, before)
        msg = f"{folder} could not be made anew at Weights & Biases; its id there stays {before}. See the line before."
        raise DashboardError(msg)
    return run_id


def _wandb_node(manifest: Mapping[str, Any]) -> dict[str, Any]:
    own = manifest["config"]["logger"].get("wandb")
    return dict(own or plain(OmegaConf.load(Path(config_dir()) / "logger" / "wandb.yaml"))["wandb"])  # type: ignore[arg-type]


def datasets_of_the_paper() -> list[str]:
    """Name the targets of the paper's protocol."""
    legs = OmegaConf.load(Path(config_dir()) / "protocol" / "cross_dataset.yaml").legs
    return list(dict.fromkeys(str(name) for targets in legs.values() for name in targets))


def build(settings: DashboardSettings, out: Path | None) -> None:
    """Build workspace and report, and write or save them.

    Args:
        settings: What they show.
        out: Where their JSON goes, without a network; ``None`` saves them at Weights & Biases.

    Raises:
        DashboardError: If they are to be saved and there is no API key, or Weights & Biases refuses them.
    """
    if out is not None:
        for path in write_specs(build_workspace(settings), build_report(settings), out):
            sys.stdout.write(f"{path}\n")
        return
    require_key()
    try:
        for name, make in (("workspace", build_workspace), ("report", build_report)):
            built = make(_with_entity(settings))
            built.save()
            sys.stdout.write(f"{name}: {built.url}\n")
    except Exception as error:
        msg = f"Weights & Biases must take the dashboards, and refused: {error}. Check project, entity and network."
        raise DashboardError(msg) from error


def _with_entity(settings: DashboardSettings) -> DashboardSettings:
    entity = settings.entity or default_entity()
    return DashboardSettings(settings.project, entity, settings.datasets, settings.tables, settings.searched)


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        msg = f"A run must be a folder, got {folder}, which is none. Pass run folders, or a folder that holds some."
        raise FileNotFoundError(msg)
