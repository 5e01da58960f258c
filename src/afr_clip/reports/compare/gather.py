"""From `results.json` files to measurements: one per run and dataset, each with the setting it belongs to."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afr_clip.reports.compare.paper import PaperDataset, find_dataset
from afr_clip.reports.compare.settings import Setting, setting_of
from afr_clip.reports.record.provenance import training_of
from afr_clip.reports.record.results import TableRow, read_tables

logger = logging.getLogger(__name__)

RESULTS = "results.json"


class ComparisonError(ValueError):
    """Runs that cannot be laid side by side as asked."""


@dataclass(frozen=True)
class Source:
    """A dataset as a run met it.

    Attributes:
        title: Its name for readers.
        categories: Those that were read.
        num_normal: Normal images.
        num_anomalous: Anomalous images.
        sha256: Of its images.
    """

    title: str
    categories: tuple[str, ...]
    num_normal: int
    num_anomalous: int
    sha256: str

    @property
    def published(self) -> PaperDataset | None:
        """The dataset of the paper that goes by this name."""
        return find_dataset(self.title)

    @property
    def missing(self) -> str:
        """How it differs in size from the published test split; empty where it does not, or none is known."""
        published = self.published
        if published is None:
            return ""
        have = (len(self.categories), self.num_normal, self.num_anomalous)
        want = (published.num_categories, published.num_normal, published.num_anomalous)
        names = ("categories", "normal", "anomalous images")
        said = [f"{a} of {b} {name}" for a, b, name in zip(have, want, names, strict=True) if a != b]
        return ", ".join(said)


@dataclass(frozen=True)
class Measurement:
    """What one run gave on one dataset.

    Attributes:
        run: The run folder.
        name: The dataset's name in the run.
        setting: How it was measured.
        target: What was scored.
        auxiliary: What was trained on; ``None`` for a method that trains nothing.
        seed: Of the training; ``None`` as well.
        rows: The categories, then the mean.
    """

    run: Path
    name: str
    setting: Setting
    target: Source
    auxiliary: Source | None
    seed: int | None
    rows: tuple[TableRow, ...]

    @property
    def figures(self) -> Path:
        """Where its pictures are, if it has any."""
        return self.run / "figures" / self.name


@dataclass(frozen=True)
class RunResults:
    """One `results.json`.

    Attributes:
        folder: The run folder.
        manifest: Of the run.
        setting: How it measured; ``None`` where it stopped before it had a backbone, for lack of a dataset.
        measurements: One per dataset that was scored.
        absent: Why a target of the run has no numbers, by its title.
    """

    folder: Path
    manifest: Mapping[str, Any]
    setting: Setting | None
    measurements: tuple[Measurement, ...]
    absent: Mapping[str, str]


def read_runs(folders: Sequence[Path], besides: Sequence[Path] = ()) -> list[RunResults]:
    """Read all runs in and below folders.

    Args:
        folders: Run folders, or folders that hold some.
        besides: What lies in and below these is left out.

    Returns:
        One entry per `results.json`, each file once.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ComparisonError: If a folder holds no results, or a file is not a run's.
    """
    return [_read_run(path) for path in _find(folders, besides)]


def _find(folders: Iterable[Path], besides: Sequence[Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    bare: list[Path] = []
    elsewhere = [folder.resolve() for folder in besides]
    for folder in folders:
        if not folder.is_dir():
            msg = f"A run must be a folder, got {folder}, which is none. Pass run folders, or a folder that holds some."
            raise FileNotFoundError(msg)
        paths = {path: path.resolve() for path in sorted(folder.rglob(RESULTS))}
        bare += [] if paths else [folder]
        for path, real in paths.items():
            if not any(real.is_relative_to(other) for other in elsewhere):
                found.setdefault(real, path)
    if bare and not found:
        msg = (
            f"{bare[0]} must hold {RESULTS} of a run, and neither it nor a folder below does. "
            f"Pass folders of runs or of a sweep."
        )
        raise ComparisonError(msg)
    for folder in bare:  # a run that ended before it had any
        logger.warning("%s holds no %s and is left out.", folder, RESULTS)
    return list(found.values())


def _read_run(path: Path) -> RunResults:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        manifest = content["manifest"]
        tables = read_tables(content["results"])
        setting = setting_of(manifest) if "backbone" in manifest or tables else None
        measurements = () if setting is None else tuple(_measurements(path.parent, setting, manifest, tables))
        absent = {facts["title"]: facts["reason"] for facts in manifest.get("absent", {}).values()}
        late = [facts for name, facts in manifest["targets"].items() if name not in tables]
        absent |= {_title(facts): "not scored yet" for facts in late}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        msg = (
            f"{path} must be the results of a run, and could not be read as that ({type(error).__name__}: {error}). "
            f"Pass run folders only."
        )
        raise ComparisonError(msg) from error
    return RunResults(path.parent, manifest, setting, measurements, absent)


def _measurements(
    folder: Path, setting: Setting, manifest: Mapping[str, Any], tables: Mapping[str, list[TableRow]]
) -> Iterator[Measurement]:
    training = training_of(manifest)
    auxiliary = None if training is None else _source(training["auxiliary"])
    # Without training a seed decides nothing but which normal images are shown.
    untrained = manifest["seed"] if setting.shots else None
    seed = untrained if training is None else training["seed"]
    for name, rows in tables.items():
        target = _source(manifest["targets"][name])
        yield Measurement(folder, name, setting, target, auxiliary, seed, tuple(rows))


def _title(facts: Mapping[str, Any]) -> str:
    title = facts.get("title") or facts["name"]
    published = find_dataset(title)
    return title if published is None else published.title


def _source(facts: Mapping[str, Any]) -> Source:
    return Source(
        _title(facts), tuple(facts["categories"]), facts["num_normal"], facts["num_anomalous"], facts["sha256"]
    )
