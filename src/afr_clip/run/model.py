"""The trained model of a run: what it is built from, and what the manifest says of it. Needs no Lightning."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch

from afr_clip.clip.load import Towers, check_architecture, load_towers
from afr_clip.clip.weights import weight_path
from afr_clip.data.disk.loaded import list_photographs
from afr_clip.data.errors import DataError
from afr_clip.files import shown
from afr_clip.inspection.calibration import CALIBRATION, read_calibration
from afr_clip.inspection.detector import Detector, as_rgb, content_hash
from afr_clip.inspection.scanner import Scanning, build_scanner
from afr_clip.models.checkpoint import Checkpoint, read_checkpoint
from afr_clip.processes.place import place
from afr_clip.processes.together import require_same
from afr_clip.run.job import CalibrationJob, Job, PredictionJob
from afr_clip.run.run import Run

logger = logging.getLogger(__name__)

MOST_REFERENCES = 16


def check_model(job: Job) -> None:
    """Check backbone and method against each other before data or weights are read.

    Raises:
        ValueError: If they contradict what open_clip knows, or each other.
    """
    job.module.network.check_taps(check_architecture(job.backbone))


def build_towers(job: Job, run: Run) -> Towers:
    """Build the frozen towers and note their fingerprint."""
    towers = load_towers(job.backbone, needs_cnn=job.module.network.needs_cnn)
    note_towers(run, towers, towers.fingerprint())
    return towers


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


def note_released_weights(job: Job, run: Run) -> None:
    """Note the authors' weights that a method starts from, and warn that their training data is unknown."""
    path = getattr(job.module.network, "released_weights", None)
    if path is not None:
        sha256 = hashlib.sha256(weight_path(path).read_bytes()).hexdigest()
        run.note(released_weights={"path": str(path), "sha256": sha256})
        logger.warning("%s does not record its training data. Do not score a dataset that it was trained on.", path)


def read_named(name: str | None) -> Checkpoint | None:
    """Read what ``checkpoint=`` names: a run folder, a file, or ``package:NAME/PATH``; nothing for ``None``."""
    return None if name is None else read_checkpoint(weight_path(name))


def provenance(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    """Describe for the manifest where trained weights come from."""
    if checkpoint is None:
        return None
    kept = ("commit", "seed", "epochs", "auxiliary", "started", "config", "precision")
    return {"path": str(checkpoint.path), **{key: checkpoint.manifest.get(key) for key in kept}}


def build_detector(job: PredictionJob | CalibrationJob, run: Run, checkpoint: Checkpoint | None) -> Detector:
    """Build the detector of a run and note what it is made of.

    Raises:
        CalibrationError: If the calibration belongs to another detector.
        DataError: If there are too many references, or one cannot be read.
    """
    settings, data = job.inspection, job.data
    calibration = None if settings.calibration is None else Path(settings.calibration)
    thresholds = None if calibration is None else read_calibration(calibration)
    here, device = place(), job.trainer.accelerator
    if here.world_size > 1 and device != "cpu" and torch.cuda.is_available():
        device = f"cuda:{here.local_rank}"
    scanning = Scanning(device, job.trainer.precision, settings.tile, settings.overlap, data.eval_batch_size)  # type: ignore[arg-type]
    scanner = build_scanner(job.backbone, job.module, checkpoint, scanning)
    note_towers(run, scanner.towers, scanner.frozen)
    note_released_weights(job, run)
    if settings.references is not None:
        good = list_photographs([Path(settings.references)], job.category).dataset.samples
        if len(good) > MOST_REFERENCES:
            msg = (
                f"references must hold 1 to {MOST_REFERENCES} photographs of good parts, but "
                f"{shown(settings.references)} holds {len(good)}. More cost time and hardly help; choose some."
            )
            raise DataError(msg)
        scanner.learn((as_rgb(sample.image_path, data.max_pixels) for sample in good), job.category)
        logger.info("These scores are few-shot: they use %d photographs of good parts.", len(good))
    detector = Detector(scanner, settings, job.category, thresholds, data.max_pixels)
    if thresholds is not None and calibration is not None:
        thresholds.require(detector.identity(job.category))
        file = calibration / CALIBRATION if calibration.is_dir() else calibration
        run.note_unchanged("calibration", "sha256", {"sha256": content_hash(file)})
    run.note(detector=detector.identity(job.category))
    return detector
