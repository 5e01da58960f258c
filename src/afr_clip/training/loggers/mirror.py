"""A mirror of a run somewhere people look; the run folder stays the record, and no mirror can end a run."""

import importlib.util
import logging
import secrets
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger

from afr_clip.files import written_whole
from afr_clip.metrics.log_keys import figure_key, mean_key
from afr_clip.training.loggers.published import Published

logger = logging.getLogger(__name__)

EXTRA = "dashboards"
"""The extra that installs what mirrors need."""


class MissingPackageError(ValueError):
    """A package that was asked for by a config and is not installed."""


def require_package(module: str, wanted_by: str) -> None:
    """Make sure that an optional package is there, without importing it.

    Args:
        module: What would be imported.
        wanted_by: What asked for it, for example ``logger=mlflow``.

    Raises:
        MissingPackageError: If it is not there.
    """
    if importlib.util.find_spec(module) is None:
        msg = f"{wanted_by} needs the package {module}, which is not installed. Run pip install -e '.[{EXTRA}]'."
        raise MissingPackageError(msg)


@dataclass(frozen=True)
class RunFacts:
    """What a mirror knows of a run from its beginning.

    Attributes:
        folder: The run folder.
        job_type: The command.
        config: The resolved config, and what else describes the run; plain values.
        tags: Labels.
    """

    folder: Path
    job_type: str
    config: Mapping[str, Any]
    tags: Sequence[str] = ()


class Mirror(Logger):
    """A logger that shows a run somewhere besides its folder.

    It opens with the first thing it is given, in the first of several processes alone. Whatever fails in it is said
    once; it then takes nothing more, and the run goes on.

    Args:
        facts: Of the run.
    """

    TITLE = ""
    """What it is called in sentences."""

    def __init__(self, facts: RunFacts) -> None:
        super().__init__()
        self._facts = facts
        self._is_open = False
        self._is_lost = False

    @property
    def version(self) -> str:
        """The logger's version."""
        return ""

    @property
    def is_lost(self) -> bool:
        """Whether something failed, so that nothing more is sent."""
        return self._is_lost

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send values."""
        self._attempt(self._send_metrics, metrics, step or 0)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the config is sent when the mirror opens."""

    @rank_zero_only
    def log_picture(self, key: str, path: Path, step: int = 0) -> None:
        """Send a picture.

        Args:
            key: Its name.
            path: A PNG file.
            step: Training step it belongs to.
        """
        self._attempt(self._send_picture, key, path, step)

    @rank_zero_only
    def publish(self, published: Published) -> None:
        """Send what a finished run left in its folder.

        Args:
            published: As it was read.
        """
        means = {
            mean_key(row.dataset, metric): value
            for row in published.rows
            if row.is_mean
            for metric, value in row.values.items()
            if value is not None
        }
        self._attempt(self._publish, published, means)

    @rank_zero_only
    def close(self, *, succeeded: bool) -> None:
        """End what would otherwise stay open, and swallow what the next run in this process logs.

        Args:
            succeeded: Whether the run came to its end.
        """
        if self._is_open:
            self._attempt(self._close, succeeded)
            self._is_open = False

    def _attempt(self, action: Callable[..., None], *arguments: Any) -> None:
        if self._is_lost:
            return
        try:
            if not self._is_open:
                self._open()
                self._is_open = True
            action(*arguments)
        except Exception as error:
            self._is_lost = True
            logger.warning(
                "%s failed (%s: %s) and gets no more of this run, which goes on: its folder %s stays the record.%s",
                *(self.TITLE, type(error).__name__, error, self._facts.folder, self._what_to_do()),
            )
            with suppress(Exception):  # of what has failed already
                self._abandon()

    def _what_to_do(self) -> str:
        return ""

    def _abandon(self) -> None:
        """Let go of what would fail again when the process ends."""

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _send_metrics(self, metrics: Mapping[str, float], step: int) -> None: ...

    @abstractmethod
    def _send_picture(self, key: str, path: Path, step: int) -> None: ...

    @abstractmethod
    def _publish(self, published: Published, means: Mapping[str, float]) -> None: ...

    @abstractmethod
    def _close(self, succeeded: bool) -> None: ...


def kept_id(path: Path) -> str | None:
    """Read the id under which a run goes on, or ``None`` where it has none yet.

    Args:
        path: A file of the run folder.
    """
    return path.read_text(encoding="utf-8").strip() or None if path.is_file() else None


def keep_id(path: Path, run_id: str) -> str:
    """Write the id under which a run goes on, whole.

    Args:
        path: A file of the run folder.
        run_id: The id.

    Returns:
        The id.
    """
    with written_whole(path) as unfinished:
        unfinished.write_text(f"{run_id}\n", encoding="utf-8")
    return run_id


def new_id() -> str:
    """Make an id that no other run has."""
    return secrets.token_hex(4)


@contextmanager
def closing_mirrors(loggers: Sequence[Logger]) -> Iterator[None]:
    """Close the mirrors of a run when it ends, however it ends.

    Args:
        loggers: All loggers of the run.
    """
    succeeded = False
    try:
        yield
        succeeded = True
    finally:
        for mirror in _mirrors(loggers):
            mirror.close(succeeded=succeeded)


def log_figures(loggers: Sequence[Logger], group: str, paths: Sequence[Path], step: int = 0) -> None:
    """Send pictures to the mirrors.

    Args:
        loggers: All loggers of a run.
        group: Leading part of the key.
        paths: PNG files; their stems complete the key.
        step: Training step the pictures belong to.
    """
    for mirror in _mirrors(loggers):
        for path in paths:
            mirror.log_picture(figure_key(group, path.stem), path, step)


def publish(loggers: Sequence[Logger], read: Callable[[], Published]) -> None:
    """Send what a finished run left in its folder to the mirrors.

    Args:
        loggers: All loggers of the run.
        read: Reads it; called only where there is a mirror.
    """
    mirrors = _mirrors(loggers)
    if mirrors:
        published = read()
        for mirror in mirrors:
            mirror.publish(published)


def has_mirror(loggers: Sequence[Logger]) -> bool:
    """Whether a run is shown anywhere besides its folder."""
    return bool(_mirrors(loggers))


def _mirrors(loggers: Sequence[Logger]) -> list[Mirror]:
    return [logger for logger in loggers if isinstance(logger, Mirror)]
