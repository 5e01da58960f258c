"""What the page computes: scores, decisions under a threshold that moves, calibrations, and files to download."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from afr_clip.data.errors import DataError
from afr_clip.files import counted, first_few, in_one_line, write_encoded
from afr_clip.inspection.calibration import Calibration, CalibrationError, Decision, calibrate
from afr_clip.inspection.colours import draw_outlines, laid_over
from afr_clip.inspection.detector import Detector, as_rgb
from afr_clip.inspection.record import Inspected
from afr_clip.inspection.scan import InspectionError, Scan, enlarged
from afr_clip.inspection.service import sentence_of
from afr_clip.inspection.settings import num_needed
from afr_clip.reports.annotations import Photographs, write_annotations
from afr_clip.reports.record.results import ImageRow, Verdict, write_scores
from afr_clip.settings import AnnotationFormat

MOST = 200
"""Photographs that are inspected at once."""

LARGEST_SIDE = 1024
"""Pixels a side of the pictures that are shown."""

GUESS = 0.5
"""Where the sliders stand before there is a calibration."""

SAME = 1e-4
"""Thresholds this near are the same: a slider moves in steps of it."""

COCO, SCORES, CALIBRATION = "coco.json", "scores.csv", "calibration.json"


@dataclass(frozen=True)
class Scored:
    """A photograph with its scores; of its pixels only a small copy is kept."""

    name: str
    scan: Scan
    small: UInt8[np.ndarray, "rows columns 3"]


@dataclass(frozen=True)
class Session:
    """What one half of the page knows.

    Attributes:
        skipped: Why photographs could not be read.
        good: Image scores and map maxima of good parts.
    """

    model: str = ""
    category: str = ""
    scored: tuple[Scored, ...] = ()
    skipped: tuple[str, ...] = ()
    good: tuple[tuple[float, float], ...] = ()
    calibration: Calibration | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest threshold that a slider offers: around all scores, and where it begins."""
        begins = GUESS if self.calibration is None else self.calibration.image.threshold
        values = [begins, *(one.scan.image_score for one in self.scored), *(score for score, _ in self.good)]
        low, high = min(values), max(values)
        room = max(0.04 * (high - low), 10 * SAME)
        return max(0.0, math.floor((low - room) / SAME) * SAME), min(1.0, math.ceil((high + room) / SAME) * SAME)


@dataclass(frozen=True)
class Chosen:
    """Where the sliders stand: an image score above the first is anomalous, a region begins above the second."""

    threshold: float = GUESS
    outline: float = GUESS

    def keeps_threshold(self, calibration: Calibration | None) -> bool:
        """Whether the first stands where a calibration put it."""
        return calibration is not None and abs(self.threshold - calibration.image.threshold) <= SAME

    def keeps_outline(self, calibration: Calibration | None) -> bool:
        """Whether the second does."""
        return calibration is not None and abs(self.outline - calibration.map_high) <= SAME


def inspect(detector: Detector, model: str, category: str, files: Sequence[str], before: Session) -> Session:
    """Score photographs; a calibration of the same model and category is kept.

    Raises:
        InspectionError: If the category is blank, there are too many photographs, or none that can be read.
    """
    named = _require(category, files)
    skipped: list[str] = []
    scored = tuple(_scored(detector, named, files, skipped))
    if not scored:
        raise InspectionError(" ".join(skipped))
    is_same = (before.model, before.category) == (model, named)
    kept = before if is_same else Session(model, named)
    return replace(kept, scored=scored, skipped=tuple(skipped))


def calibrate_with(
    detector: Detector, model: str, category: str, files: Sequence[str], percent: float, before: Session
) -> Session:
    """Find thresholds from photographs of good parts, each content once.

    Args:
        percent: The share of good parts that may be reported.

    Raises:
        CalibrationError: If there are too few.
        InspectionError: As `inspect`.
    """
    named = _require(category, files)
    contents = {hashlib.sha256(Path(file).read_bytes()).hexdigest(): file for file in files}
    skipped: list[str] = []
    good = [(one.scan.image_score, one.scan.highest) for one in _scored(detector, named, [*contents.values()], skipped)]
    budget = percent / 100
    if len(good) < (needed := num_needed(budget)):
        least = math.ceil(100 / (len(good) + 1))
        or_accept = f", or accept {least} %" if least <= 50 else ""
        fault = f"{percent:g} % false alarms need {counted(needed, 'different good part')}, got {len(good)}."
        raise CalibrationError(" ".join([f"{fault} Add {needed - len(good)} more{or_accept}.", *skipped]))
    made = calibrate([score for score, _ in good], [top for _, top in good], budget, detector.identity(named))
    is_same = (before.model, before.category) == (model, named)
    scored = before.scored if is_same else ()
    return Session(model, named, scored, tuple(skipped), tuple(good), made)


def _require(category: str, files: Sequence[str]) -> str:
    if not category.strip():
        msg = "The photographs need a name, got nothing. Write in words what they show, such as metal nut."
        raise InspectionError(msg)
    if not files:
        msg = "No photographs were given. Drop some, or choose files."
        raise InspectionError(msg)
    if len(files) > MOST:
        msg = f"The page takes {MOST} photographs at once, got {len(files)}. For more use afr-clip predict."
        raise InspectionError(msg)
    return category.strip()


