"""What a run leaves in its folder that a dashboard shows besides the curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ResultRow:
    """One category of a target dataset, or the mean over all.

    Attributes:
        dataset: Its name.
        category: The category; ``"mean"`` for the macro average.
        values: Fractions by metric; ``None`` where undefined.
        num_normal: Normal images scored.
        num_anomalous: Anomalous images scored.
        is_mean: Whether it is the macro average.
    """

    dataset: str
    category: str
    values: Mapping[str, float | None]
    num_normal: int
    num_anomalous: int
    is_mean: bool


@dataclass(frozen=True)
class HeatMap:
    """One image with its truth and its anomaly map, as picture files.

    Attributes:
        caption: What is on it, and its image score.
        image: RGB.
        truth: 0 and 255; ``None`` where it is unknown.
        anomaly_map: From 0 to 255 between ``lowest`` and ``highest``.
        lowest: Anomaly probability that 0 stands for.
        highest: Anomaly probability that 255 stands for.
    """

    caption: str
    image: Path
    truth: Path | None
    anomaly_map: Path
    lowest: float
    highest: float


@dataclass(frozen=True)
class Published:
    """All of a finished run, read from its folder.

    Attributes:
        rows: The results.
        heat_maps: Images worth looking at, by log key.
        checkpoint: ``last.ckpt``; ``None`` where nothing was trained.
        files: ``results.json`` and ``results.csv``.
        manifest: Of the run as it ended.
    """

    rows: Sequence[ResultRow] = ()
    heat_maps: Mapping[str, Sequence[HeatMap]] = field(default_factory=dict)
    checkpoint: Path | None = None
    files: Sequence[Path] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
