"""What a run measured, written and read back: ``results.json``, ``results.csv`` and ``scores.csv``."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from afr_clip.files import append_whole, from_cell, shown
from afr_clip.inspection.calibration import Decision
from afr_clip.inspection.record import Inspected
from afr_clip.metrics.average import (
    MEAN,
    METRICS,
    PUBLISHED_PRO,
    SATURATED_PRO,
    CategoryResult,
    MacroAverage,
    macro_average,
)
from afr_clip.metrics.thresholds import PIXEL_GIVEN, PIXEL_MAX_F1, Threshold, all_thresholds
from afr_clip.reports.record.run_folder import csv_text, write_csv, write_json
from afr_clip.reports.record.schema import Results, Scored, ScoredEpochs, read_record, require

if TYPE_CHECKING:
    import pandas as pd

RESULTS = "results.json"
EPOCHS = "epochs.json"
"""What the weights of every epoch gave on a target. These are not results: to choose among them takes its truth."""

SCORES = "scores.csv"
RESULTS_HEADER = ("dataset", "category", "metric", "value", "num_normal", "num_anomalous")
_OF_THRESHOLD = tuple(one.name for one in fields(Threshold))
THRESHOLDS_HEADER = ("dataset", *_OF_THRESHOLD, "overkill", "escape")
SCORES_HEADER = ("dataset", "category", "image", "is_anomalous", "image_score")
VERDICT_HEADER = ("decision", "threshold", "num_regions", "area_px", "area_mm2")

MEAN_ROW = -1
"""Stands for the mean in the column ``row`` of `read_values`."""


@dataclass(frozen=True)
class DatasetResult:
    """What one target dataset gave.

    Attributes:
        vanished_defects: Per category, how many defect regions lost their last pixel when masks were resized.
        thresholds: Of the images of each category, of all images together, and of the pixels of each category.
    """

    dataset: str
    categories: tuple[CategoryResult, ...]
    vanished_defects: Mapping[str, int]
    thresholds: tuple[Threshold, ...] = ()

    @property
    def mean(self) -> MacroAverage:
        """The macro average over the categories."""
        return macro_average(self.categories)


@dataclass(frozen=True)
class Verdict:
    """What a calibrated detector found on a photograph, in a few numbers.

    Attributes:
        area_px: Of all regions together.
        area_mm2: ``None`` if the size of a pixel is unknown, or there is no region.
    """

    decision: Decision
    threshold: float
    num_regions: int
    area_px: int
    area_mm2: float | None

    @classmethod
    def of(cls, inspected: Inspected) -> "Verdict | None":
        """Sum up a photograph; ``None`` without calibration."""
        if inspected.decision is None or inspected.threshold is None:
            return None
        sizes = len(inspected.regions), inspected.area_px, inspected.area_mm2
        return cls(inspected.decision, inspected.threshold, *sizes)


@dataclass(frozen=True)
class ImageRow:
    """One row of ``scores.csv``.

    Attributes:
        image: Its path below the root of its dataset, in natural order, as `shown` gives it. Version 0.1 wrote whole
            paths.
        is_anomalous: The truth; ``None`` if it is unknown. The file then has what the verdict decides, if there is one.
        image_score: From 0 to 1; not a calibrated probability.
        verdict: In all rows of a file or in none; not read back.
        by_name: The image score under other names, the same in all rows of a file; not read back.
    """

    dataset: str
    category: str
    image: str
    is_anomalous: bool | None
    image_score: float
    verdict: Verdict | None = None
    by_name: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredDataset:
    """A target dataset once it is scored.

    Attributes:
        facts: Its entry in the manifest, with the SHA-256 of its images.
    """

    facts: Mapping[str, Any]
    result: DatasetResult
    rows: Sequence[ImageRow]


def write_results(folder: Path, results: Sequence[DatasetResult], manifest: Mapping[str, Any]) -> None:
    """Write ``results.csv``, ``thresholds.csv`` and ``results.json``.

    Values are fractions in [0, 1]. Undefined ones are ``nan`` in the CSV and ``null`` in the JSON, which lists them.
    """
    write_csv(folder / "results.csv", RESULTS_HEADER, (list(row.values()) for row in result_rows(results)))
    thresholds = _threshold_rows(results)
    write_csv(folder / "thresholds.csv", THRESHOLDS_HEADER, (list(row.values()) for row in thresholds))
    write_json(folder / RESULTS, as_content(results, manifest))


def as_content(results: Sequence[DatasetResult], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``results.json``: plain values, ``None`` if a value is undefined."""
    rows = [row | {"value": _or_none(row["value"])} for row in result_rows(results)]
    return {
        "results": rows,
        "undefined": [f"{r['dataset']}/{r['category']}/{r['metric']}" for r in rows if r["value"] is None],
        "categories_in_mean": {result.dataset: dict(result.mean.num_defined) for result in results},
        "vanished_defects": {result.dataset: dict(result.vanished_defects) for result in results},
        "thresholds": _threshold_rows(results),
        "manifest": dict(manifest),
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def result_rows(results: Iterable[DatasetResult]) -> list[dict[str, Any]]:
    """Return one row of `RESULTS_HEADER` per value, the mean last; NaN where it is undefined."""
    rows = (
        (result.dataset, row.category, metric, value, row.num_normal, row.num_anomalous)
        for result in results
        for row in (*result.categories, result.mean)
        for metric, value in row.values.items()
    )
    return [dict(zip(RESULTS_HEADER, row, strict=True)) for row in rows]


def _threshold_rows(results: Iterable[DatasetResult]) -> list[dict[str, Any]]:
    return [
        {"dataset": result.dataset, **asdict(one), "overkill": one.overkill, "escape": one.escape}
        for result in results
        for one in result.thresholds
    ]


def thresholds_of(rows: Sequence[ImageRow], categories: Iterable[CategoryResult]) -> tuple[Threshold, ...]:
    """Find the thresholds of a scored dataset, those of its pixels last.

    Args:
        rows: Its images, of which those of unknown truth are left out.
        categories: Its results.
    """
    known = [row for row in rows if row.is_anomalous is not None]
    of_images = all_thresholds(
        [row.category for row in known],
        [row.image_score for row in known],
        [bool(row.is_anomalous) for row in known],
    )
    of_pixels = []
    for one in categories:
        if not math.isnan(one.pixel_threshold):
            of_pixels.append(Threshold(one.category, PIXEL_MAX_F1, one.pixel_threshold))
        if one.pixel_f1_given is not None:
            threshold, f1 = one.pixel_f1_given
            of_pixels.append(Threshold(one.category, PIXEL_GIVEN, threshold, f1=None if math.isnan(f1) else f1))
    return (*of_images, *of_pixels)


def read_thresholds(content: Mapping[str, Any], dataset: str) -> tuple[Threshold, ...]:
    """Return the thresholds of a dataset in ``results.json``; none in a record from before there were any."""
    rows = [row for row in content.get("thresholds") or () if row["dataset"] == dataset]
    return tuple(Threshold(**{key: row.get(key) for key in _OF_THRESHOLD}) for row in rows)


def read_values(results: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
    """Turn the rows of ``results.json`` into a table with one value per row.

    Args:
        results: In the order in which they were written.

    Returns:
        The columns of `RESULTS_HEADER`, NaN where a value is undefined, and ``row``: the place of the category within
        its dataset, `MEAN_ROW` for the mean. A category may be called "mean" too, so the name alone does not tell.
    """
    import pandas as pd  # noqa: PLC0415 - half a second, and predictions have no such table

    values = []
    last: dict[str, tuple[int, str | None, set[str]]] = {}
    for result in results:
        dataset, category, metric, *numbers = (result[name] for name in RESULTS_HEADER)
        row, before, metrics = last.get(dataset, (-1, None, set()))
        # A metric that comes again begins the next category, since two may have the same name.
        if category != before or metric in metrics:
            row, metrics = row + 1, set()
        last[dataset] = (row, category, metrics | {metric})
        values.append((dataset, category, metric, *numbers, row))
    table = pd.DataFrame(values, columns=[*RESULTS_HEADER, "row"])
    table = table.astype({"value": float, "num_normal": int, "num_anomalous": int, "row": int})
    table.loc[table.row == table.groupby("dataset").row.transform("max"), "row"] = MEAN_ROW
    return table


def read_results(path: Path, *, for_display: bool = False) -> "tuple[dict[str, Any], pd.DataFrame]":
    """Read ``results.json``: its content, and its values as `read_values` gives them.

    Raises:
        RecordError: If it is not the results of a run.
        OSError: If it cannot be read.
    """
    content = read_record(path, Results, for_display=for_display)
    require(path, Results, _foreign_values(content))
    values = read_values(content["results"])
    require(path, Results, _incomplete(values))
    return content, values


def write_epochs(folder: Path, results: Mapping[int, DatasetResult]) -> None:
    """Write what the weights of each epoch gave, by epoch."""
    rows = [{"epoch": epoch, **row} for epoch, result in results.items() for row in result_rows([result])]
    write_json(folder / EPOCHS, {"results": [row | {"value": _or_none(row["value"])} for row in rows]})


def read_epochs(folder: Path) -> "pd.DataFrame":
    """Read the means over the categories that the weights of every epoch gave.

    Returns:
        The columns ``epoch``, ``dataset``, ``metric`` and ``value``.

    Raises:
        RecordError: If the file is not such a record.
        OSError: If it cannot be read.
    """
    import pandas as pd  # noqa: PLC0415 - as in `read_values`

    content = read_record(folder / EPOCHS, ScoredEpochs, for_display=True)
    parts = []
    require(folder / EPOCHS, ScoredEpochs, iter([] if content["results"] else ["it has no results"]))
    for epoch in dict.fromkeys(row["epoch"] for row in content["results"]):
        values = read_values(row for row in content["results"] if row["epoch"] == epoch)
        parts.append(values[values.row == MEAN_ROW].assign(epoch=epoch))
    return pd.concat(parts)[["epoch", "dataset", "metric", "value"]]


def _foreign_values(content: Mapping[str, Any]) -> Iterator[str]:
    manifest = content["manifest"]
    if manifest.get("targets") is None:
        yield "manifest.targets is missing"
        return
    if content["results"] and manifest.get("backbone") is None:
        yield "manifest.backbone is missing"
    for dataset in dict.fromkeys(result["dataset"] for result in content["results"]):
        for key, place in (
            ("manifest.targets", manifest["targets"]),
            ("categories_in_mean", content["categories_in_mean"]),
            ("vanished_defects", content["vanished_defects"]),
        ):
            if dataset not in place:
                yield f"{key}.{dataset} is missing"
        defined = content["categories_in_mean"].get(dataset, {})
        yield from (f"categories_in_mean.{dataset}.{metric} is missing" for metric in METRICS if metric not in defined)
    for place, result in enumerate(content["results"]):
        value = result["value"]
        if result["metric"] not in (known := (*METRICS, PUBLISHED_PRO, *SATURATED_PRO)):
            yield f"results[{place}].metric must be one of {', '.join(known)}, got {result['metric']}"
        if value is not None and not 0 <= value <= 1:
            yield f"results[{place}].value must lie in [0, 1], got {value}"
        if min(result["num_normal"], result["num_anomalous"]) < 0:
            yield f"results[{place}] must have no negative count of images"


def _incomplete(values: "pd.DataFrame") -> Iterator[str]:
    found: dict[str, dict[int, tuple[str, set[str]]]] = {}
    for name, row, category, metric in values[["dataset", "row", "category", "metric"]].itertuples(index=False):
        found.setdefault(name, {}).setdefault(row, (category, set()))[1].add(metric)
    for name, rows in found.items():
        if len(rows) < 2 or list(rows.values())[-1][0] != MEAN:
            yield f"the results of {name} must be categories and then their {MEAN}"
        for category, metrics in rows.values():
            lacking = [metric for metric in METRICS if metric not in metrics]
            if lacking:
                yield f"{name}/{category} lacks {', '.join(lacking)}"


def write_scores(
    folder: Path, rows: Iterable[ImageRow], *, with_verdict: bool = False, names: Sequence[str] = ()
) -> None:
    """Write ``scores.csv``: one image per row, its score with all digits.

    Args:
        names: Of `ImageRow.by_name`; the column of "object" is called ``image_score[object]``.
    """
    verdict = VERDICT_HEADER if with_verdict else ()
    header = (*SCORES_HEADER, *verdict, *(f"image_score[{name}]" for name in names))
    write_csv(folder / SCORES, header, map(_cells, rows))


class GrowingScores:
    """``scores.csv`` while photographs are scored: a file of whole rows that only grows, in the order of scoring.

    Args:
        rows: What it begins with.
    """

    def __init__(
        self, folder: Path, rows: Iterable[ImageRow] = (), *, with_verdict: bool = False, names: Sequence[str] = ()
    ) -> None:
        write_scores(folder, rows, with_verdict=with_verdict, names=names)
        self._file = (folder / SCORES).open("ab", buffering=0)

    def append(self, rows: Iterable[ImageRow]) -> None:
        """Add rows, which survive a kill of this process from here on.

        Raises:
            OSError: If they cannot be written; then none of them is.
        """
        append_whole(self._file, csv_text(map(_cells, rows)).encode("utf-8"))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _cells(row: ImageRow) -> list[object]:
    is_anomalous, found = row.is_anomalous, row.verdict
    if is_anomalous is None and found is not None and found.decision is not Decision.undecided:
        is_anomalous = found.decision is Decision.anomalous
    flag = "" if is_anomalous is None else int(is_anomalous)
    cells: list[object] = [row.dataset, row.category, row.image, flag, repr(row.image_score)]
    if found is not None:
        area_mm2 = "" if found.area_mm2 is None else repr(found.area_mm2)
        cells += [found.decision.value, repr(found.threshold), found.num_regions, found.area_px, area_mm2]
    return [*cells, *map(repr, row.by_name.values())]


def read_scores(folder: Path) -> list[ImageRow]:
    """Read ``scores.csv``, digit for digit, but no verdicts; empty if there is no file.

    Half a row at its end is left out.
    """
    path = folder / SCORES
    if not path.exists():
        return []
    content = path.read_bytes()
    _, *table = csv.reader(io.StringIO(content[: content.rfind(b"\n") + 1].decode("utf-8"), newline=""))
    return [
        ImageRow(
            *(from_cell(dataset), from_cell(category), from_cell(image)),
            bool(int(truth)) if truth else None,
            float(score),
        )
        for dataset, category, image, truth, score, *_ in table
    ]


def read_scored(folder: Path, scored_with: Mapping[str, Any]) -> dict[str, ScoredDataset] | None:
    """Read what an earlier run in the same folder scored.

    Args:
        scored_with: What the manifest must say the datasets were scored with: weights, and the files a scoring leaves.

    Returns:
        The datasets by name, without those that lack images in ``scores.csv``; ``None`` if nothing was scored, or
        with something else.
    """
    path = folder / RESULTS
    if not path.exists():
        return None
    content = read_record(path, Scored)
    if content["manifest"].get("scored_with") != scored_with:
        return None
    images: dict[str, list[ImageRow]] = {}
    for row in read_scores(folder):
        images.setdefault(row.dataset, []).append(row)
    scored = {}
    for name, values in read_values(content["results"]).groupby("dataset", sort=False):
        *categories, mean = category_results(values)
        if len(images.get(str(name), ())) == mean.num_normal + mean.num_anomalous:
            lost, thresholds = content["vanished_defects"][name], read_thresholds(content, str(name))
            result = DatasetResult(str(name), tuple(categories), lost, thresholds)
            scored[str(name)] = ScoredDataset(content["manifest"]["targets"][name], result, images[str(name)])
    return scored


def category_results(values: "pd.DataFrame") -> list[CategoryResult]:
    """Return the categories of one dataset of `read_values`, the mean last."""
    return [
        CategoryResult(
            str(of_row.category.iloc[0]),
            dict(zip(of_row.metric, of_row.value.tolist(), strict=True)),
            int(of_row.num_normal.iloc[0]),
            int(of_row.num_anomalous.iloc[0]),
        )
        for _, of_row in values.groupby("row", sort=False)
    ]


def unchanged(scored: Mapping[str, ScoredDataset], facts: Mapping[str, Mapping[str, Any]]) -> dict[str, ScoredDataset]:
    """Return the datasets that are still targets and hold the same images as when they were scored.

    Args:
        facts: The entries of today's targets in the manifest, by name.
    """
    return {
        name: dataset
        for name, dataset in scored.items()
        if name in facts and facts[name]["sha256"] == dataset.facts["sha256"]
    }


def results_table(result: DatasetResult) -> Table:
    """Show a dataset's result in a terminal: categories, then the mean, in percent; undefined values are dashes."""
    table = Table(title=escape(f"{shown(result.dataset)} (percent)"))
    table.add_column("category")
    for name in ("normal / anomalous", *METRICS):
        table.add_column(name, justify="right")
    for row in (*result.categories, result.mean):
        if row.category == result.mean.category:
            table.add_section()
        values = (_percent(row.values[metric]) for metric in METRICS)
        table.add_row(escape(shown(row.category)), f"{row.num_normal} / {row.num_anomalous}", *values)
    notes = []
    partly = {m: n for m, n in result.mean.num_defined.items() if n < len(result.categories)}
    if partly:
        counts = ", ".join(f"{metric} {n}" for metric, n in partly.items())
        notes.append(f"Categories in the mean, of {len(result.categories)}: {counts}; undefined in the others.")
    if not math.isnan(published := result.mean.values.get(PUBLISHED_PRO, math.nan)):
        notes.append(published_pro_note(published))
    saturated = {name: result.mean.values[name] for name in SATURATED_PRO if name in result.mean.values}
    if saturated:
        shares = ", ".join(f"{name} {_percent(one)}" for name, one in saturated.items())
        notes.append(f"Area under sPRO up to a false positive rate of 0.05, in the mean: {shares}.")
    table.caption = "\n".join(notes) or None
    return table


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def published_pro_note(mean: float) -> str:
    """Report the mean of `PUBLISHED_PRO` in a sentence, because a column next to PRO would be misread."""
    return (
        f"PRO as AnomalyCLIP and APRIL-GAN compute it, to be compared with theirs alone: {100 * mean:.1f} in the mean."
    )
