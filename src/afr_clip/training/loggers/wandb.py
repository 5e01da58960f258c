"""Weights & Biases: one run there for one run folder, offline by itself."""

import math
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse
from urllib.request import getproxies

import numpy as np
from PIL import Image

from afr_clip.metrics.log_keys import (
    EPOCH,
    LOSS_STEP,
    MEANS,
    RESULTS_TABLE,
    STEP,
    TARGETS,
    TRAINING,
    table_columns,
)
from afr_clip.metrics.protocol import METRICS
from afr_clip.training.loggers.metrics_csv import LoggedValues
from afr_clip.training.loggers.mirror import Mirror, RunFacts, keep_id, kept_id, new_id, require_package
from afr_clip.training.loggers.published import HeatMap, Published

WANDB_URL = "https://api.wandb.ai"
NETWORK_PATIENCE = 3.0
"""Seconds to wait for an answer before Weights & Biases goes offline."""

FINISH_PATIENCE = 600.0
"""Seconds that a finished run waits for its last uploads; what is not up by then is in the run folder."""

RUN_ID = "wandb_run_id"
"""File of a run folder that holds the id of its one run at Weights & Biases."""

DATA_DIR = "WANDB_DATA_DIR"
"""Where Weights & Biases keeps files it has yet to upload; in the run folder, so that they are not lost with a home."""

BANDS = 8
"""Steps of probability that an anomaly map is shown in, each a class that can be switched on and off."""

TRUTH, ANOMALY_MAP = "truth", "anomaly_map"
TRUTH_LABELS = {0: "normal", 1: "anomalous"}


