"""The Python API: ``detector = afr_clip.load("pocket")``, then ``detector.inspect(photograph, "metal nut")``."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from afr_clip.data.disk.picture_files import MAX_PIXELS
from afr_clip.files import counted, shown
from afr_clip.inspection.calibration import Calibration, CalibrationError, Decision, read_calibration
from afr_clip.inspection.detector import Detector, Inspection, as_rgb
from afr_clip.inspection.exported import Exported, ExportedScanner, needs_checkpoint, read_exported, require_possible
from afr_clip.inspection.regions import Region
from afr_clip.inspection.scan import InspectionError, PhotographScanner, Scanning
from afr_clip.inspection.settings import HINTS_NEED_TEXT, InspectionSettings, is_exported
from afr_clip.inspection.tiles import Tile
from afr_clip.prompts.ensemble import AGNOSTIC_NAME
from afr_clip.settings import PRECISIONS, ScoringEngine, one_of, refuse

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from afr_clip.inspection.scanner import Scanner

__all__ = ["CalibrationError", "Decision", "Detector", "Inspection", "InspectionError", "Region", "load"]


def load(  # noqa: PLR0913 - every option is a keyword with a default
    checkpoint: str | Path,
    *,
    category: str | None = None,
    calibration: str | Path | None = None,
    device: str = "auto",
    precision: str = "32-true",
    engine: str = "torch",
    image_size: int | None = None,
    batch_size: int = 4,
    tile: Tile = None,
    overlap: float = 0.25,
    references: str | Path | Sequence[Path] | None = None,
    roi: str | Path | None = None,
    ignore: str | Path | None = None,
    region_threshold: float | None = None,
    mm_per_pixel: float | None = None,
    min_area_mm2: float | None = None,
    defects: Sequence[str] | None = None,
    compare_names: Sequence[str] | None = None,
    files: Mapping[str, str] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Detector:
    """Load a trained detector.

    Args:
        checkpoint: ``pocket`` or ``pocket_names``, which ship with the package, a run folder, a checkpoint file,
            ``hf:OWNER/NAME`` of the Hugging Face Hub, or a file that ``afr-clip export`` wrote, which needs no torch.
        category: What photographs show, in words; needed with ``references``. Without it, and without a calibration,
            they are called "object" unless ``inspect`` names them.
        calibration: A ``calibration.json``; with it, inspections have a decision and regions.
        device: ``auto`` takes a GPU if there is one; ``cpu``, ``cuda:1``, ``mps``.
        precision: ``32-true``, ``16-mixed``, ``bf16-mixed`` or ``auto``, which is measured.
        engine: ``torch``; ``openvino`` or ``onnxruntime``, often faster on a CPU; or ``auto``, which is measured.
        image_size: Side in pixels at which views are scored; without it, the checkpoint's own.
        batch_size: Views in one forward pass.
        tile: Side of tiles in pixels of the photograph, or ``auto``, for small defects on large photographs.
        overlap: Smallest share of a tile that the next one shows again.
        references: A folder of good parts, or files, at most 16, to compare with: few-shot instead of zero-shot.
        roi: A mask, or a folder of masks: only what is white in it counts.
        ignore: Likewise; what is white in it does not count.
        region_threshold: Map value from which a region begins, if there is no calibration.
        mm_per_pixel: Side of a pixel on the part.
        min_area_mm2: Smallest region.
        defects: Words for defects; each region gets the one that fits best as a hint.
        compare_names: Other names, such as ``["object"]``: inspections also have the image score under each.
        files: Where weights lie that the checkpoint names: ``{"backbone.weights": PATH}``.
        max_pixels: Most pixels of a photograph.

    Raises:
        FileNotFoundError: If there is no such checkpoint, or weights are missing.
        ValueError: If something else is wrong with what was passed or read; the sentence says what.

    Example:
        >>> import torch
        >>> detector = load("pocket")
        >>> black = detector.inspect(torch.zeros(40, 60, dtype=torch.uint8), "metal nut")
        >>> black.anomaly_map.shape, black.is_anomalous
        ((40, 60), None)
    """
    refuse(
        one_of("precision", precision, PRECISIONS, "Scores are always float32."),
        one_of("engine", engine, [one.value for one in ScoringEngine], "auto measures which is faster."),
    )
    settings = InspectionSettings(
        engine=ScoringEngine(engine),
        tile=tile,
        overlap=overlap,
        roi=None if roi is None else str(roi),
        ignore=None if ignore is None else str(ignore),
        references=None,
        calibration=None if calibration is None else str(calibration),
        region_threshold=region_threshold,
        mm_per_pixel=mm_per_pixel,
        min_area_mm2=min_area_mm2,
        defects=None if defects is None else list(defects),
        compare_names=None if compare_names is None else list(compare_names),
    )
    thresholds = None if calibration is None else read_calibration(Path(calibration))
    looks = (tile, overlap, batch_size)
    if is_exported(checkpoint):
        exported = read_exported(Path(checkpoint))
        require_possible(settings)
        _refuse_options(exported, image_size=image_size, precision=precision, engine=engine, device=device)
        refuse(None if references is None else needs_checkpoint("references"))
        if thresholds is None and region_threshold is None:
            thresholds = exported.calibration
        if thresholds is None and len(exported.categories) == 1:
            category = category or exported.categories[0]
        scanner: PhotographScanner = ExportedScanner(exported, Scanning("cpu", "32-true", *looks))
        category = category or _category_of(thresholds)
    else:
        needs = {"hints": defects is not None, "references": references is not None}
        trained = _trained(str(checkpoint), (device, precision), image_size, looks, files, **needs)
        if references is not None:
            if category is None:
                msg = "references need a category, got none. Say what they show: load(..., category='metal nut')."
                raise InspectionError(msg)
            trained.learn(_references(references, category, max_pixels), category)
        category = category or _category_of(thresholds)
        trained.use(ScoringEngine(trained.choose_engine(settings.engine, category or AGNOSTIC_NAME)["chosen"]))
        scanner = trained
    detector = Detector(scanner, settings, category, thresholds, max_pixels)
    if thresholds is not None and category is not None:
        thresholds.require(detector.identity(category))
    return detector


def _category_of(thresholds: Calibration | None) -> str | None:
    return None if thresholds is None else str(thresholds.identity.get("category", "")) or None


def _refuse_options(exported: Exported, **options: object) -> None:
    """Refuse what belongs to the exported file and cannot be chosen."""
    possible = {
        "image_size": (None, exported.manifest["image_size"]),
        "precision": ("32-true", "auto"),
        "engine": ("torch", "auto", exported.engine),  # torch is the default
        "device": ("auto", "cpu"),
    }
    refuse(*(needs_checkpoint(key) for key, value in options.items() if value not in possible[key]))


def _trained(
    name: str,
    runs_on: tuple[str, str],
    image_size: int | None,
    looks: tuple[Tile, float, int],
    files: Mapping[str, str] | None,
    *,
    hints: bool,
    references: bool,
) -> "Scanner":
    """Build the scanner of a checkpoint, on a device and in a precision; ``hints`` need a text tower."""
    # An exported model needs none of these, and runs where torch is not installed.
    from afr_clip.clip.third_parties import import_towers  # noqa: PLC0415

    import_towers()
    from afr_clip.clip.precision import choose_precision  # noqa: PLC0415
    from afr_clip.config.restore import PACKAGED_CHECKPOINTS, named_checkpoint, recorded_model  # noqa: PLC0415
    from afr_clip.inspection.scanner import build_scanner  # noqa: PLC0415
    from afr_clip.models.checkpoint import find_checkpoint, read_checkpoint  # noqa: PLC0415

    is_unknown = not os.path.lexists(name) and name not in PACKAGED_CHECKPOINTS
    if is_unknown and (near := get_close_matches(name, PACKAGED_CHECKPOINTS, n=1)):
        msg = f"There is no checkpoint at {shown(name)}. Did you mean {near[0]}?"
        raise FileNotFoundError(msg)
    read = read_checkpoint(find_checkpoint(named_checkpoint(name)))
    backbone, method = recorded_model(read.manifest["config"], files)
    refuse(HINTS_NEED_TEXT if hints and not backbone.has_text else None)
    if shots := getattr(method.network, "shots", 0):
        if not references:
            logger.warning(
                "%s scores with %s of each category, from a dataset's train split. A detector has no such images, so "
                "it scores zero-shot. Pass references=DIR to compare with good parts.",
                shown(name), counted(shots, "normal image"),
            )  # fmt: skip
        method = replace(method, network=replace(method.network, shots=0))  # type: ignore[call-arg]  # it has the field
    if image_size is not None:
        backbone = replace(backbone, image_size=image_size)
    device, precision = runs_on
    chosen = str(choose_precision(precision, device)["chosen"])
    return build_scanner(backbone, method, read, Scanning(device, chosen, *looks))


def _references(
    references: str | Path | Sequence[Path], category: str, max_pixels: int
) -> Iterator[UInt8[np.ndarray, "3 _ _"]]:
    from afr_clip.data.disk.loaded import list_references  # noqa: PLC0415

    places = [references] if isinstance(references, str | Path) else references
    return (as_rgb(one.image_path, max_pixels) for one in list_references([Path(place) for place in places], category))
