"""The trained model of a run: what it is built from, and what the manifest says of it. Needs no Lightning."""

import hashlib
import logging
from typing import Any

from afr_clip.clip.load import Towers, check_architecture, load_towers
from afr_clip.clip.weights import weight_path
from afr_clip.models.checkpoint import Checkpoint, read_checkpoint
from afr_clip.processes.together import require_same
from afr_clip.run.job import Job
from afr_clip.run.run import Run

logger = logging.getLogger(__name__)


def check_model(job: Job) -> None:
    """Check backbone and method against each other before data or weights are read.

    Raises:
        ValueError: If they contradict what open_clip knows, or each other.
    """
    job.module.network.check_taps(check_architecture(job.backbone))


def build_towers(job: Job, run: Run) -> Towers:
    """Build the frozen towers and note their fingerprint."""
    towers = load_towers(job.backbone, needs_cnn=job.module.network.needs_cnn)
    note_towers(run, towers, towers.fingerprint())
    return towers


def note_towers(run: Run, towers: Towers, fingerprint: str) -> None:
    """Note which frozen weights a run has, and check that all its processes have the same."""
    settings = towers.settings
    require_same({"fingerprint of frozen weights": fingerprint})
    facts = {
        "name": settings.name,
        "architecture": settings.architecture,
        "random_weights": settings.random_weights,
        "cnn": towers.published_cnn,
        "fingerprint": fingerprint,
    }
    run.note_unchanged("backbone", "fingerprint", facts)


def note_released_weights(job: Job, run: Run) -> None:
    """Note the authors' weights that a method starts from, and warn that their training data is unknown."""
    path = getattr(job.module.network, "released_weights", None)
    if path is not None:
        sha256 = hashlib.sha256(weight_path(path).read_bytes()).hexdigest()
        run.note(released_weights={"path": str(path), "sha256": sha256})
        logger.warning("%s does not record its training data. Do not score a dataset that it was trained on.", path)


def read_named(name: str | None) -> Checkpoint | None:
    """Read what ``checkpoint=`` names: a run folder, a file, or ``package:NAME/PATH``; nothing for ``None``."""
    return None if name is None else read_checkpoint(weight_path(name))


def provenance(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    """Describe for the manifest where trained weights come from."""
    if checkpoint is None:
        return None
    kept = ("commit", "seed", "epochs", "auxiliary", "started", "config", "precision")
    return {"path": str(checkpoint.path), **{key: checkpoint.manifest.get(key) for key in kept}}
