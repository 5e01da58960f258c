"""The trained model of a run: what it is built from, and what the manifest says of it. Needs no Lightning."""

import hashlib
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from afr_clip.clip.load import DEFAULT, Towers, check_architecture, load_towers
from afr_clip.clip.precision import FULL, choose_precision
from afr_clip.clip.weights import weight_path
from afr_clip.data.disk.loaded import list_references
from afr_clip.files import shown
from afr_clip.inspection.calibration import CALIBRATION, Calibration, read_calibration
from afr_clip.inspection.detector import Detector, as_rgb, content_hash
from afr_clip.inspection.exported import Exported, ExportedScanner, read_exported, require_possible
from afr_clip.inspection.scan import InspectionError, Scanning
from afr_clip.inspection.scanner import Scanner, build_scanner
from afr_clip.inspection.settings import is_exported
from afr_clip.models.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from afr_clip.processes.place import place
from afr_clip.processes.together import from_first, require_same
from afr_clip.reports.record.run_folder import RunFolderError
from afr_clip.run.job import CalibrationJob, ExportJob, Job, PredictionJob
from afr_clip.run.run import Run
from afr_clip.settings import ScoringEngine

logger = logging.getLogger(__name__)


def check_model(job: Job) -> None:
    """Check backbone and method against each other before data or weights are read.

    Raises:
        ValueError: If they contradict what open_clip and timm know, or each other.
    """
    job.module.network.check_text(has_text=job.backbone.has_text)
    job.module.network.check_taps(check_architecture(job.backbone))


def build_towers(job: Job, run: Run) -> Towers:
    """Build the frozen towers and note their fingerprint."""
    towers = load_towers(
        job.backbone,
        needs_cnn=job.module.network.needs_cnn,
        precision=precision_of_run(job, run),
        choose=partial(choose_library, run),
    )
    note_towers(run, towers, towers.fingerprint())
    return towers


def precision_of_run(job: Job, run: Run) -> str:
    """Choose Lightning's precision once for all processes, and note it; a resumed run keeps its own."""
    before = run.manifest.get("precision") or (run.earlier or {}).get("precision")
    choice = from_first(lambda: before or choose_precision(job.trainer.precision, job.trainer.accelerator))
    run.note(precision=choice)
    return str(choice["chosen"])


def choose_library(run: Run, measured: Callable[[], str]) -> str:
    """Choose the library that multiplies once for all processes; a resumed run keeps it, and an old one its default."""
    before = None if run.earlier is None else str(run.earlier.get("multiplication", DEFAULT))
    return from_first(lambda: before or measured())


def note_towers(run: Run, towers: Towers, fingerprint: str) -> None:
    """Note which frozen weights a run has, and check that all its processes have the same."""
    settings = towers.settings
    require_same({"fingerprint of frozen weights": fingerprint})
    facts = {
        "name": settings.name,
        "architecture": settings.architecture,
        "random_weights": settings.random_weights,
        "cnn": towers.published_cnn,
        "fingerprint": fingerprint,
    }
    run.note_unchanged("backbone", "fingerprint", facts)
    run.note(multiplication=towers.multiplication)


def note_released_weights(job: Job, run: Run) -> None:
    """Note the authors' weights that a method starts from, and warn that their training data is unknown."""
    path = getattr(job.module.network, "released_weights", None)
    if path is not None:
        sha256 = hashlib.sha256(weight_path(path).read_bytes()).hexdigest()
        run.note(released_weights={"path": str(path), "sha256": sha256})
        logger.warning("%s does not record its training data. Do not score a dataset that it was trained on.", path)


def read_named(name: str | None, threads: int | None = None) -> Checkpoint | Exported | None:
    """Read what ``checkpoint=`` names: see `find_checkpoint`; ``threads`` run an exported model."""
    if name is not None and is_exported(name):
        return read_exported(Path(name), threads)
    return None if name is None else read_checkpoint(find_checkpoint(name))


def provenance(checkpoint: Checkpoint | Exported | None) -> dict[str, Any] | None:
    """Describe for the manifest where trained weights come from."""
    if checkpoint is None:
        return None
    kept = ("commit", "seed", "epochs", "auxiliary", "started", "config", "precision", "choices", "by_dataset")
    return {"path": str(checkpoint.path), **{key: checkpoint.manifest.get(key) for key in kept}}


def calibration_of(
    job: PredictionJob | CalibrationJob | ExportJob, checkpoint: Checkpoint | Exported | None
) -> Calibration | None:
    """Return the thresholds that a run decides by: those that were named, or, for a prediction, an exported model's.

    A typed ``region_threshold`` takes the place of a model's own thresholds.
    """
    settings = job.inspection
    if settings.calibration is not None:
        return read_calibration(Path(settings.calibration))
    has_own = isinstance(checkpoint, Exported) and isinstance(job, PredictionJob) and settings.region_threshold is None
    return checkpoint.calibration if has_own else None  # type: ignore[union-attr]


