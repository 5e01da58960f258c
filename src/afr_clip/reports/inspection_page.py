"""One HTML page per prediction: each photograph with its decision and the outlines of its regions, the worst first.

The thumbnails are files next to the page. Inside it, thousands of them would all have to be read before anything shows;
as files, the browser loads only those that come into view.
"""

import csv
import hashlib
import heapq
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from afr_clip.files import counted, from_cell, in_one_line, write_encoded
from afr_clip.inspection.calibration import Calibration, Decision
from afr_clip.inspection.record import Inspected
from afr_clip.inspection.regions import Region
from afr_clip.reports.decisions import Chart
from afr_clip.reports.layout.html import render
from afr_clip.reports.pictures.encode import shrunk
from afr_clip.reports.record.inspections import REGIONS
from afr_clip.reports.record.results import SCORES
from afr_clip.reports.record.run_folder import MANIFEST, SKIPPED, write_text
from afr_clip.settings import DecideBy

PAGE = "inspection.html"

THUMBNAILS = "thumbnails"

MOST_SKIPPED = 100
"""Of these, so many are named on the page."""

LARGEST_SIDE = 400
"""Of a thumbnail, in pixels."""

MOST_SHOWN = 5000
"""Photographs on the page; a browser stays quick with that many."""

NUM_BINS = 40

WORST_FIRST = (Decision.anomalous, Decision.undecided, Decision.normal, None)


@dataclass(frozen=True)
class Card:
    """One photograph as the page shows it.

    Attributes:
        outline: The regions as the path of an SVG in pixels of the photograph; empty if there are none.
        size: Number and area of the regions, in words.
        area: Of all regions in pixels.
        hints: What the regions may be, in words.
        by_name: The image score under each other name, and its difference to that under the category.
        thumbnail: Where it lies, as an address below the page; ``None`` if there is no such file.
        larger: Address of a larger picture; ``None`` likewise.
    """

    image: str
    category: str
    width: int
    height: int
    decision: str
    image_score: float
    calibrated: float | None
    outline: str
    size: str
    area: int
    hints: str
    by_name: Sequence[tuple[str, float, float]]
    thumbnail: str | None
    larger: str | None


def write_thumbnail(folder: Path, image: str, photograph: UInt8[ndarray, "height width 3"]) -> None:
    """Write the thumbnail of a photograph into a run folder, where the page will look for it.

    Args:
        image: Its name, as in `Inspected`.
        photograph: RGB, upright.
    """
    picture = shrunk(photograph, LARGEST_SIDE)
    write_encoded(folder / _thumbnail(image), partial(picture.save, format="JPEG", quality=85))


