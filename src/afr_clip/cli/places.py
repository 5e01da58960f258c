"""Check the files and folders that a command names, before torch is loaded and before anything is written."""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from afr_clip.clip.settings import ON_HUB
from afr_clip.config.nodes import (
    CalibrateConfig,
    CommandConfig,
    DiagnoseConfig,
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    PredictConfig,
    TrainConfig,
)
from afr_clip.config.plan import expanded_images, placed_images, resumes
from afr_clip.config.restore import named_checkpoint
from afr_clip.files import for_shell, shown
from afr_clip.inspection.settings import is_exported
from afr_clip.processes.signals import was_requeued
from afr_clip.reports.record.run_folder import holds_run
from afr_clip.settings import DatasetSettings, ScoringPlace

_WRITE = {
    "calibration": "Write calibration=FILE; afr-clip calibrate writes one.",
    "references": "Write references=FOLDER, a folder of good parts.",
    "roi": "Write roi=FILE_OR_FOLDER.",
    "ignore": "Write ignore=FILE_OR_FOLDER.",
}


def faults_of_places(config: CommandConfig) -> Iterator[str]:
    """Yield one sentence for each thing that is wrong with the files and folders that a command reads and writes."""
    yield from _faults_of_photographs(config)
    if isinstance(config, EvaluateConfig | InspectConfig | ExportConfig) and config.module.network.needs_checkpoint:
        yield from _faults_of_checkpoint(config.checkpoint, runs_exported=isinstance(config, InspectConfig))
    if isinstance(config, InspectConfig | ExportConfig):
        for key in ("calibration", "references", "roi", "ignore"):
            name = getattr(config, key, None)
            if name is not None and not os.path.lexists(name):
                yield f"{key}={shown(Path(name))} does not exist.{_nearby(Path(name))} {_WRITE[key]}"
    dataset = getattr(config, "dataset", None)
    if isinstance(dataset, DatasetSettings):
        yield from _faults_of_dataset(dataset)
    if config.data_dir is not None and not Path(config.data_dir).is_dir() and _reads_data_dir(config):
        path = Path(config.data_dir)
        yield f"data_dir={shown(path)} is not a directory.{_nearby(path)} It is the folder that holds the datasets."
    if config.run_dir is not None:
        yield from faults_of_output("run_dir", Path(config.run_dir))
        is_requeued = getattr(config, "requeue", False) and was_requeued()
        is_resumed = resumes(config, Path(config.run_dir)) or is_requeued or isinstance(config, DiagnoseConfig)
        has_legs = isinstance(config, TrainConfig) and bool(config.protocol.legs)
        if not is_resumed and not has_legs and _holds_run(Path(config.run_dir)):
            advice = ", or continue that run with resume=true" if hasattr(config, "resume") else ""
            yield (
                f"run_dir must be new, but {shown(Path(config.run_dir))} holds the results of a run. Choose another "
                f"run_dir{advice}."
            )


def _faults_of_photographs(config: CommandConfig) -> Iterator[str]:
    if isinstance(config, PredictConfig | ExportConfig) and config.images is not None:
        on_ray = isinstance(config, PredictConfig) and config.runs_on is ScoringPlace.ray
        places = placed_images(config.images) if on_ray else expanded_images(config.images)
        for path in (Path(place) for place in places if "://" not in str(place)):
            if not os.path.lexists(path):
                several = "," in str(path) and all(map(os.path.lexists, str(path).split(",")))
                write = for_shell(f"images=[{path}]") if several else "images=FILE_OR_FOLDER"
                yield f"images={shown(path)} does not exist.{_nearby(path)} Write {write}."
    if isinstance(config, CalibrateConfig | ExportConfig):
        for key in ("good", "bad"):
            name = getattr(config, key, None)
            if name is not None and not os.path.lexists(name):
                yield f"{key}={shown(name)} does not exist.{_nearby(Path(name))} Write {key}=FOLDER."


