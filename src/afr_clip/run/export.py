"""Write a detector to one file, and keep the file only if it scores as the detector does."""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from rich.table import Table

from afr_clip import __version__
from afr_clip.clip.weights import weight_path
from afr_clip.data.disk.loaded import list_photographs
from afr_clip.files import shown_below
from afr_clip.inspection.detector import Detector, as_rgb
from afr_clip.inspection.export import (
    NEEDED,
    adversarial_pictures,
    largest_differences,
    remove_model,
    require_packages,
    require_parity,
    write_model,
)
from afr_clip.inspection.exported import FORMAT, ExportedScanner, read_exported
from afr_clip.inspection.scanner import Scanner
from afr_clip.models.checkpoint import Checkpoint
from afr_clip.processes.signals import stoppable
from afr_clip.reports.layout.text import terminal
from afr_clip.run.job import ExportJob
from afr_clip.run.model import build_detector, check_model, provenance
from afr_clip.run.run import finish_run, start_run
from afr_clip.settings import ExportFormat
from drawn_anomalies.catalogue import CATEGORIES
from drawn_anomalies.kinds import GOOD
from drawn_anomalies.settings import DrawnSet, DrawnSettings
from drawn_anomalies.tree import Picture, draw

NAMES = {ExportFormat.onnx: "model.onnx", ExportFormat.openvino: "model.xml"}

SHIPPED_CHECKPOINTS = ("package:afr_clip/pocket/demo.ckpt", "package:afr_clip/pocket/names.ckpt")
"""Trained weights under the licence of the package."""


def export(job: ExportJob, checkpoint: Checkpoint | None) -> None:
    """Run ``afr-clip export``.

    Args:
        job: Has the model that the checkpoint was trained with.
        checkpoint: The trained weights; ``None`` for a method that needs none.

    Raises:
        ExportError: If the network cannot be exported, or the file scores differently. No file is left then.
    """
    with stoppable():
        require_packages(job.to)
        check_model(job)
        run = start_run(job)
        detector = build_detector(job, run, checkpoint)
        run.note(checkpoint=provenance(checkpoint))
        path = run.folder / NAMES[job.to]
        scanner = detector.scanner
        assert isinstance(scanner, Scanner), "it was built from a checkpoint"
        write_model(scanner, job.categories, path, metadata_of(job, detector, checkpoint, run.manifest))
        try:
            parity = _checked(path, job, detector)
        except BaseException:
            remove_model(path)
            raise
        run.note(export={"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "parity": parity})
        run.finish()
        terminal().print(_table(path, parity))
        sys.stdout.write(f"model: {path}\n")
        finish_run(run.folder)


def metadata_of(
    job: ExportJob, detector: Detector, checkpoint: Checkpoint | None, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe a detector for the file that holds it; see `Exported`."""
    identity = detector.scanner.identity(job.category)
    source = provenance(checkpoint)
    is_shipped = checkpoint is not None and checkpoint.path in map(weight_path, SHIPPED_CHECKPOINTS)
    licence = job.licence or ("Apache-2.0" if is_shipped else "not stated")
    return {
        "format": FORMAT,
        "method": job.module.name,
        "categories": list(job.categories),
        "reads_category": job.module.network.reads_category,
        "image_size": detector.scanner.input_size[0],
        "identity": identity,
        "backbone": manifest["backbone"],
        "checkpoint": None
        if checkpoint is None or source is None
        else {
            "sha256": hashlib.sha256(checkpoint.path.read_bytes()).hexdigest(),
            **{key: source[key] for key in ("commit", "seed", "epochs", "started")},
            "trained_on": (source["auxiliary"] or {}).get("name"),
        },
        "calibration": None if detector.calibration is None else detector.calibration.to_dict(),
        "config": {group: job.record.config[group] for group in ("backbone", "module")},
        "licence": licence,
        "versions": {"afr_clip": __version__} | {name: version(name) for name in ("torch", *NEEDED[job.to])},
    }


def _checked(path: Path, job: ExportJob, detector: Detector) -> dict[str, dict[str, float]]:
    """Compare the file with the detector on all pictures under the first category, and on a few under each other one.

    Returns:
        The largest difference of an image score and of a map, by category.

    Raises:
        ExportError: If one is too large.
    """
    scanner = detector.scanner
    exported = ExportedScanner(read_exported(path), scanner.scanning)
    made = adversarial_pictures(scanner.input_size[0]) | dict(_drawn_pictures())
    few = dict(list(made.items())[-2:])
    parity: dict[str, dict[str, float]] = {}
    for category in job.categories:
        of_scores: dict[str, float] = {}
        of_maps: dict[str, float] = {}
        groups: list[Mapping[str, Any]] = [made if category == job.category else few]
        groups += [{name: picture} for name, picture in _photographs(job)] if category == job.category else []
        for pictures in groups:
            scores, maps = largest_differences(exported, scanner, pictures, category)
            require_parity(scores, maps, category)
            of_scores, of_maps = of_scores | scores, of_maps | maps
        parity[category] = {
            "pictures": len(of_maps),
            "image_score": max(of_scores.values()),
            "anomaly_map": max(of_maps.values()),
        }
    return parity


def _drawn_pictures() -> Iterator[tuple[str, UInt8[np.ndarray, "_ _ 3"]]]:
    """Draw a good and a bad part of two categories."""
    settings = DrawnSettings(DrawnSet.unseen, 2, 256, 1.6, 0.3, 0.012, seed=1)
    for number, category in enumerate(CATEGORIES[DrawnSet.unseen][:2]):
        for kind in (GOOD, category.defects[0]):
            yield f"{category.name}, {kind}", draw(settings, Picture(number, "test", kind, 0))[0]


def _photographs(job: ExportJob) -> Iterator[tuple[str, UInt8[np.ndarray, "_ _ 3"]]]:
    if not job.images:
        return
    photographs = list_photographs(job.images, job.category).dataset
    for sample in photographs.samples:
        pixels = as_rgb(sample.image_path, job.data.max_pixels).transpose(1, 2, 0)
        yield shown_below(photographs.root, sample.image_path), pixels


def _table(path: Path, parity: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title=f"{path.name} scores as its checkpoint; largest differences")
    table.add_column("category")
    for name in ("pictures", "image score", "map"):
        table.add_column(name, justify="right")
    for category, values in parity.items():
        row = (f"{values['image_score']:.1e}", f"{values['anomaly_map']:.1e}")
        table.add_row(category, str(values["pictures"]), *row)
    return table
