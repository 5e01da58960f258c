"""Score good parts, and write down the thresholds that keep a budget of false alarms."""

import logging
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from rich.table import Table

from afr_clip.data.disk.loaded import Photographs, list_photographs
from afr_clip.data.errors import DataError
from afr_clip.data.progress import tracked
from afr_clip.files import counted, first_few, shown_below
from afr_clip.inspection.calibration import CALIBRATION, Calibration, CalibrationError, Decision, check_numbers
from afr_clip.inspection.calibration import calibrate as find_thresholds
from afr_clip.inspection.copies import look_alikes, thumbnail
from afr_clip.inspection.detector import Detector, as_rgb
from afr_clip.inspection.exported import Exported
from afr_clip.metrics.thresholds import escape_at_overkill, overkill_at_escape
from afr_clip.models.checkpoint import Checkpoint
from afr_clip.processes.signals import EXIT_SKIPPED, stoppable
from afr_clip.reports.layout.text import terminal
from afr_clip.reports.record.run_folder import SKIPPED, write_csv
from afr_clip.run.job import CalibrationJob
from afr_clip.run.model import build_detector, check_model, provenance
from afr_clip.run.run import finish_run, start_run

logger = logging.getLogger(__name__)

GOOD_SCORES, BAD_SCORES = "good_scores.csv", "bad_scores.csv"
SKIPPED_HEADER = ("image", "kind", "reason")
SCORES_HEADER = ("image", "image_score", "map_maximum", "decision")

ESCAPES = (0.02, 0.05)
"""Shares of missed bad parts at which overkill is printed."""


class IncompleteCalibrationError(ValueError):
    """Some photographs could not be used."""

    exit_code = EXIT_SKIPPED


@dataclass(frozen=True)
class Part:
    """One scored part."""

    image: str
    image_score: float
    map_maximum: float
    thumbnail: Float32[np.ndarray, " pixels"]


def calibrate(job: CalibrationJob, checkpoint: Checkpoint | Exported | None) -> None:
    """Run ``afr-clip calibrate``.

    Args:
        job: Has the model that the checkpoint was trained with.
        checkpoint: The trained weights; ``None`` for a method that needs none.

    Raises:
        CalibrationError: If there are too few parts. What could not be used is in ``skipped.csv`` even then.
        IncompleteCalibrationError: If a photograph could not be read; the calibration is written without it.
    """
    with stoppable():
        if not isinstance(checkpoint, Exported):
            check_model(job)
        good = list_photographs([job.good], job.category, "good")
        bad = None if job.bad is None else list_photographs([job.bad], job.category, "bad")
        if job.inspection.references is not None:
            _refuse_references_among(good, Path(job.inspection.references), job.category)
        num_bad = 0 if bad is None else len(set(bad.dataset.digest.images))
        check_numbers(len(set(good.dataset.digest.images)), num_bad, job.false_alarms, job.rule)
        run = start_run(job)
        detector = build_detector(job, run, checkpoint)
        identity = detector.identity(job.category)
        sha256 = good.dataset.digest.sha256
        run.note(checkpoint=provenance(checkpoint), good={"sha256": sha256})
        failed: list[tuple[str, str, str]] = []
        good_parts, bad_parts = (
            [] if listed is None else list(_score(listed, kind, detector, job, failed))
            for kind, listed in (("good", good), ("bad", bad))
        )
        faults = [*good.left_out.faults, *(() if bad is None else bad.left_out.faults)]
        if failed:
            write_csv(run.folder / SKIPPED, SKIPPED_HEADER, failed)
            named = first_few([image for image, _, _ in failed])
            faults.insert(0, f"{counted(len(failed), 'photograph')} could not be used: {named}. {SKIPPED} says why.")
        try:
            made = find_thresholds(
                *_scores(good_parts),
                job.false_alarms,
                identity,
                rule=job.rule,
                bad=_scores(bad_parts),
                photographs=sha256,
            )
        except CalibrationError as error:
            msg = " ".join([str(error), *faults])
            raise CalibrationError(msg) from error
        made.write(run.folder / CALIBRATION)
        for name, parts in ((GOOD_SCORES, good_parts), (BAD_SCORES, bad_parts)):
            if parts:
                decided = ((p, made.decide(p.image_score, p.map_maximum).value) for p in parts)
                rows = ((p.image, p.image_score, p.map_maximum, decision) for p, decision in decided)
                write_csv(run.folder / name, SCORES_HEADER, rows)
        _warn_of_look_alikes(good_parts)
        run.finish()
        terminal().print(_summary(made, good_parts, bad_parts))
        sys.stdout.write(f"{made.guarantee()}\ncalibration: {run.folder / CALIBRATION}\n")
        finish_run(run.folder)
        if faults:
            raise IncompleteCalibrationError(" ".join([*faults, "The calibration was made without them."]))


