"""One run: its folder, its manifest, and how it starts and ends."""

import logging
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from afr_clip.processes.place import is_first, place
from afr_clip.processes.signals import note_run
from afr_clip.processes.together import from_first, meet
from afr_clip.reports.record.manifest import build_manifest
from afr_clip.reports.record.run_folder import RunFolderError, open_run, require_held, write_json, write_text
from afr_clip.run.job import EvaluationJob, Job, PredictionJob, TrainingJob

logger = logging.getLogger(__name__)

EXPECTED_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode",  # the towers stay in eval mode on purpose
    r".*does not have many workers",  # data.num_workers is the user's choice
    r"The number of training batches .* is smaller than the logging interval",  # epoch means are logged all the same
    r"It is recommended to use `self.log\(.*sync_dist=True\)`",  # these values are the same in all processes
    r"You're resuming from a checkpoint that ended before the epoch ended",  # and the sampler skips what was seen
    r".*LeafSpec.* is deprecated",  # Lightning 2.6 with torch 2.15; can go with Lightning 2.7
)

_MEASURED_ONCE = ("seconds_training", "seconds_scoring", "cost")
"""Facts that a resumed run keeps, because it does not repeat what was finished."""


@dataclass
class Run:
    """One run: its folder and its manifest, which grows as facts become known.

    Attributes:
        earlier: The manifest of the run that is resumed; ``None`` for a new one.
        is_written: Whether the manifest is written to the folder; not if the folder belongs to another run.
        finished: When everything was written; ``None`` before that.
        is_config_written: Whether ``config.yaml`` is next to the manifest.
    """

    folder: Path
    manifest: dict[str, Any]
    earlier: dict[str, Any] | None = None
    is_written: bool = True
    finished: str | None = None
    is_config_written: bool = False

    def note(self, **facts: Any) -> None:  # noqa: ANN401 - plain values of any kind
        """Add facts to the manifest; the first process writes it, with the config next to it.

        Raises:
            RunFolderError: If the folder was removed meanwhile.
        """
        self.manifest |= facts
        if not (is_first() and self.is_written):
            return
        require_held(self.folder)
        if not self.is_config_written:  # it never changes, and takes longer than the manifest
            config = yaml.safe_dump(self.manifest["config"], sort_keys=False, allow_unicode=True)
            write_text(self.folder / "config.yaml", config)
            self.is_config_written = True
        write_json(self.folder / "manifest.json", self.manifest | {"finished": self.finished})

    def finish(self) -> None:
        """Mark the run as finished, now that everything else is on disk."""
        self.finished = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.note()

    def note_unchanged(self, fact: str, key: str, values: dict[str, Any]) -> None:
        """Add a fact that a resumed run must share with the one before.

        Args:
            key: The value that must be the same: a hash.

        Raises:
            RunFolderError: If the earlier run had another one.
        """
        before = (self.earlier or {}).get(fact)
        if before is not None and before[key] != values[key]:
            msg = (
                f"The {fact} changed since the run was started: {key} is {values[key][:12]}, was {before[key][:12]}. "
                f"Restore the files, or choose another run_dir."
            )
            raise RunFolderError(msg)
        self.note(**{fact: values})


def start_run(job: Job) -> Run:
    """Open the run folder, fix seed and threads.

    Args:
        job: The job to run, which may resume an earlier run in its folder.

    Returns:
        The run; config and manifest are written with the first fact.

    Raises:
        RunFolderError: If the folder is in use, or holds a run that is not resumed, or one with another config.
    """
    prepare(job)
    note_run(job.folder)
    resume = isinstance(job, TrainingJob | EvaluationJob | PredictionJob) and job.resume
    record = job.record
    earlier = from_first(lambda: open_run(job.folder, resume=resume, config=record.config))
    manifest = build_manifest(record.command, record.overrides, record.config)
    started_with = {"choices": dict(record.choices), "by_dataset": list(record.by_dataset)}
    run = Run(job.folder, manifest | started_with | {"processes": place().world_size}, earlier)
    if isinstance(job, TrainingJob):
        run.manifest["effective_batch_size"] = job.data.batch_size * job.trainer.accumulate_grad_batches
    if resume and earlier is None:
        logger.warning(
            "resume=true found no run in %s, so this one starts afresh. Name the run to continue: run_dir=DIR.",
            job.folder,
        )
    if earlier is not None:
        history = [
            *earlier.get("resumed_from", []),
            {key: earlier.get(key) for key in ("commit", "started", "overrides")},
        ]
        run.manifest["resumed_from"] = history
        run.manifest |= {key: earlier[key] for key in _MEASURED_ONCE if key in earlier}
    return run


def prepare(job: Job) -> None:
    """Set seed, threads and log levels of this process, and connect it to the others."""
    if job.num_threads is not None:
        torch.set_num_threads(job.num_threads)
    # Lightning reports every missing accelerator as news; the manifest records what there was.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for expected in EXPECTED_WARNINGS if is_first() else (".*",):  # only the first of several processes reports
        warnings.filterwarnings("ignore", message=expected)
    meet(job.trainer.accelerator)
    if not isinstance(job, PredictionJob):  # which draws no random number
        from lightning.pytorch import seed_everything  # noqa: PLC0415 - Lightning takes seconds to load

        seed_everything(job.seed, workers=True, verbose=False)


def finish_run(folder: Path, page: Path | None = None) -> None:
    """Print where the page is, if there is one, and as the last line of stdout where the run folder is."""
    if page is None:
        from afr_clip.reports.page import PAGE  # noqa: PLC0415 - pandas takes half a second, and predictions have a page of their own

        page = folder / PAGE
    if page.exists():
        sys.stdout.write(f"page: {page}\n")
    sys.stdout.write(f"run: {folder}\n")
