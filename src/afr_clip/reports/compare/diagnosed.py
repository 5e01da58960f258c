"""Whether the text matters to the runs of a report: what ``afr-clip diagnose`` left in their folders, one row each."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from afr_clip.files import shown
from afr_clip.reports.compare.values import Measured
from afr_clip.reports.diagnosis import NO_STATELESS, OBJECT, SWAPPED, WRONG_CATEGORY, diagnosis_file
from afr_clip.reports.layout.grid import Grid, Heading, TableCell, difference_cell, number_cell, text_headings
from afr_clip.reports.record.schema import Diagnosis, RecordError, read_record

logger = logging.getLogger(__name__)

CHANGES = {
    NO_STATELESS: ("no text term", "Eqs. (3) and (6) without the stateless embedding"),
    WRONG_CATEGORY: ("wrong name", "Every image called by the same wrong name"),
    OBJECT: ("'object'", "Every image called 'object'"),
    SWAPPED: ("swapped", "The normal and the abnormal prototype swapped"),
}
"""The changes of the text that a report shows."""

METRIC = "image_auroc"

NOTE = (
    "The same network on the same images with another text: how many points the image AUROC moves, with its 95 % "
    "interval over categories. Near zero, the text does not matter; swapped prototypes should cost the most. The share "
    "of text is that of the stateless term in Eq. (6), in the stage where it is largest."
)


def diagnosis_grid(measured: Measured) -> Grid | None:
    """Lay out the diagnoses of trained networks; ``None`` if no run has one."""
    headings = [
        *text_headings("Setting", "Dataset"),
        Heading("Seed"),
        *(Heading(label, meaning, "Image AUROC moves by") for label, meaning in CHANGES.values()),
        Heading("Share of text", "In percent, of the stage in which it is largest"),
        Heading("Name gap", "Image AUROC with the right name minus that with its partner's"),
    ]
    rows = []
    for one in measured.series:
        for run in one.runs:
            path = run.folder / diagnosis_file(untrained=False)
            if not path.is_file():
                continue
            try:
                content = read_record(path, Diagnosis, for_display=True)
            except (RecordError, OSError) as error:
                logger.warning("%s is left out, because it cannot be read: %s", shown(path), error)
                continue
            seed = (run.manifest.get("checkpoint") or run.manifest)["seed"]
            rows += [
                [TableCell(one.label), TableCell(found["dataset"]), number_cell(seed, ""), *_cells(found)]
                for found in content["datasets"]
            ]
    return Grid("Does the text matter?", headings, rows) if rows else None


def _cells(found: Mapping[str, Any]) -> list[TableCell]:
    moves = {row["text"]: row for row in found["differences"] if row["metric"] == METRIC}
    cells = [
        difference_cell(moves[change]["points"], (moves[change]["low"], moves[change]["high"]))
        if change in moves
        else TableCell("")
        for change in CHANGES
    ]
    share = 100 * max((row["share"] for row in found["terms"]), default=math.nan)
    gap = ((found.get("names") or {}).get("gap") or {}).get(METRIC)
    return [*cells, number_cell(share, ".2f"), difference_cell(None if gap is None else 100 * gap)]