def write_inspection_page(
    folder: Path,
    inspected: Iterable[Inspected],
    calibration: Calibration | None = None,
    larger: Mapping[str, Path] | None = None,
) -> Path:
    """Write ``inspection.html``. It shows only files inside the folder.

    Args:
        folder: The run folder, in which the manifest and the list of skipped photographs lie.
        calibration: What decided.
        larger: The picture that a click shows, below the folder, by the name of the photograph.
    """
    scores: list[tuple[float, str]] = []
    changes: dict[str, list[float]] = {}
    thresholds: set[float] = set()

    def cards() -> Iterator[Card]:  # one at a time, because the masks of regions take memory
        for one in inspected:
            card = _card(folder, one, (larger or {}).get(one.image))
            scores.append((card.image_score, card.decision))
            for name, _, change in card.by_name:
                changes.setdefault(name, []).append(change)
            thresholds.update([] if one.threshold is None else [one.threshold])
            yield card

    worst = heapq.nsmallest(MOST_SHOWN, cards(), key=_worst_first)
    is_by_region = calibration is not None and calibration.decide_by is DecideBy.region
    threshold = thresholds.pop() if len(thresholds) == 1 and not is_by_region else None
    numbers = Counter(decision for _, decision in scores)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8")) if (folder / MANIFEST).exists() else {}
    detector = manifest.get("detector", {})
    categories = sorted({card.category for card in worst})
    named = categories or ([in_one_line(detector["category"])] if detector else [])
    skipped = _skipped(folder)
    has_band = calibration is not None and calibration.undecided is not None
    counts = {one.value: numbers[one.value] for one in WORST_FIRST if one is not None}
    page = render(
        "inspection.html",
        title=f"Inspection: {', '.join(named)}" if 0 < len(named) <= 3 else "Inspection",
        number=counted(len(scores), "photograph"),
        counts=[(one, num) for one, num in counts.items() if num or (has_band and one == "undecided")],
        skipped=skipped[:MOST_SKIPPED],
        num_skipped=len(skipped),
        guarantee=None if calibration is None else _guarantee(calibration),
        has_outlines=calibration is not None or manifest.get("config", {}).get("region_threshold") is not None,
        opens_larger=any(card.larger for card in worst),
        made=_how_it_was_made(detector, calibration),
        files=[name for name in (SCORES, REGIONS, SKIPPED) if (folder / name).is_file()],
        left_out=len(scores) - len(worst),
        charts=[score_chart(scores, threshold)] if scores else [],
        threshold=threshold,
        cards=worst,
        has_categories=len(categories) > 1,
        called=", ".join(named),
        changes=[(name, float(np.median(all_of)), max(all_of, key=abs)) for name, all_of in changes.items()],
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _skipped(folder: Path) -> list[str]:
    """Return why photographs could not be scored, in sentences that name them."""
    if not (folder / SKIPPED).exists():
        return []
    with (folder / SKIPPED).open(newline="", encoding="utf-8") as file:
        _, *table = csv.reader(file)
    both = ((in_one_line(from_cell(image)), in_one_line(from_cell(reason))) for image, reason in table)
    return [reason if image in reason else f"{image}: {reason}" for image, reason in both]


def _guarantee(calibration: Calibration) -> str:
    kind, num = (
        ("bad", calibration.num_bad) if calibration.threshold_from == "escape" else ("good", calibration.num_good)
    )
    return calibration.guarantee().replace(f"as these {num}.", f"as the {num} {kind} parts of the calibration.")


def _how_it_was_made(detector: Mapping[str, Any], calibration: Calibration | None) -> str:
    """Describe detector and calibration, as the manifest has the former, in a few words."""
    parts = []
    if detector:
        size, tile, references = detector["image_size"], detector["tile"], detector["references"]
        parts += [detector["method"], f"weights {detector['weights'][:12]}", f"input {size} x {size} px"]
        parts += [] if tile is None else [f"tile={tile}"]
        parts += [f"few-shot with {counted(len(references), 'reference')}"] if references else []
        parts += [f"{name}= limits what is looked at" for name in ("roi", "ignore") if detector[name] is not None]
    if calibration is not None:
        budgets = {"false_alarms": calibration.false_alarms, "escape": calibration.escape, "best_f1": None}
        budget = budgets[calibration.threshold_from]
        rule = calibration.threshold_from if budget is None else f"{calibration.threshold_from}={budget:g}"
        parts.append(f"calibrated with {rule}")
    return in_one_line("; ".join(parts))


def _worst_first(card: Card) -> tuple[int, float, str]:
    place = [None if one is None else one.value for one in WORST_FIRST].index(card.decision or None)
    return place, -card.image_score, card.image


def _card(folder: Path, one: Inspected, larger: Path | None) -> Card:
    size = (
        f"{one.area_px:,} px"
        if one.area_mm2 is None
        else f"{one.area_mm2:{',.0f' if one.area_mm2 >= 100 else '.3g'}} mm²"
    )
    return Card(
        in_one_line(one.image),
        in_one_line(one.category),
        one.width,
        one.height,
        "" if one.decision is None else one.decision.value,
        one.image_score,
        one.calibrated,
        _path(one.regions, max(one.width, one.height) / LARGEST_SIDE),
        f"{counted(len(one.regions), 'region')}, {size}" if one.regions else "",
        one.area_px,
        ", ".join(dict.fromkeys(in_one_line(region.hint.word) for region in one.regions if region.hint)),
        [(in_one_line(name), score, score - one.image_score) for name, score in one.by_name.items()],
        _address(folder, _thumbnail(one.image)),
        None if larger is None else _address(folder, larger),
    )


def _thumbnail(image: str) -> Path:
    """Return a name that every file system takes and tells from all others."""
    return Path(THUMBNAILS, f"{hashlib.sha256(image.encode('utf-8', 'surrogatepass')).hexdigest()[:20]}.jpg")


def _address(folder: Path, path: Path) -> str | None:
    """Return the address of a file from the page; ``None`` if there is none, or it lies outside the folder."""
    whole = folder / path
    if not whole.is_file() or not whole.resolve().is_relative_to(folder.resolve()):
        return None
    return quote(os.fsencode(path.as_posix()))


def _path(regions: Sequence[Region], pixel: float) -> str:
    """Write outlines as the path of an SVG, as exact as can be seen.

    Args:
        pixel: Side of a pixel of the thumbnail, in pixels of the photograph.
    """
    parts = []
    for region in regions:
        for ring in region.polygons:
            corners = cv2.approxPolyDP(np.array(ring, dtype=np.float32), max(0.5, pixel / 2), closed=True)[:, 0]
            parts.append(f"M{'L'.join(f'{x:g} {y:g}' for x, y in corners.tolist())}Z")
    return "".join(parts)


def score_chart(
    scores: Sequence[tuple[float, str]], threshold: float | None, ends: tuple[float, float] | None = None
) -> Chart:
    """Count photographs by image score, those of each decision on top of the others.

    Args:
        scores: Each with its decision, which may be empty.
        ends: The lowest and the highest score of the axis; without, those of the photographs.
    """
    values = [score for score, _ in scores]
    around = [*values, *([] if threshold is None else [threshold])]
    low, high = ends or (min(around), max(around))
    span = high - low or 1.0
    edges = np.linspace(low, low + span, NUM_BINS + 1)
    kinds = [kind for kind in ("normal", "undecided", "anomalous", "") if any(kind == one for _, one in scores)]
    counts = np.array([np.histogram([s for s, one in scores if one == kind], edges)[0] for kind in kinds])
    tops, most = counts.cumsum(axis=0), counts.sum(axis=0).max()
    width = 100 / NUM_BINS
    bars = [
        (kinds[i] or "plain", j * width, 100 - 100 * float(tops[i, j]) / most, 0.9 * width, 100 * float(count) / most)
        for (i, j), count in np.ndenumerate(counts)
        if count
    ]
    name = f"{counted(len(scores), 'photograph')}; the highest bar has {most:,}"
    alt = f"Image scores of {counted(len(scores), 'photograph')} from {low:.4g} to {high:.4g}"
    place = None if threshold is None else 100 * (threshold - low) / span
    return Chart(name, alt, bars, place, (f"{low:.4g}", f"{high:.4g}"))
