"""MLflow: one run there for one run folder, in a local database unless a server is named."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afr_clip.training.loggers.mirror import Mirror, RunFacts, keep_id, kept_id, require_package
from afr_clip.training.loggers.published import Published

RUN_ID = "mlflow_run_id"
"""File of a run folder that holds the id of its one run at MLflow."""

FOLDER = "mlflow"
LONGEST_VALUE = 500
"""Characters of a parameter; older servers take no more."""


class MLflowMirror(Mirror):
    """Mirror a run at MLflow: values, parameters, pictures, results and checkpoint. A resumed run goes on in it.

    Args:
        facts: Of the run.
        experiment: Name of the experiment.
        tracking_uri: The server or database; ``None`` for ``RUN/mlflow/mlflow.db``.
    """

    TITLE = "MLflow"

    def __init__(self, facts: RunFacts, *, experiment: str, tracking_uri: str | None) -> None:
        require_package("mlflow", "logger=mlflow")
        if tracking_uri is None or tracking_uri.startswith("sqlite:"):
            require_package("sqlalchemy", "logger=mlflow with a local database")
        super().__init__(facts)
        self._experiment = experiment
        self._uri = tracking_uri
        self._client: Any = None
        self._run_id = ""

    @property
    def name(self) -> str:
        """The logger's name."""
        return "mlflow"

    def _open(self) -> None:
        with _quiet():
            from mlflow.tracking import MlflowClient  # noqa: PLC0415 - takes seconds

            folder = (self._facts.folder / FOLDER).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            is_local = self._uri is None
            self._client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}" if is_local else self._uri)
            kept = kept_id(self._facts.folder / RUN_ID)
            if kept is None:
                found = self._client.get_experiment_by_name(self._experiment)
                where = (folder / "artifacts").as_uri() if is_local else None
                experiment = found.experiment_id if found else self._client.create_experiment(self._experiment, where)
                tags = dict.fromkeys(self._facts.tags, "true") | {"job_type": self._facts.job_type}
                run = self._client.create_run(experiment, run_name=self._facts.folder.name, tags=tags)
                kept = keep_id(self._facts.folder / RUN_ID, run.info.run_id)
                for key, value in leaves(self._facts.config):
                    self._client.log_param(kept, key, value)
            self._client.update_run(kept, status="RUNNING")
            self._run_id = kept

    def _send_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for key, value in metrics.items():
            self._client.log_metric(self._run_id, key, float(value), step=step)

    def _send_picture(self, key: str, path: Path, step: int) -> None:
        self._client.log_artifact(self._run_id, str(path), key.rpartition("/")[0])

    def _publish(self, published: Published, means: Mapping[str, float]) -> None:
        self._send_metrics(means, 0)
        for path in published.files:
            self._client.log_artifact(self._run_id, str(path), "results")
        if published.checkpoint is not None:
            self._client.log_artifact(self._run_id, str(published.checkpoint), "model")

    def _close(self, succeeded: bool) -> None:
        self._client.set_terminated(self._run_id, "FINISHED" if succeeded else "FAILED")


def leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested values to dotted keys, as MLflow's parameters are.

    Args:
        values: Nested dictionaries.
        above: What they lie below.

    Yields:
        Keys and values as text, cut to what MLflow takes.
    """
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from leaves(value, f"{name}.")
        else:
            yield name, str(value)[:LONGEST_VALUE]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep migrations of a new database and warnings among MLflow's own packages off the screen."""
    import mlflow.utils.logging_utils  # noqa: F401, PLC0415 - sets the levels that are set again here

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