def _refuse_references_among(good: Photographs, references: Path, category: str) -> None:
    """Refuse good parts that are references: they look like themselves, and the threshold would be too low."""
    digest = list_photographs([references], category, "references").dataset.digest
    names = dict(zip(good.dataset.digest.images, good.dataset.samples, strict=True))
    both = [
        shown_below(good.dataset.root, names[sha256].image_path)
        for sha256 in digest.images
        if sha256 and sha256 in names
    ]
    if both:
        msg = (
            f"references must be other parts than good, but {first_few(both)} {'is' if len(both) == 1 else 'are'} in "
            f"both. Take the references out of the folder of good parts."
        )
        raise DataError(msg)


def _score(
    listed: Photographs, kind: str, detector: Detector, job: CalibrationJob, failed: list[tuple[str, str, str]]
) -> Iterator[Part]:
    """Score photographs, but each content once: an exact copy of a file is no other part."""
    for sentence in listed.left_out.notes:
        logger.warning("%s", sentence)
    photographs, seen = listed.dataset, set[str]()
    copies: list[str] = []
    waiting: deque[tuple[str, Bool[np.ndarray, "height width"] | None, Float32[np.ndarray, " pixels"]]] = deque()

    def read() -> Iterator[tuple[str, UInt8[np.ndarray, "3 _ _"]]]:
        pairs = zip(photographs.samples, photographs.digest.images, strict=True)
        for sample, sha256 in tracked(list(pairs), "Scoring photographs"):
            name = shown_below(photographs.root, sample.image_path)
            if sha256 and sha256 in seen:
                copies.append(name)
                continue
            seen.add(sha256)
            try:
                pixels = as_rgb(sample.image_path, job.data.max_pixels)
                size = (pixels.shape[1], pixels.shape[2])
                detector.scanner.tiling(size)  # refuses what is too thin to tile
                area = detector.area(sample.image_path, size, photographs.root)
            except DataError as error:
                failed.append((name, kind, str(error)))
                continue
            waiting.append((name, area, thumbnail(np.ascontiguousarray(pixels.transpose(1, 2, 0)))))
            yield name, pixels

    for whole in detector.scanner.scan(read(), job.category):
        name, area, small = waiting.popleft()
        scan = whole.within(area)
        yield Part(name, scan.image_score, scan.highest, small)
    if copies:
        ones, several = "photograph is an exact copy and counts", "photographs are exact copies and count"
        logger.warning("%s once: %s.", counted(len(copies), ones, several), first_few(copies))


def _scores(parts: Sequence[Part]) -> tuple[list[float], list[float]]:
    return [part.image_score for part in parts], [part.map_maximum for part in parts]


def _warn_of_look_alikes(parts: Sequence[Part]) -> None:
    alike = look_alikes(np.stack([part.thumbnail for part in parts]))
    if alike:
        named = first_few([f"{parts[later].image} ({parts[earlier].image})" for later, earlier in alike])
        logger.warning(
            "%d of %d good photographs %s like another one: %s. If they show the same part again, the bound does not "
            "hold, because it counts independent parts: photograph each part once.",
            *(len(alike), len(parts), "looks" if len(alike) == 1 else "look", named),
        )


def _summary(made: Calibration, good: Sequence[Part], bad: Sequence[Part]) -> Table:
    """Lay out thresholds, and what they do to the parts that they were found on."""
    table = Table(title=f"Thresholds from {counted(made.num_good, 'good part')}; a part is anomalous above")
    for name in (
        "",
        "threshold",
        *(("undecided",) if made.undecided else ()),
        "good parts above",
        *(("bad parts above",) if bad else ()),
    ):
        table.add_column(name, justify="right" if name else "left")
    for name, level, column in (("image score", made.image, 0), ("map maximum", made.region, 1)):
        above = [sum(score > level.threshold for score in _scores(parts)[column]) for parts in (good, bad)]
        counts = [f"{count} of {len(parts)}" for count, parts in zip(above, (good, bad), strict=True) if parts]
        low = [f"{level.undecided_from:.5g} to {level.undecided_to:.5g}"] if made.undecided else []
        table.add_row(name, f"{level.threshold:.5g}", *low, *counts)
    if bad:
        normal, anomalous = np.array(_scores(good)[0]), np.array(_scores(bad)[0])
        shares = (
            f"{100 * overkill_at_escape(normal, anomalous, escape):.1f} % at {100 * escape:g} %" for escape in ESCAPES
        )
        escaped = 100 * escape_at_overkill(normal, anomalous)
        missed = sum(made.decide(*pair) is Decision.normal for pair in zip(*_scores(bad), strict=True))
        table.caption = (
            f"{missed} of {counted(len(bad), 'bad part')} {'is' if missed == 1 else 'are'} missed. "
            f"Overkill at an escape: {', '.join(shares)}. "
            f"Escape at an overkill: {escaped:.1f} % at 5 %."
        )
    return table
