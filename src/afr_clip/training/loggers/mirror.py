"""The wrapper around Lightning's loggers: a logger may fail, a run may not. The run folder is the source of truth."""

import importlib.util
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from afr_clip.files import written_whole
from afr_clip.metrics.log_keys import EPOCH, figure_key
from afr_clip.training.loggers.metrics_csv import LoggedValues

logger = logging.getLogger(__name__)


class MissingPackageError(ValueError):
    """The config asks for a package that is not installed."""


def require_package(module: str, wanted_by: str) -> None:
    """Raise ``MissingPackageError`` if an optional package is not installed; does not import it."""
    if importlib.util.find_spec(module) is None:
        msg = f"{wanted_by} needs the package {module}, which is not installed. Run pip install -e '.[dashboards]'."
        raise MissingPackageError(msg)


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run when it starts.

    Attributes:
        config: The resolved config and other facts of the run; plain values.
        name: What people call the run; empty for the name of its folder.
    """

    folder: Path
    job_type: str
    config: Mapping[str, Any]
    tags: Sequence[str] = ()
    name: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG file, with the ground truth and the anomaly map of its image where a logger can overlay them.

    Attributes:
        truth: 0 and 255; ``None`` if it is unknown.
        anomaly_map: From 0 to 255 between ``lowest`` and ``highest``; ``None`` for a picture without overlays.
        lowest: Anomaly score that 0 stands for.
        highest: Anomaly score that 255 stands for.
    """

    path: Path
    caption: str | None = None
    truth: Path | None = None
    anomaly_map: Path | None = None
    lowest: float = 0.0
    highest: float = 1.0


@dataclass(frozen=True)
class Published:
    """What a finished run left in its folder, apart from the curves.

    Attributes:
        rows: The results under ``table_columns()``; fractions, ``None`` if undefined.
        heat_maps: Images worth looking at, by log key.
        checkpoint: ``last.ckpt``; ``None`` if nothing was trained.
        files: ``results.json`` and ``results.csv``.
    """

    rows: Sequence[Sequence[str | float | int | None]] = ()
    means: Mapping[str, float] = field(default_factory=dict)
    heat_maps: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    checkpoint: Path | None = None
    files: Sequence[Path] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)


class Backend(Logger):
    """What is added to one of Lightning's loggers: pictures and the results of a finished run. Built means open."""

    TITLE = ""
    ADVICE = ""
    """Ends the warning about a failure; may hold ``{folder}``."""

    @abstractmethod
    def log_pictures(self, key: str, pictures: Sequence[Picture]) -> None:
        """Log pictures under one key."""

    @abstractmethod
    def publish(self, published: Published) -> None:
        """Log what a finished run left in its folder."""

    @abstractmethod
    def close(self, *, succeeded: bool) -> None:
        """End the run there."""

    @staticmethod
    def abandon() -> None:
        """Drop what would fail again when the process exits."""


class Mirror(Logger):
    """Log to a backend until it fails; the first failure is logged once, and the run continues without the backend.

    The backend is opened by the first value or picture, and only in the first of several processes.

    Args:
        earlier: What was logged before a run was resumed, where the backend wants it again.
    """

    def __init__(
        self, backend: type[Backend], facts: RunFacts, earlier: Sequence[LoggedValues] = (), **options: Any
    ) -> None:
        super().__init__()
        make: Callable[..., Backend] = backend
        self._open = partial(make, facts, **options)
        self._kind, self._facts, self._earlier = backend, facts, earlier
        self._backend: Backend | None = None
        self.is_lost = False

    @property
    def name(self) -> str:
        """The backend's title."""
        return self._kind.TITLE

    @property
    def version(self) -> str:
        """The logger's version."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values, with epochs counted from 1."""
        self._attempt(lambda backend: backend.log_metrics(_with_finished_epochs(metrics), step or 0))

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: a backend gets the config when it opens."""

    @rank_zero_only
    def log_pictures(self, key: str, pictures: Sequence[Picture]) -> None:
        """Log pictures under one key."""
        self._attempt(lambda backend: backend.log_pictures(key, pictures))

    @rank_zero_only
    def publish(self, published: Published) -> None:
        """Log the results, files and checkpoint of a finished run."""
        self._attempt(lambda backend: backend.publish(published))

    @rank_zero_only
    def close(self, *, succeeded: bool) -> None:
        """Close the backend if it was opened."""
        if self._backend is not None:
            self._attempt(lambda backend: backend.close(succeeded=succeeded))
            self._backend = None

    def _attempt(self, action: Callable[[Backend], None]) -> None:
        if self.is_lost:
            return
        try:
            if self._backend is None:
                self._backend = self._open()
                for values, step in self._earlier:
                    self._backend.log_metrics(_with_finished_epochs(values), step)
            action(self._backend)
        except Exception as error:
            self.is_lost = True
            folder = self._facts.folder
            logger.warning(
                "Logging to %s failed (%s: %s). The run continues without it; its folder %s holds the full record.%s",
                *(self.name, type(error).__name__, error, folder, self._kind.ADVICE.format(folder=folder)),
            )
            with suppress(Exception):
                self._kind.abandon()


def _with_finished_epochs(values: Mapping[str, float]) -> dict[str, float]:
    """Count epochs as people do: a training value of Lightning's epoch 0 belongs to epoch 1."""
    is_training = any(key.startswith("train/") for key in values)
    return {key: value + 1 if key == EPOCH and is_training else value for key, value in values.items()}


def read_id(path: Path) -> str | None:
    """Read the id that a run folder has at a backend, or ``None`` if it has none yet."""
    return path.read_text(encoding="utf-8").strip() or None if path.is_file() else None


def write_id(path: Path, run_id: str) -> str:
    """Write the id under which a resumed run continues at a backend; return it."""
    with written_whole(path) as unfinished:
        unfinished.write_text(f"{run_id}\n", encoding="utf-8")
    return run_id


@contextmanager
def closing_mirrors(loggers: Sequence[Logger]) -> Iterator[None]:
    """Close the mirrors among the loggers when a run ends, whether it succeeds or fails."""
    succeeded = False
    try:
        yield
        succeeded = True
    finally:
        for mirror in _mirrors(loggers):
            mirror.close(succeeded=succeeded)


def log_figures(loggers: Sequence[Logger], group: str, paths: Sequence[Path]) -> None:
    """Log PNG files to the mirrors; group and stem make the key."""
    for mirror in _mirrors(loggers):
        for path in paths:
            mirror.log_pictures(figure_key(group, path.stem), [Picture(path)])


def publish(loggers: Sequence[Logger], read: Callable[[], Published]) -> None:
    """Publish a finished run to the mirrors; it is read only if there is one."""
    mirrors = _mirrors(loggers)
    if mirrors:
        published = read()
        for mirror in mirrors:
            mirror.publish(published)


def has_mirror(loggers: Sequence[Logger]) -> bool:
    """Whether there is a mirror among the loggers."""
    return bool(_mirrors(loggers))


def _mirrors(loggers: Sequence[Logger]) -> list[Mirror]:
    return [logger for logger in loggers if isinstance(logger, Mirror)]
