"""Write a detector to one file, and keep the file only if it scores as the detector does."""

import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import UInt8
from rich.table import Table

from afr_clip import __version__
from afr_clip.clip.weights import weight_path
from afr_clip.data.disk.layouts import dataset_row
from afr_clip.data.disk.loaded import REFERENCE_SPLIT, LoadedDataset, list_normal, list_photographs, load_dataset
from afr_clip.data.disk.pixels import SampleReader
from afr_clip.data.disk.separation import TrainedOn, refuse_overlap
from afr_clip.data.errors import DataError, EmptySplitError
from afr_clip.data.feed.dataset import AnomalyDataset
from afr_clip.data.records import AnomalySample
from afr_clip.files import counted, shown, shown_below
from afr_clip.inspection.detector import Detector, as_rgb
from afr_clip.inspection.export import (
    NEEDED,
    ExportError,
    adversarial_pictures,
    finish_model,
    largest_differences,
    remove_model,
    require_packages,
    require_parity,
    size_of,
    write_model,
)
from afr_clip.inspection.exported import FORMAT, ExportedScanner, read_exported
from afr_clip.inspection.quantise import MEASURED, aurocs, quantise, require_accuracy
from afr_clip.inspection.scanner import Scanner
from afr_clip.models.checkpoint import Checkpoint
from afr_clip.models.method_settings import CategoryNames
from afr_clip.processes.signals import stoppable
from afr_clip.reports.layout.text import terminal
from afr_clip.run.job import ExportJob
from afr_clip.run.model import build_detector, check_model, provenance
from afr_clip.run.run import finish_run, start_run
from afr_clip.settings import DatasetSettings, ExportFormat
from drawn_anomalies.catalogue import CATEGORIES
from drawn_anomalies.kinds import GOOD
from drawn_anomalies.settings import DrawnSet, DrawnSettings
from drawn_anomalies.tree import Picture, draw

NAMES = {ExportFormat.onnx: "model.onnx", ExportFormat.openvino: "model.xml"}

GoodParts: TypeAlias = list[tuple[AnomalySample, str]]
"""Photographs, and what they show."""

MOST_GOOD = 16
"""Good parts of a category whose values are looked at for 8 bits."""

SHIPPED_CHECKPOINTS = ("package:afr_clip/pocket/demo.ckpt", "package:afr_clip/pocket/names.ckpt")
"""Trained weights under the licence of the package."""


@dataclass(frozen=True)
class Int8Data:
    """Photographs for a model in 8 bits.

    Attributes:
        target: Labelled ones, on which it is measured.
        good: Good parts that show the range of values.
        name_of: What a photograph shows, as the model is told.
    """

    target: LoadedDataset
    good: GoodParts
    name_of: Callable[[AnomalySample], str]