def _scored(detector: Detector, category: str, files: Sequence[str], skipped: list[str]) -> Iterator[Scored]:
    waiting: list[tuple[str, UInt8[np.ndarray, "rows columns 3"]]] = []
    taken: Counter[str] = Counter()

    def read() -> Iterator[tuple[str, UInt8[np.ndarray, "3 _ _"]]]:
        for file in files:
            name = in_one_line(Path(file).name)
            taken[name] += 1
            name = name if taken[name] == 1 else f"{name} ({taken[name]})"
            try:
                pixels = as_rgb(file, detector.max_pixels)
                detector.scanner.tiling(pixels.shape[1:])  # refuses what is too thin to tile
            except DataError as error:
                sentence = sentence_of(error, "This page takes no larger ones. Scale it down.")
                skipped.append(sentence.replace(str(file), name))
                continue
            waiting.append((name, _small(pixels)))
            yield name, pixels

    for scan in detector.scanner.scan(read(), category):
        name, small = waiting.pop(0)
        yield Scored(name, scan, small)


def _small(pixels: UInt8[np.ndarray, "3 _ _"]) -> UInt8[np.ndarray, "rows columns 3"]:
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return np.asarray(picture)


def judge(detector: Detector, session: Session, chosen: Chosen) -> list[Inspected]:
    """Decide about the photographs and find their regions.

    Where the sliders stand as a calibration put them, this is what `predict` finds with that calibration.
    """
    settings, calibration = replace(detector.settings, region_threshold=max(chosen.outline, SAME)), None
    if chosen.keeps_outline(session.calibration):
        settings, calibration = replace(detector.settings, region_threshold=None), session.calibration
    judging = replace(detector, settings=settings, calibration=calibration)
    judged = []
    for one in session.scored:
        _, found = judging.judge(one.name, one.scan, session.category)
        if calibration is None or not chosen.keeps_threshold(calibration):
            decision = Decision.anomalous if found.image_score > chosen.threshold else Decision.normal
            found = replace(found, decision=decision, threshold=chosen.threshold, calibrated=None)
        judged.append(found)
    return judged


def draw_overlays(session: Session, judged: Sequence[Inspected], chosen: Chosen, folder: Path) -> None:
    """Write each photograph under its map, with the outlines of its regions, as ``NUMBER.jpg``.

    With a calibration the middle of the colours is the threshold; without, they reach from 0 to 1.
    """
    for number, (one, found) in enumerate(zip(session.scored, judged, strict=True)):
        values = enlarged(one.scan.anomaly_map, one.small.shape[:2])
        if session.calibration is not None and chosen.keeps_outline(session.calibration):
            values = session.calibration.calibrated_map(values).astype(np.float32)
        picture = Image.fromarray(laid_over(one.small, values))
        draw_outlines(picture, found.regions, one.small.shape[1] / found.width)
        write_encoded(overlay_path(folder, number), partial(picture.save, format="JPEG", quality=88))


def overlay_path(folder: Path, number: int) -> Path:
    """Return where the overlay of a photograph lies."""
    return folder / f"{number:04d}.jpg"


def write_files(detector: Detector, session: Session, judged: Sequence[Inspected], folder: Path) -> dict[str, str]:
    """Write what `predict` writes for the same photographs: scores as CSV, regions as COCO, the calibration.

    Returns:
        The files by name.
    """
    rows = (ImageRow("photographs", one.category, one.image, None, one.image_score, Verdict.of(one)) for one in judged)
    write_scores(folder, rows, with_verdict=True)
    places = {one.image: Path(one.image) for one in judged}
    weights = str(detector.identity(session.category).get("weights", ""))[:12]
    photographs = Photographs(folder, places, f"{session.model} {weights}".strip())
    write_annotations(folder, [AnnotationFormat.coco], judged, photographs)
    coco = folder / AnnotationFormat.coco.value / "annotations" / "instances_default.json"
    coco.replace(folder / COCO)
    files = {name: str(folder / name) for name in (SCORES, COCO)}
    if session.calibration is not None:
        session.calibration.write(folder / CALIBRATION)
        files[CALIBRATION] = str(folder / CALIBRATION)
    return files


def summary(session: Session, judged: Sequence[Inspected], chosen: Chosen) -> list[str]:
    """Describe in sentences what was found, and what the threshold promises."""
    sentences = []
    if judged:
        counts = Counter(one.decision for one in judged)
        numbers = ", ".join(f"{counts[one]} {one.value}" for one in Decision if counts[one])
        sentences.append(f"{counted(len(judged), 'photograph')}: {numbers}.")
    if session.calibration is not None:
        at = session.calibration.image.threshold
        moved = f"The threshold was moved from {at:.4f}, for which the calibration holds, to {chosen.threshold:.4f}."
        is_kept = chosen.keeps_threshold(session.calibration)
        sentences.append(session.calibration.guarantee() if is_kept else moved)
    elif judged:
        sentences.append("The threshold is a guess: calibrate with good parts to bound false alarms.")
    if session.skipped:
        sentences.append(f"Not used: {first_few(session.skipped)}")
    return sentences
