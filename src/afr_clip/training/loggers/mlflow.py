"""MLflow: one run for one run folder, in a local database unless a server is named."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger

from afr_clip.training.loggers.mirror import Backend, Picture, Published, RunFacts, read_id, write_id

RUN_ID = "mlflow_run_id"
"""File of a run folder that holds the id of its MLflow run."""

FOLDER = "mlflow"

ODD = frozenset("?%#")
OPEN_FOLDERS = Path("/proc/self/fd")
"""Where Linux lists what a process has open."""


class MLflow(Backend, MLFlowLogger):
    """Log values, parameters, figures, results and checkpoint. A resumed run continues its MLflow run.

    Args:
        tracking_uri: The server or database; ``None`` for ``RUN/mlflow/mlflow.db``.
    """

    TITLE = "MLflow"

    def __init__(self, facts: RunFacts, *, experiment: str, tracking_uri: str | None) -> None:
        folder = (facts.folder / FOLDER).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        before = read_id(facts.folder / RUN_ID)
        with _quiet():
            super().__init__(
                experiment,
                run_name=facts.name or facts.folder.name,
                tracking_uri=tracking_uri or f"sqlite:///{_plain(folder) / 'mlflow.db'}",
                tags=dict.fromkeys(facts.tags, "true") | {"job_type": facts.job_type},
                artifact_location=None if tracking_uri else (folder / "artifacts").as_uri(),
                run_id=before,
            )
            self._run = before or write_id(facts.folder / RUN_ID, str(self.run_id))
            if before is None:
                self.log_hyperparams(_dotted(facts.config))
            self.experiment.update_run(self._run, status="RUNNING")

    def log_pictures(self, key: str, pictures: Sequence[Picture]) -> None:
        """Upload the picture files."""
        for picture in pictures:
            self.experiment.log_artifact(self._run, str(picture.path), key.rpartition("/")[0])

    def publish(self, published: Published) -> None:
        """Log macro averages; upload results and checkpoint."""
        self.log_metrics(published.means, 0)
        for path in published.files:
            self.experiment.log_artifact(self._run, str(path), "results")
        if published.checkpoint is not None:
            self.experiment.log_artifact(self._run, str(published.checkpoint), "model")

    def close(self, *, succeeded: bool) -> None:
        """Mark the run as finished or failed."""
        self.finalize("success" if succeeded else "failed")


def _plain(folder: Path) -> Path:
    """Return a path of a folder without characters that mean something in an address; MLflow does not quote them."""
    if not ODD.intersection(str(folder)) or not OPEN_FOLDERS.is_dir():
        return folder
    return OPEN_FOLDERS / str(os.open(folder, os.O_RDONLY))  # open as long as MLflow may use it: to the end


def _dotted(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to dotted keys, as on the command line."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _dotted(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return flat


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what MLflow reports while it creates a database, and Lightning while it creates an experiment."""
    import mlflow.utils.logging_utils  # noqa: F401, PLC0415 - it sets levels, which are set again here

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