def export(job: ExportJob, checkpoint: Checkpoint | None) -> None:
    """Run ``afr-clip export``.

    Args:
        job: Has the model that the checkpoint was trained with.
        checkpoint: The trained weights; ``None`` for a method that needs none.

    Raises:
        ExportError: If the network cannot be exported, or the file scores differently. No file is left then.
        DataError: If labelled photographs or good parts are missing.
    """
    with stoppable():
        require_packages(job.to, job.precision)
        check_model(job)
        data = None if job.dataset is None else _load_int8_data(job.dataset, job, checkpoint)
        run = start_run(job)
        detector = build_detector(job, run, checkpoint)
        run.note(checkpoint=provenance(checkpoint))
        path = run.folder / NAMES[job.to]
        scanner = detector.scanner
        assert isinstance(scanner, Scanner), "it was built from a checkpoint"
        metadata = metadata_of(job, detector, checkpoint, run.manifest)
        facts: dict[str, Any] = {"file": path.name}
        try:
            with TemporaryDirectory() as folder:
                float32_file = path if data is None else Path(folder, "float32.onnx")
                write_model(scanner, job.categories, float32_file, metadata)
                facts["parity"] = _checked(float32_file, job, detector)
                if data is not None:
                    facts["int8"] = _write_int8(float32_file, path, job, detector, data, metadata)
        except BaseException:
            remove_model(path)
            raise
        run.note(export=facts | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
        run.finish()
        terminal().print(_table(path, facts["parity"]) if data is None else _table_of_losses(path, facts["int8"]))
        sys.stdout.write(f"model: {path}\n")
        finish_run(run.folder)


def metadata_of(
    job: ExportJob, detector: Detector, checkpoint: Checkpoint | None, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe a detector for the file that holds it; see `Exported`."""
    source = provenance(checkpoint)
    is_shipped = checkpoint is not None and checkpoint.path in map(weight_path, SHIPPED_CHECKPOINTS)
    licence = job.licence or ("Apache-2.0" if is_shipped else "not stated")
    return {
        "format": FORMAT,
        "method": job.module.name,
        "categories": list(job.categories),
        "reads_category": job.module.network.reads_category,
        "image_size": detector.scanner.input_size[0],
        "identity": detector.scanner.identity(job.category),
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


def _load_int8_data(dataset: DatasetSettings, job: ExportJob, checkpoint: Checkpoint | None) -> Int8Data:
    """Load the photographs for a model in 8 bits.

    Raises:
        ExportError: If the dataset shows what the model is not exported for.
        DataError: If the dataset cannot be read, overlaps the training data, or has no good parts.
    """
    from afr_clip.run.build import dataset_spec  # noqa: PLC0415 - brings Lightning

    target = load_dataset(dataset_spec(dataset, job))
    if checkpoint is not None:
        refuse_overlap(TrainedOn.from_plain(checkpoint.manifest["trained_on"]), target)
    words = job.module.category_names is CategoryNames.words
    name_of: Callable[[AnomalySample], str] = attrgetter("prompt_name" if words else "category")
    others = dict.fromkeys(name for name in map(name_of, target.samples) if name not in job.categories)
    if job.module.network.reads_category and others:
        msg = (
            f"The model is exported for {', '.join(map(shown, job.categories))}, but {target.spec.name} also shows "
            f"{', '.join(map(shown, others))}. Add them to categories, or choose with dataset.categories=[...]."
        )
        raise ExportError(msg)
    return Int8Data(target, _good_parts(job, target, name_of), name_of)


def _write_int8(
    float32_file: Path, path: Path, job: ExportJob, detector: Detector, data: Int8Data, metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the model in 8 bits, and measure it.

    Args:
        float32_file: An ONNX file in a folder of its own.

    Returns:
        What was done and lost, which the file says too.

    Raises:
        ExportError: If it loses too much.
    """
    scanner, quantised, target = detector.scanner, float32_file.with_name("int8.onnx"), data.target
    indices = {name: index for index, name in enumerate(job.categories)}
    pictures = ((as_rgb(one.image_path, job.data.max_pixels), indices.get(name, 0)) for one, name in data.good)
    num_layers = quantise(float32_file, quantised, pictures)
    # Scores depend on the good parts and on the runtime too, so thresholds of one such file do not hold for another.
    digest = hashlib.sha256(quantised.read_bytes()).hexdigest()
    identity = {**metadata["identity"], "precision": f"{job.precision.value} {digest[:16]} {job.to.value}"}
    metadata = {**metadata, "identity": identity}
    finish_model(quantised, path, metadata)
    exported = ExportedScanner(read_exported(path), scanner.scanning)
    made = adversarial_pictures(scanner.input_size[0])
    of_scores, of_maps = largest_differences(exported, scanner, made, job.category)
    reader = SampleReader(scanner.input_size, dataset_row(target.spec.layout).mask_threshold, job.data.max_pixels)
    labelled = AnomalyDataset(target.samples, reader, *exported.normalisation)
    found = aurocs({"checkpoint": scanner, "file": exported}, labelled, data.name_of)
    require_accuracy(found["checkpoint"], found["file"], target.spec.name)
    facts = {
        "layers": num_layers,
        "bytes": {"float32": size_of(float32_file), "int8": size_of(path)},
        "good_parts": len(data.good),
        "dataset": {
            "name": target.spec.name,
            "num_normal": target.digest.num_images - target.digest.num_anomalous,
            "num_anomalous": target.digest.num_anomalous,
            "sha256": target.digest.sha256,
        },
        **{
            key: {metric: None if math.isnan(value) else value for metric, value in values.items()}
            for key, values in found.items()
        },
        "largest_difference": {"image_score": max(of_scores.values()), "anomaly_map": max(of_maps.values())},
    }
    remove_model(path)  # OpenVINO may have the old file mapped
    finish_model(quantised, path, {**metadata, "int8": facts})
    return facts


def _good_parts(job: ExportJob, target: LoadedDataset, name_of: Callable[[AnomalySample], str]) -> GoodParts:
    """Choose good parts that show the range of values.

    Raises:
        DataError: If there are none, or the split that holds them is damaged.
    """
    if job.good is not None:
        groups = [[*list_photographs([job.good], job.category, "good").dataset.samples]]
    else:
        try:
            groups = [few for few in list_normal(target).values() if few]
        except EmptySplitError:
            groups = []
        if not groups:
            msg = (
                f"precision=int8 needs photographs of good parts that are not scored, to see the range of values, and "
                f"{target.spec.name} has no normal images in a {REFERENCE_SPLIT} split. Add good=FOLDER."
            )
            raise DataError(msg)
    return [(one, name_of(one)) for few in groups for one in few[:: -(-len(few) // MOST_GOOD)]]


def _checked(path: Path, job: ExportJob, detector: Detector) -> dict[str, dict[str, float | int]]:
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
    parity: dict[str, dict[str, float | int]] = {}
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


def _table_of_losses(path: Path, facts: Mapping[str, Any]) -> Table:
    counts = facts["dataset"]
    pictures = counts["num_normal"] + counts["num_anomalous"]
    table = Table(
        title=f"{path.name} in 8 bits; means over the categories of {counts['name']}, {counted(pictures, 'image')}"
    )
    table.add_column("")
    for name in ("checkpoint", "8 bits"):
        table.add_column(name, justify="right")
    for metric, words in MEASURED.items():
        values = (facts[key][metric] for key in ("checkpoint", "file"))
        table.add_row(words, *("undefined" if value is None else f"{100 * value:.2f}" for value in values))
    sizes = (f"{facts['bytes'][key] / 1e6:.1f}" for key in ("float32", "int8"))
    table.add_row("megabytes (float32 ONNX, 8 bits)", *sizes)
    return table


def _table(path: Path, parity: Mapping[str, Mapping[str, float | int]]) -> Table:
    table = Table(title=f"{path.name} scores as its checkpoint; largest differences")
    table.add_column("category")
    for name in ("pictures", "image score", "map"):
        table.add_column(name, justify="right")
    for category, values in parity.items():
        row = (f"{values['image_score']:.1e}", f"{values['anomaly_map']:.1e}")
        table.add_row(category, str(values["pictures"]), *row)
    return table
