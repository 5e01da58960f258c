"""Weights & Biases: one run for one run folder; falls back to offline mode automatically."""

import math
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse
from urllib.request import getproxies

import numpy as np
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from afr_clip.metrics.log_keys import EPOCH, LOSS_STEP, MEANS, RESULTS_TABLE, STEP, TARGETS, TRAINING, table_columns
from afr_clip.training.loggers.mirror import Backend, Picture, Published, RunFacts, read_id, write_id

WANDB_URL = "https://api.wandb.ai"
CONNECT_SECONDS = 3.0
"""How long to wait for the server before falling back to offline mode."""

UPLOAD_SECONDS = 600.0
"""How long a finished run waits for its last uploads; the run folder keeps the rest."""

RUN_ID = "wandb_run_id"
"""File of a run folder that holds the id of its W&B run."""

DATA_DIR = "WANDB_DATA_DIR"
"""Where W&B keeps files that are not uploaded yet."""

BANDS = 8
"""An anomaly map is shown in so many steps of its score, each a class that can be switched on and off."""


class Wandb(Backend, WandbLogger):
    """Log to Weights & Biases.

    A run folder has one id, written before anything is sent, and a resumed run continues under it. Values go against
    ``epoch`` or ``trainer/global_step``, never against W&B's own count of calls, so a value that is sent again replaces
    the first one in the summary. A resumed run sends its earlier values again, because W&B writes its file in blocks
    of 32 kB and a killed process loses the last one.

    Args:
        entity: User or team; ``None`` for the default.
        group: Groups the runs of a sweep.
    """

    TITLE = "Weights & Biases"
    ADVICE = " Later, `python -m afr_clip.dashboard rebuild {folder}` creates the W&B run from the folder."

    def __init__(self, facts: RunFacts, *, project: str, entity: str | None = None, group: str | None = None) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # the last line on stdout is ours
        import wandb  # noqa: PLC0415 - takes half a second that other loggers need not wait for

        self._folder = facts.folder
        commit = (facts.config.get("manifest") or {}).get("commit") or {}
        run = wandb.init(
            dir=str(facts.folder),
            id=read_id(facts.folder / RUN_ID) or write_id(facts.folder / RUN_ID, secrets.token_hex(4)),
            resume="allow",
            name=facts.name or facts.folder.name,
            mode=wandb_mode(),
            job_type=facts.job_type,
            tags=list(facts.tags),
            config=dict(facts.config),
            allow_val_change=True,
            reinit="create_new",
            settings=wandb.Settings(
                console="off",  # the run folder holds the log
                git_commit=commit.get("hash"),  # not that of the working directory
                finish_timeout=UPLOAD_SECONDS,
            ),
            project=project,
            entity=entity,
            group=group,
        )
        # Lightning's logger gets a run with axes of its own: a logger that makes the run puts all values over steps.
        super().__init__(experiment=run, project=project)
        run.define_metric(EPOCH, hidden=True)
        run.define_metric(STEP, hidden=True)
        run.define_metric(LOSS_STEP, step_metric=STEP)
        for group_of_keys in (TRAINING, TARGETS, MEANS):
            run.define_metric(group_of_keys, step_metric=EPOCH)

    def log_pictures(self, key: str, pictures: Sequence[Picture]) -> None:
        """Log pictures with truth and anomaly map as masks."""
        captions, masks = [picture.caption for picture in pictures], [masks_of(picture) for picture in pictures]
        self.log_image(key, [str(picture.path) for picture in pictures], caption=captions, masks=masks)

    def publish(self, published: Published) -> None:
        """Log manifest, results table, macro averages and heat maps; upload checkpoint and results as artifacts."""
        facts = {key: value for key, value in published.manifest.items() if key != "config"}
        with data_dir_in(self._folder):
            self.experiment.config.update({"manifest": facts}, allow_val_change=True)
            self.log_table(RESULTS_TABLE, list(table_columns()), [list(row) for row in published.rows])
            self.log_metrics(published.means)
            for key, pictures in published.heat_maps.items():
                self.log_pictures(key, pictures)
            if published.checkpoint is not None:
                self._upload("model", [published.checkpoint], published.manifest)
            if published.files:
                self._upload("results", published.files, {})

    def _upload(self, kind: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        import wandb  # noqa: PLC0415

        artifact = wandb.Artifact(f"{kind}-{self.experiment.id}", type=kind, metadata=dict(metadata))
        for path in paths:
            # A checkpoint is large and final, so W&B need not copy it first.
            artifact.add_file(str(path), policy="immutable" if kind == "model" else "mutable", skip_cache=True)
        self.experiment.log_artifact(artifact)

    def close(self, *, succeeded: bool) -> None:
        """Finish the run and wait for its uploads."""
        self.experiment.finish(exit_code=0 if succeeded else 1)

    @staticmethod
    def abandon() -> None:
        """Stop W&B's service; a dead one would be waited for at exit, and end in a traceback."""
        import wandb  # noqa: PLC0415

        wandb.teardown(exit_code=1)


def wandb_mode() -> Literal["online", "offline"] | None:
    """Return ``online`` if there is an API key and a network; ``None`` if ``WANDB_MODE`` decides."""
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
    """Ask the server for the user or team that the API key belongs to."""
    import wandb  # noqa: PLC0415

    return wandb.Api().default_entity or ""


def reaches_server() -> bool:
    """Whether the server in use answers; assumed behind a proxy."""
    if getproxies():
        return True
    try:
        with socket.create_connection(_server(), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _server() -> tuple[str, int]:
    url = urlparse(os.environ.get("WANDB_BASE_URL", WANDB_URL))
    return url.hostname or "", url.port or (80 if url.scheme == "http" else 443)


@contextmanager
def data_dir_in(folder: Path) -> Iterator[None]:
    """Keep files in the run folder while they wait to be uploaded, unless ``WANDB_DATA_DIR`` is set."""
    is_set = DATA_DIR in os.environ
    os.environ.setdefault(DATA_DIR, str(folder / "wandb" / "data"))
    try:
        yield
    finally:
        if not is_set:
            del os.environ[DATA_DIR]


def masks_of(picture: Picture) -> dict[str, dict[str, Any]] | None:
    """Return W&B's masks: the truth, and the anomaly map in ``BANDS`` steps of its score, the highest last."""
    masks: dict[str, dict[str, Any]] = {}
    if picture.anomaly_map is not None:
        steps = (_pixels(picture.anomaly_map).astype(np.int32) * BANDS // 256).astype(np.uint8)
        width = (picture.highest - picture.lowest) / BANDS
        digits = max(2, 1 - math.floor(math.log10(max(width, 1e-6))))  # as many as tell one step from the next
        edges = [f"{picture.lowest + i * width:.{digits}f}" for i in range(BANDS + 1)]
        labels = {i: f"{edges[i]} to {edges[i + 1]}" for i in range(BANDS)}
        masks["anomaly_map"] = {"mask_data": steps, "class_labels": labels}
    if picture.truth is not None:
        truth = (_pixels(picture.truth) > 0).astype(np.uint8)
        masks["truth"] = {"mask_data": truth, "class_labels": {0: "normal", 1: "anomalous"}}
    return masks or None


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path, formats=["PNG", "JPEG"]) as picture:
        return np.asarray(picture.convert("L"))
