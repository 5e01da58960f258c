"""What ``afr-clip diagnose`` found, laid out for a terminal, the page of a run, and a report on several."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from afr_clip.files import shown
from afr_clip.reports.layout.grid import (
    COLUMNS,
    Grid,
    Heading,
    TableCell,
    difference_cell,
    measured_cell,
    number_cell,
    text_headings,
)
from afr_clip.reports.record.schema import Diagnosis, RecordError, read_record

if TYPE_CHECKING:
    from afr_clip.reports.compare.values import Measured

logger = logging.getLogger(__name__)

AS_IT_IS = "as_it_is"
NO_TERM = "no_stateless_term"
NO_STATELESS = "no_stateless"
WRONG_CATEGORY = "wrong_category"
OTHER_CATEGORY = "other_category"
PARTNER = "partner"
OBJECT = "object"
SWAPPED = "swapped_prototypes"
TERMS = "terms"

_LABELS = {
    NO_TERM: "F_t^s = 0 in Eq. (6)",
    NO_STATELESS: "F_t^s = 0 in Eqs. (3) and (6)",
    WRONG_CATEGORY: "every image called {wrong_category!r}",
    OTHER_CATEGORY: "every image called by the next category",
    PARTNER: "every image called by the category that shares its pictures",
    OBJECT: "every image called 'object'",
    SWAPPED: "prototypes swapped",
    TERMS: "terms of rectification",
}
"""What each change of the text, and the table of terms, is called."""

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

_TERM_COLUMNS = {
    "text_norm": ("Text term", "Norm of the text's term of Eq. (6), |F_t^s|"),
    "image_norm": ("Image term", "Norm of the image's term of Eq. (6), |F_v * M_v|"),
    "share": ("Share of text", "Text term / (text term + image term), in percent"),
    "turn": ("Turn", "Degrees by which the text's term turns the image's"),
}


class Part(NamedTuple):
    """What was found on one dataset."""

    heading: str
    grids: Sequence[Grid]
    notes: Sequence[str]


def diagnosis_file(*, untrained: bool) -> str:
    """Name the file with what was found; an untrained network has one of its own."""
    return "diagnosis_untrained.json" if untrained else "diagnosis.json"


def read_diagnoses(run_folder: Path) -> list[Part]:
    """Read the diagnoses of a run folder, that of the untrained network last; empty if there are none."""
    paths = [run_folder / diagnosis_file(untrained=untrained) for untrained in (False, True)]
    contents = [read_record(path, Diagnosis, for_display=True) for path in paths if path.exists()]
    return [part for content in contents for part in diagnosis_parts(content)]


def diagnosis_parts(content: Mapping[str, Any]) -> list[Part]:
    """Lay out what ``diagnosis.json`` holds, one part per dataset."""
    state = ", untrained" if content["untrained"] else ""
    labels = {name: label.format(**content) for name, label in _LABELS.items()}
    parts = []
    for found in content["datasets"]:
        grids = [_metrics(found, labels)]
        if found.get("names"):
            grids.append(_names(found["names"]))
        if found["terms"]:
            grids.append(_terms(found["terms"]))
        grids.append(_prototypes(found["prototypes"]))
        parts.append(Part(f"{found['dataset']}{state}", grids, list(_notes(found, labels))))
    return parts


def _metrics(found: Mapping[str, Any], labels: Mapping[str, str]) -> Grid:
    own: dict[str, list[float]] = {metric: [] for metric in COLUMNS}
    for row in found["metrics"]:
        if row["text"] == AS_IT_IS and row["value"] is not None and row["metric"] in own:
            own[row["metric"]].append(row["value"])
    means = [measured_cell(100 * fmean(own[metric]) if own[metric] else None, None, None) for metric in COLUMNS]
    differences: dict[str, dict[str, TableCell]] = {}
    for row in found["differences"]:
        cell = difference_cell(row["points"], (row["low"], row["high"]))
        differences.setdefault(row["text"], {})[row["metric"]] = cell
    rows = [
        [TableCell(labels.get(text, text)), *(cells.get(metric, TableCell("")) for metric in COLUMNS)]
        for text, cells in differences.items()
    ]
    headings = [*text_headings("Text"), *(Heading(label, meaning) for label, meaning in COLUMNS.values())]
    return Grid("metrics, and what another text changes", headings, [[TableCell("as it is"), *means], *rows])


def _names(names: Mapping[str, Any]) -> Grid:
    rows = []
    for key, label in (("right", "right name"), ("partner", "partner's name"), ("object", "'object'")):
        if names.get(key):
            means = [None if value is None else 100 * value for value in (names[key].get(one) for one in COLUMNS)]
            rows.append([TableCell(label), *(measured_cell(mean, None, None) for mean in means)])
    if names.get("gap"):
        gaps = [None if value is None else 100 * value for value in (names["gap"].get(one) for one in COLUMNS)]
        rows.append([TableCell("name gap"), *map(difference_cell, gaps)])
    bound = measured_cell(100 * names["image_only_bound"], None, None)
    rows.append([TableCell("bound of image-only methods"), bound, *[TableCell("")] * (len(COLUMNS) - 1)])
    headings = [*text_headings("Name"), *(Heading(label, meaning) for label, meaning in COLUMNS.values())]
    return Grid("what the name decides", headings, rows)


def _terms(terms: Sequence[Mapping[str, Any]]) -> Grid:
    headings = [*text_headings("Stage", "Tokens"), *(Heading(*column) for column in _TERM_COLUMNS.values())]
    rows = []
    for row in terms:
        share, turn = 100 * row["share"], row["turn"]
        norms = [number_cell(row[name], ".3g") for name in ("text_norm", "image_norm")]
        shares = [TableCell(f"{share:.2f} %", share), TableCell(f"{turn:.2f}\N{DEGREE SIGN}", turn)]
        rows.append([TableCell(str(row["stage"])), TableCell(row["tokens"]), *norms, *shares])
    return Grid("the two terms of rectification", headings, rows)


def _prototypes(prototypes: Sequence[Mapping[str, Any]]) -> Grid:
    columns = {
        "cosine": ("Cosine", "Between the normal and the abnormal prototype, as the network compares with them"),
        "cosine_before_adapter": ("Before adapter", "Between the text tower's embeddings of the two"),
    }
    held = {key: column for key, column in columns.items() if all(key in row for row in prototypes)}
    rows = [[TableCell(row["category"]), *(number_cell(row[key], ".3f") for key in held)] for row in prototypes]
    headings = [*text_headings("Category"), *(Heading(*column) for column in held.values())]
    return Grid("cosine of normal and abnormal prototype", headings, rows)


def _notes(found: Mapping[str, Any], labels: Mapping[str, str]) -> Iterator[str]:
    most = max((row["num_categories"] for row in found["differences"]), default=0)
    if most > 1:
        yield (
            f"Differences are in percentage points, each the mean over the categories that define the metric, {most} "
            f"at most. Brackets hold a 95 % bootstrap interval over categories: it covers other kinds of object, but "
            f"says nothing about other training seeds or other images of the same objects."
        )
    else:
        yield "Differences are in percentage points. A single category gives no interval."
    if found["terms"]:
        yield (
            "Norms, share and turn are medians over a stage's tokens in each image, and then over the images. Scores "
            "depend on directions only, so where the turn is near zero, the text's term cannot change them."
        )
    if found.get("names"):
        yield (
            f"The name decides: {found['names']['num_categories']} categories share pictures with a partner, and what "
            "is good in one is anomalous in the other. Without the name, the mean image AUROC cannot exceed the bound."
        )
    for name, reason in found["left_out"].items():
        yield f"Left out: {labels.get(name, name)}. {reason}"


def diagnosis_grid(measured: "Measured") -> Grid | None:
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
                [TableCell(one.label), TableCell(found["dataset"]), number_cell(seed, ""), *_moves(found)]
                for found in content["datasets"]
            ]
    return Grid("Does the text matter?", headings, rows) if rows else None


def _moves(found: Mapping[str, Any]) -> list[TableCell]:
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