def build_detector(
    job: PredictionJob | CalibrationJob | ExportJob, run: Run, checkpoint: Checkpoint | Exported | None
) -> Detector:
    """Build the detector of a run and note what it is made of.

    Raises:
        CalibrationError: If the calibration belongs to another detector.
        DataError: If there are too many references, or one cannot be read.
    """
    settings, data = job.inspection, job.data
    calibration = None if settings.calibration is None else Path(settings.calibration)
    thresholds = calibration_of(job, checkpoint)
    if isinstance(checkpoint, Exported):
        detector = Detector(_exported(job, run, checkpoint), settings, job.category, thresholds, data.max_pixels)
    else:
        detector = Detector(_built(job, run, checkpoint), settings, job.category, thresholds, data.max_pixels)
    if thresholds is not None:
        thresholds.require(detector.identity(job.category))
    if calibration is not None:
        file = calibration / CALIBRATION if calibration.is_dir() else calibration
        run.note_unchanged("calibration", "sha256", {"sha256": content_hash(file)})
    _note_detector(run, detector.identity(job.category))
    masks = [path for path in (settings.roi, settings.ignore) if path is not None]
    if masks:
        run.note_unchanged("masks", "sha256", {"sha256": " ".join(map(_tree_hash, masks))})
    return detector


def _exported(job: PredictionJob | CalibrationJob | ExportJob, run: Run, exported: Exported) -> ExportedScanner:
    """Make an exported file ready; its precision and device are fixed."""
    require_possible(job.inspection)
    if job.backbone.image_size != exported.manifest["image_size"]:
        msg = f"backbone.image_size is {exported.manifest['image_size']} in {shown(exported.path)}. Leave it out."
        raise InspectionError(msg)
    run.note_unchanged("backbone", "fingerprint", dict(exported.manifest["backbone"]))
    run.note(engine={"asked": exported.engine, "chosen": exported.engine})
    looks = (job.inspection.tile, job.inspection.overlap, job.data.eval_batch_size)
    return ExportedScanner(exported, Scanning("cpu", FULL, *looks))  # type: ignore[arg-type]


def _built(job: PredictionJob | CalibrationJob | ExportJob, run: Run, checkpoint: Checkpoint | None) -> Scanner:
    settings, data = job.inspection, job.data
    here, device = place(), job.trainer.accelerator
    if here.world_size > 1 and device != "cpu" and torch.cuda.is_available():
        device = f"cuda:{here.local_rank}"
    looks = (settings.tile, settings.overlap, data.eval_batch_size)
    scanning = Scanning(device, precision_of_run(job, run), *looks)  # type: ignore[arg-type]
    scanner = build_scanner(job.backbone, job.module, checkpoint, scanning, partial(choose_library, run))
    note_towers(run, scanner.towers, scanner.frozen)
    note_released_weights(job, run)
    asked = settings.engine
    if run.earlier is not None and asked is ScoringEngine.auto:  # a resumed run keeps its engine
        asked = ScoringEngine(run.earlier.get("engine", {}).get("chosen", ScoringEngine.torch.value))
    engine = from_first(lambda: scanner.choose_engine(asked, job.category))
    scanner.use(ScoringEngine(engine["chosen"]))
    run.note(engine=engine)
    if settings.references is not None:
        good = list_references([Path(settings.references)], job.category)
        scanner.learn((as_rgb(sample.image_path, data.max_pixels) for sample in good), job.category)
        logger.info("These scores are few-shot: they use %d photographs of good parts.", len(good))
    return scanner


def _note_detector(run: Run, identity: dict[str, Any]) -> None:
    """Note what decides the scores; a resumed run keeps all of it.

    Raises:
        RunFolderError: If it does not.
    """
    before = (run.earlier or {}).get("detector") or identity
    for key in dict.fromkeys((*before, *identity)):
        if before.get(key) != identity.get(key):
            msg = (
                f"A resumed run must keep its detector, but {key} was {before.get(key)} and is {identity.get(key)}. "
                f"Restore what was changed, or choose another run_dir."
            )
            raise RunFolderError(msg)
    run.note(detector=identity)


def _tree_hash(path: str) -> str:
    """Return the SHA-256 of a file, or of all files in a folder with their names."""
    root = Path(path)
    if not root.is_dir():
        return content_hash(root)
    files = sorted(file for file in root.rglob("*") if file.is_file())
    total = hashlib.sha256()
    for file in files:
        total.update(os.fsencode(file.relative_to(root)) + content_hash(file).encode())
    return total.hexdigest()