class WandbMirror(Mirror):
    """Mirror a run at Weights & Biases.

    A run folder has one id, written before anything is sent, and a resumed run goes on under it. Values go against
    ``epoch`` or ``trainer/global_step``, never against W&B's own count of calls: what is sent twice has two points at
    the same place, and the later one counts in the summary. A resumed run sends what was logged before again, because
    W&B writes its file in blocks of 32 kB and a killed process loses the last one, which for a short run is all. A
    picture of the training that was lost so is sent again by a rebuild only.

    Args:
        facts: Of the run.
        project: Project name.
        entity: User or team; ``None`` for the default.
        group: Groups the runs of a sweep.
        earlier: Values and steps that were logged before, where a run is resumed.
    """

    TITLE = "Weights & Biases"

    def __init__(
        self,
        facts: RunFacts,
        *,
        project: str,
        entity: str | None = None,
        group: str | None = None,
        earlier: Sequence[LoggedValues] = (),
    ) -> None:
        require_package("wandb", "logger=wandb")
        super().__init__(facts)
        self._earlier = earlier
        self._init: dict[str, Any] = {"project": project, "entity": entity, "group": group}
        self._run: Any = None

    @property
    def name(self) -> str:
        """The logger's name."""
        return "wandb"

    @property
    def run_id(self) -> str | None:
        """The id of the run folder's run; ``None`` before anything was sent."""
        return kept_id(self._facts.folder / RUN_ID)

    def _what_to_do(self) -> str:
        return f" Later `python -m afr_clip.dashboard rebuild {self._facts.folder}` makes the run there anew."

    def _open(self) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # the last line on stdout is ours
        import wandb  # noqa: PLC0415 - takes half a second that other loggers need not wait for

        commit = (self._facts.config.get("manifest") or {}).get("commit") or {}
        settings = wandb.Settings(
            console="off",  # the run folder holds the log
            git_commit=commit.get("hash"),  # not that of wherever the command was typed
            finish_timeout=FINISH_PATIENCE,
        )
        self._run = wandb.init(
            dir=str(self._facts.folder),
            id=self.run_id or keep_id(self._facts.folder / RUN_ID, new_id()),
            resume="allow",
            name=self._facts.folder.name,
            mode=wandb_mode(),
            job_type=self._facts.job_type,
            tags=list(self._facts.tags),
            config=dict(self._facts.config),
            allow_val_change=True,
            reinit="create_new",
            settings=settings,
            **self._init,
        )
        self._run.define_metric(EPOCH, hidden=True)
        self._run.define_metric(STEP, hidden=True)
        # Without a summary of their own the last value counts, under the plain key that dashboards read.
        self._run.define_metric(LOSS_STEP, step_metric=STEP)
        for group in (TRAINING, TARGETS, MEANS):
            self._run.define_metric(group, step_metric=EPOCH)
        for values, step in self._earlier:
            self._send_metrics(values, step)

    def _send_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log({**metrics, STEP: step})

    def _send_picture(self, key: str, path: Path, step: int) -> None:
        import wandb  # noqa: PLC0415

        self._run.log({key: wandb.Image(str(path))})

    def _publish(self, published: Published, means: Mapping[str, float]) -> None:
        with data_dir_in(self._facts.folder):
            shown = {key: [_image(heat_map) for heat_map in maps] for key, maps in published.heat_maps.items()}
            facts = {key: value for key, value in published.manifest.items() if key != "config"}
            self._run.config.update({"manifest": facts}, allow_val_change=True)
            self._run.log({RESULTS_TABLE: _table(published), **means, **shown})
            if published.checkpoint is not None:
                self._send_files("model", [published.checkpoint], published.manifest)
            if published.files:
                self._send_files("results", published.files, {})

    def _send_files(self, kind: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        import wandb  # noqa: PLC0415

        artifact = wandb.Artifact(f"{kind}-{self._run.id}", type=kind, metadata=dict(metadata))
        for path in paths:
            # A checkpoint is large and does not change any more, so no second copy of it is made.
            artifact.add_file(str(path), policy="immutable" if kind == "model" else "mutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def _abandon(self) -> None:
        import wandb  # noqa: PLC0415

        wandb.teardown(exit_code=1)  # a service that died would otherwise be waited for, and end in a traceback

    def _close(self, succeeded: bool) -> None:
        self._run.finish(exit_code=0 if succeeded else 1)


def wandb_mode() -> Literal["online", "offline"] | None:
    """Say how Weights & Biases runs: online where there is an API key and a network.

    Returns:
        ``None`` where ``WANDB_MODE`` says it.
    """
    if os.environ.get("WANDB_MODE"):
        return None
    return "online" if has_api_key() and reaches_server() else "offline"


def has_api_key() -> bool:
    """Whether there is an API key for the server in use, in the environment or where ``wandb login`` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc().authenticators(_server()[0]) is not None
    except (OSError, NetrcParseError):
        return False


def default_entity() -> str:
    """Ask the server for the user or team that the API key belongs to; needs a key and a network."""
    import wandb  # noqa: PLC0415

    return wandb.Api().default_entity or ""


def _server() -> tuple[str, int]:
    url = urlparse(os.environ.get("WANDB_BASE_URL", WANDB_URL))
    return url.hostname or "", url.port or (80 if url.scheme == "http" else 443)


def reaches_server() -> bool:
    """Whether the server in use answers; behind a proxy it is taken to."""
    if getproxies():  # it is the proxy that knows the way
        return True
    try:
        with socket.create_connection(_server(), timeout=NETWORK_PATIENCE):
            return True
    except OSError:
        return False


@contextmanager
def data_dir_in(folder: Path) -> Iterator[None]:
    """Let what is yet to be uploaded lie in a run folder, unless the user said where.

    Args:
        folder: The run folder.
    """
    if DATA_DIR in os.environ:
        yield
        return
    os.environ[DATA_DIR] = str(folder / "wandb" / "data")
    try:
        yield
    finally:
        del os.environ[DATA_DIR]


def _table(published: Published) -> Any:
    import wandb  # noqa: PLC0415

    rows = [
        [row.dataset, row.category, *(row.values.get(metric) for metric in METRICS), row.num_normal, row.num_anomalous]
        for row in published.rows
    ]
    return wandb.Table(columns=list(table_columns()), data=rows)


def _image(heat_map: HeatMap) -> Any:
    import wandb  # noqa: PLC0415

    masks = {ANOMALY_MAP: {"mask_data": bands(heat_map), "class_labels": band_labels(heat_map)}}
    if heat_map.truth is not None:
        truth = (_pixels(heat_map.truth) > 0).astype(np.uint8)
        masks[TRUTH] = {"mask_data": truth, "class_labels": TRUTH_LABELS}
    return wandb.Image(str(heat_map.image), caption=heat_map.caption, masks=masks)


def bands(heat_map: HeatMap) -> np.ndarray:
    """Divide an anomaly map into steps of probability, the highest last.

    Args:
        heat_map: Holds the map.

    Returns:
        The step of every pixel, from 0 on.
    """
    return (_pixels(heat_map.anomaly_map).astype(np.int32) * BANDS // 256).astype(np.uint8)


def band_labels(heat_map: HeatMap) -> dict[int, str]:
    """Say which probabilities the steps stand for.

    Args:
        heat_map: Says what its map goes from and to.

    Returns:
        A label per step.
    """
    width = (heat_map.highest - heat_map.lowest) / BANDS
    digits = max(2, 1 - math.floor(math.log10(max(width, 1e-6))))
    edges = [f"{heat_map.lowest + i * width:.{digits}f}" for i in range(BANDS + 1)]
    return {i: f"{edges[i]} to {edges[i + 1]}" for i in range(BANDS)}


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"))