def _reads_data_dir(config: CommandConfig) -> bool:
    dataset = getattr(config, "dataset", None)
    return isinstance(dataset, DatasetSettings) and dataset.root is None and dataset.drawn is None


def _holds_run(folder: Path) -> bool:
    try:
        return folder.is_dir() and holds_run(folder)
    except OSError:
        return False  # the other checks name what cannot be read


def _faults_of_checkpoint(name: str | None, *, runs_exported: bool) -> Iterator[str]:
    if name is None:
        yield "checkpoint=null names no weights. Write checkpoint=RUN, or checkpoint=pocket."
        return
    if is_exported(name) and not runs_exported:
        yield (
            f"checkpoint={shown(name)} is an exported model, which only predict and calibrate run. Name the run folder "
            f"or checkpoint that it was made from."
        )
        return
    path = Path(named_checkpoint(name))
    if str(path).startswith("package:") or (name.startswith(ON_HUB) and not path.exists()):
        return
    if path.is_dir():
        if (path / "checkpoints" / "last.ckpt").is_file() or (path / "model.safetensors").is_file():
            return
        inside = sorted(path.glob("*/checkpoints/last.ckpt"))
        advice = (
            f"One of the runs in it has: write {for_shell(f'checkpoint={inside[0].parents[1]}')}."
            if inside
            else "Name the folder of a training, or checkpoint=pocket for the model that ships with the package."
        )
        yield f"checkpoint={shown(path)} is a folder without checkpoints/last.ckpt. {advice}"
    elif not path.exists():
        yield (
            f"checkpoint={shown(path)} does not exist.{_nearby(path)} Name a run folder or a file, or write "
            f"checkpoint=pocket for the model that ships with the package."
        )


def _faults_of_dataset(dataset: DatasetSettings) -> Iterator[str]:
    if dataset.root is None:
        if dataset.layout in ("folder", "meta_json"):
            yield f"dataset={dataset.layout} needs the folder of your images. Add dataset.root=DIR."
        return
    root = Path(dataset.root)
    if not root.is_dir():
        state = "is a file, not a folder" if root.is_file() else "does not exist"
        yield f"dataset.root={shown(root)} {state}.{_nearby(root)} Write dataset.root=DIR."
        return
    if dataset.layout != "folder" or (root / "test").is_dir():
        return
    there = sorted(path.name for path in root.iterdir() if (path / "test").is_dir())
    for name in dataset.categories or ():
        if there and name not in there:
            near = get_close_matches(name, there, n=1)
            advice = f"Did you mean {shown(near[0])}? " if near else ""
            known = ", ".join(map(shown, there[:20])) + (", ..." if len(there) > 20 else "")
            yield f"dataset.categories: {shown(name)} is not in {shown(root)}. {advice}It holds {known}."


def faults_of_output(key: str, folder: Path) -> Iterator[str]:
    """Yield why a folder cannot be written to."""
    above = folder
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    if not above.is_dir():
        what = "is a file" if above == folder else f"lies below {shown(above)}, which is a file"
        yield f"{key}={shown(folder)} {what}. Choose a folder: {key}=DIR."
    elif not os.access(above, os.R_OK | os.W_OK | os.X_OK):
        if os.statvfs(above).f_flag & os.ST_RDONLY:
            yield f"{key}={shown(folder)} lies on a read-only file system. Choose another {key}."
            return
        where = "" if above == folder else f" {shown(above)} is not writable."
        yield (
            f"{key}={shown(folder)} cannot be written to.{where} Choose another {key}, or change the permissions of "
            f"that folder."
        )


def _nearby(path: Path) -> str:
    """Suggest a file or folder with a similar name in the same place."""
    try:
        names = [entry.name for entry in os.scandir(path.parent)]
    except OSError:
        return ""
    near = get_close_matches(path.name, set(names) - {path.name}, n=1, cutoff=0.7)
    return f" Did you mean {shown(path.with_name(near[0]))}?" if near else ""
