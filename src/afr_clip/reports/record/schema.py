"""What the JSON files of runs and sweeps hold, and the one reader that checks it.

The classes name the keys that our readers look up and the kind of each value. A key with a default may be missing from
a file, and a key that no class names may hold anything. There are several views of a manifest and of results, because
older versions and stopped runs lack keys that only some readers need.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afr_clip.files import in_one_line, shown
from afr_clip.kinds import faults_of

LARGEST = 64 * 2**20
"""Bytes of the largest file that is read; a record of a hundred categories has half a megabyte."""

LARGEST_NUMBER = 1e100
"""Bound for numbers, so that sums and products of them stay finite."""

DEEPEST = 40
"""Deepest nesting of lists and objects."""

NUM_NAMED = 3
"""Most faults that an error names; the others are counted."""


class RecordError(ValueError):
    """A file of a run or sweep that does not hold what it should."""

    def __init__(self, path: Path, what: str, fault: str) -> None:
        self.fault = in_one_line(fault)
        named = what.split(":", maxsplit=1)[0].removesuffix(".")
        what = f"{named[0].lower()}{named[1:]}"
        super().__init__(
            f"{shown(path)} cannot be read as {what}: {self.fault}. Restore the file, or leave its folder out."
        )


@dataclass
class Commit:
    """The code that ran."""

    hash: str
    dirty: bool


@dataclass
class Dataset:
    """A dataset as a run met it."""

    name: str
    categories: list[str]
    num_normal: int
    num_anomalous: int
    sha256: str
    title: str | None = None


@dataclass
class Backbone:
    """The frozen towers."""

    name: str
    architecture: str
    random_weights: bool
    fingerprint: str


@dataclass
class Network:
    """The node ``module.network`` of a config."""

    shots: int | None = None


@dataclass
class Module:
    """The node ``module`` of a config."""

    name: str
    network: Network | None = None


@dataclass
class Config:
    """The resolved config of a run."""

    module: Module
    backbone: dict[str, Any] | None = None
    trainer: dict[str, Any] | None = None
    logger: dict[str, Any] | None = None


@dataclass
class Checkpoint:
    """The trained weights that a run scored with, and the training they come from."""

    path: str
    seed: int
    epochs: int
    auxiliary: Dataset
    commit: Commit | None = None
    config: dict[str, Any] | None = None
    precision: dict[str, Any] | None = None
    choices: dict[str, Any] | None = None
    by_dataset: list[str] | None = None


@dataclass
class Machine:
    """Where a run ran."""

    system: str
    processor: str
    threads: int
    gpus: list[str]


@dataclass
class Absent:
    """Why a dataset has no numbers."""

    title: str
    reason: str


@dataclass
class ReleasedWeights:
    """The published weights of a method."""

    path: str
    sha256: str


@dataclass
class Cost:
    """What scoring a dataset took.

    Attributes:
        milliseconds_per_image: Of the forward pass, the median over batches, in the first of the processes.
        peak_memory_mib: Of the GPU, or of the first process on a CPU; ``None`` where the system does not tell.
        device: ``cpu`` or the name of the GPU.
    """

    milliseconds_per_image: float | None
    peak_memory_mib: float | None
    device: str
    threads: int
    batch_size: int
    image_size: int


@dataclass
class Manifest:
    """The manifest of a run: where its numbers come from."""

    command: str
    overrides: list[str]
    config: Config
    seed: int
    started: str
    afr_clip: str
    python: str
    packages: dict[str, str | None]
    machine: Machine
    commit: Commit | None = None
    targets: dict[str, Dataset] | None = None
    backbone: Backbone | None = None
    auxiliary: Dataset | None = None
    checkpoint: Checkpoint | None = None
    released_weights: ReleasedWeights | None = None
    absent: dict[str, Absent] | None = None
    choices: dict[str, Any] | None = None
    by_dataset: list[str] | None = None
    precision: dict[str, Any] | None = None
    trainable_parameters: int | None = None
    cost: dict[str, Cost] | None = None
    scored_with: dict[str, Any] | None = None
    seconds_training: float | None = None
    seconds_scoring: dict[str, float] | None = None


@dataclass
class Mirrored:
    """The manifest of a run: what its loggers are told."""

    command: str
    config: Config
    auxiliary: dict[str, Any] | None = None
    backbone: Backbone | None = None
    checkpoint: dict[str, Any] | None = None
    choices: dict[str, Any] | None = None
    overrides: list[str] | None = None


@dataclass
class Setup:
    """The manifest of a run: what it must share with the run that resumes it."""

    config: dict[str, Any]


@dataclass
class Durations:
    """The manifest of a run: how long it took."""

    seconds_training: float | None = None
    seconds_scoring: dict[str, float] | None = None


@dataclass
class Value:
    """One metric of one category."""

    dataset: str
    category: str
    metric: str
    value: float | None
    num_normal: int
    num_anomalous: int


@dataclass
class Threshold:
    """A threshold of one category, or of all images of a dataset."""

    dataset: str
    category: str | None
    rule: str
    threshold: float
    found: int | None = None
    missed: int | None = None
    false_alarms: int | None = None
    passed: int | None = None
    f1: float | None = None


@dataclass
class Results:
    """The results of a run: ``results.json``."""

    results: list[Value]
    categories_in_mean: dict[str, dict[str, int]]
    vanished_defects: dict[str, dict[str, int]]
    manifest: Manifest
    thresholds: list[Threshold] | None = None


@dataclass(kw_only=True)
class EpochValue(Value):
    """One metric of one category with the weights of one epoch."""

    epoch: int


@dataclass
class ScoredEpochs:
    """What the weights of every epoch gave: ``epochs.json``."""

    results: list[EpochValue]


@dataclass
class ScoredWith:
    """The manifest in the results of a run: whether its numbers still hold."""

    scored_with: dict[str, Any] | None = None
    targets: dict[str, Any] | None = None


@dataclass
class Scored:
    """The results of a run: what a run that resumes it keeps."""

    manifest: ScoredWith
    results: list[Value]
    vanished_defects: dict[str, dict[str, int]] | None = None
    thresholds: list[Threshold] | None = None


@dataclass
class SweepCell:
    """One training of a sweep."""

    setting: str
    seed: int
    folder: str
    state: str
    error: str | None = None


@dataclass
class Experiment:
    """The record of a sweep: ``EXPERIMENT.json``."""

    experiment: str
    reference: str | None
    cells: list[SweepCell]
    overrides: list[str] | None = None


@dataclass
class SweepHead:
    """The record of a sweep: ``EXPERIMENT.json`` or ``search.json``."""

    experiment: str
    decisive: list[str]
    axes: dict[str, Any]
    reference: str | None = None
    cells: list[SweepCell] | None = None


@dataclass
class CellPlan:
    """The plan of a cell: ``cell.json``."""

    digest: str
    overrides: list[str]
    results: list[str]
    command: str | None = None


@dataclass
class CellEnd:
    """The mark of a cell that is done."""

    seconds: float | None = None


@dataclass
class CellFailure:
    """The mark of a cell that failed."""

    error: str


@dataclass
class Trial:
    """One point of a search: what was tried by config key, and the objective, ``None`` if there is none."""

    number: int
    params: dict[str, Any]
    state: str
    value: float | None = None
    folder: str | None = None


@dataclass
class Search:
    """The record of a search: ``search.json``."""

    trials: list[Trial]
    objective: dict[str, Any] | None = None
    space: dict[str, Any] | None = None


@dataclass
class Picture:
    """One image of a sheet of heat maps."""

    caption: str
    image: str
    anomaly_map: str
    truth: str | None = None


@dataclass
class HeatMaps:
    """The index of heat maps: ``heat_maps/DATASET/index.json``."""

    lowest: float
    highest: float
    sheets: dict[str, list[Picture]]


@dataclass
class TextMetric:
    """One metric of one category under one text."""

    text: str
    category: str
    metric: str
    value: float | None


@dataclass
class TextDifference:
    """What another text changes in a metric."""

    text: str
    metric: str
    num_categories: int
    points: float | None
    low: float | None
    high: float | None


@dataclass
class Terms:
    """The two terms of rectification of one stage."""

    stage: int
    tokens: str
    text_norm: float
    image_norm: float
    share: float
    turn: float


@dataclass
class Prototypes:
    """The cosine of the two prototypes of a category."""

    category: str
    cosine: float
    cosine_before_adapter: float = 0.0


@dataclass
class NameReading:
    """How far the names decide, where categories share pictures. Metrics are means over the categories with a partner.

    Attributes:
        image_only_bound: What the mean image AUROC of a method that ignores the name can reach at most.
        right: The metrics with the own name of each category.
        gap: By how much ``right`` exceeds ``partner``.
        partners: The category with which each one shares its pictures; absent in records of earlier versions.
    """

    image_only_bound: float
    num_categories: int
    right: dict[str, float | None]
    partner: dict[str, float | None] | None = None
    object: dict[str, float | None] | None = None
    gap: dict[str, float | None] | None = None
    partners: dict[str, str] | None = None


@dataclass
class DiagnosedDataset:
    """What was found on one dataset."""

    dataset: str
    metrics: list[TextMetric]
    differences: list[TextDifference]
    terms: list[Terms]
    prototypes: list[Prototypes]
    left_out: dict[str, str]
    names: NameReading | None = None


@dataclass
class Diagnosis:
    """The diagnosis of a run: ``diagnosis.json``."""

    untrained: bool
    wrong_category: str
    datasets: list[DiagnosedDataset]


def read_json(path: Path) -> Any:  # noqa: ANN401 - plain values of any kind
    """Read a JSON file of plain values.

    Raises:
        RecordError: If the file is too large, is not JSON, or holds an infinite number or too deep a nesting.
        OSError: If it cannot be read.
    """
    size = path.stat().st_size
    if not path.is_file() or size > LARGEST:
        fault = f"it has {size:,} bytes, and {LARGEST:,} is the most" if path.is_file() else "it is not a regular file"
        raise RecordError(path, "a JSON file", fault)
    try:
        # NaN is what other writers call an undefined value.
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_undefined)
        _require_bounds(content, DEEPEST)
        return content
    except RecursionError:
        fault = _TOO_DEEP
    except ValueError as error:  # also of bytes that are not UTF-8
        fault = str(error)
    raise RecordError(path, "a JSON file", fault)


def read_record(path: Path, kind: type, *, for_display: bool = False) -> dict[str, Any]:
    """Read a JSON file that holds one of the classes of this module.

    Args:
        for_display: Whether to return every text in one line of printable characters.

    Raises:
        RecordError: If it does not; the sentence names the file and the keys.
        OSError: If it cannot be read.
    """
    content = read_json(path)
    require(path, kind, faults_of(content, kind))
    return dict(_displayed(content) if for_display else content)


def require(path: Path, kind: type, faults: Iterator[str]) -> None:
    """Raise a ``RecordError`` that names the first faults of a file, if it has any."""
    found = list(faults)
    if found:
        more = [f"{len(found) - NUM_NAMED} more"] if len(found) > NUM_NAMED else []
        raise RecordError(path, kind.__doc__ or "", "; ".join([*found[:NUM_NAMED], *more]))


_TOO_DEEP = f"it nests more than {DEEPEST} lists and objects"


def _undefined(constant: str) -> None:
    if constant != "NaN":
        msg = f"it holds {constant}"
        raise ValueError(msg)


def _require_bounds(value: object, depth: int) -> None:
    if depth < 0:
        raise ValueError(_TOO_DEEP)
    if (isinstance(value, int) and abs(value) >= 2**63) or (isinstance(value, float) and abs(value) > LARGEST_NUMBER):
        msg = "it holds a number that is too large"
        raise ValueError(msg)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _require_bounds(item, depth - 1)


def _displayed(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, str):
        return in_one_line(value)
    if isinstance(value, dict):
        return {in_one_line(key): _displayed(item) for key, item in value.items()}
    return [_displayed(item) for item in value] if isinstance(value, list) else value
