"""The commands with a config: compose it, turn it into a job, run the job."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from afr_clip.cli.command import ends_in_a_sentence, start_processes
from afr_clip.config.nodes import (
    CalibrateConfig,
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    PredictConfig,
    config_dir,
)
from afr_clip.config.plan import (
    calibration_job,
    current_record,
    diagnosis_job,
    evaluation_job,
    export_job,
    output_dir,
    prediction_job,
    restore_model,
    training_job,
    typed_overrides,
)
from afr_clip.config.restore import named_checkpoint
from afr_clip.config.sweeps import sweep_jobs
from afr_clip.config.validate import ConfigError, read
from afr_clip.files import shown
from afr_clip.inspection.settings import is_exported
from afr_clip.run.job import AnyJob, ProtocolJob, Record
from afr_clip.settings import ScoringPlace

if TYPE_CHECKING:
    from afr_clip.inspection.exported import Exported
    from afr_clip.models.checkpoint import Checkpoint

FIXED_BY_EXPORT = ("backbone.", "module.", "engine", "trainer.precision", "trainer.accelerator")
"""Beginnings of the keys that an exported model decides itself."""

Command = Callable[[DictConfig], None]


def _composed(name: str) -> Callable[[Command], Callable[[], None]]:
    """Let Hydra compose the config of a command."""
    return lambda command: hydra.main(version_base="1.3", config_path=config_dir(), config_name=name)(
        ends_in_a_sentence(command)
    )


@contextmanager
def _loading() -> Iterator[None]:
    """Import what a command runs, once its config is known to be good: loading torch takes seconds."""
    # Modules are full of cycles and live until the process ends. Collecting them repeatedly takes a quarter of the
    # import time, and freeing them at exit another second.
    gc.disable()
    try:
        from afr_clip.clip.third_parties import import_towers  # noqa: PLC0415

        import_towers()
        yield
        if not gc.get_freeze_count():
            gc.freeze()
    finally:
        gc.enable()


@_composed("train")
def train(config: DictConfig) -> None:
    """Train on one dataset, then score others."""
    job = training_job(config, output_dir(), current_record())
    first = job.legs[0] if isinstance(job, ProtocolJob) else job
    if start_processes("afr_clip.train", first.trainer, has_run_dir=bool(config.run_dir)):
        return
    with _loading():
        from afr_clip.run.train import train as run  # noqa: PLC0415

    run(job)


@_composed("evaluate")
def evaluate(config: DictConfig) -> None:
    """Score one dataset."""
    typed = read(config, EvaluateConfig)
    if start_processes("afr_clip.evaluate", typed.trainer, has_run_dir=bool(typed.run_dir)):
        return
    with _loading():
        from afr_clip.run.evaluate import evaluate as run  # noqa: PLC0415

    run(*_with_checkpoint(config, typed, evaluation_job))


@_composed("predict")
def predict(config: DictConfig) -> None:
    """Score photographs."""
    typed = read(config, PredictConfig)
    if start_processes("afr_clip.predict", typed.trainer, has_run_dir=bool(typed.run_dir)):
        return
    with _loading():
        if typed.runs_on is ScoringPlace.ray:
            from afr_clip.run.spread import predict_on_ray as run  # noqa: PLC0415
        else:
            from afr_clip.run.predict import predict as run  # noqa: PLC0415

    run(*_with_checkpoint(config, typed, prediction_job))


@_composed("calibrate")
def calibrate(config: DictConfig) -> None:
    """Find thresholds from good parts."""
    typed = read(config, CalibrateConfig)
    with _loading():
        from afr_clip.run.calibrate import calibrate as run  # noqa: PLC0415

    run(*_with_checkpoint(config, typed, calibration_job))


@_composed("export")
def export(config: DictConfig) -> None:
    """Write a detector to a file."""
    typed = read(config, ExportConfig)
    with _loading():
        from afr_clip.run.export import export as run  # noqa: PLC0415

    run(*_with_checkpoint(config, typed, export_job))


@_composed("diagnose")
def diagnose(config: DictConfig) -> None:
    """Measure what the text does in the network of a run."""
    with _loading():
        from afr_clip.run.diagnose import diagnose as run  # noqa: PLC0415
        from afr_clip.run.diagnose import read_finished  # noqa: PLC0415

    folder = output_dir()
    # An untrained network may get a folder of its own, which holds no run.
    has_run = config.run_dir is not None and (not config.untrained or (folder / "manifest.json").exists())
    run(diagnosis_job(config, read_finished(folder) if has_run else None, folder, current_record()))


@_composed("sweep")
def sweep(config: DictConfig) -> None:
    """Run every cell of an experiment or a search that is not finished."""
    jobs = sweep_jobs(config, typed_overrides())
    from afr_clip.sweep.command import sweep as run  # noqa: PLC0415

    run(jobs)


def _with_checkpoint(
    config: DictConfig,
    typed: EvaluateConfig | InspectConfig | ExportConfig,
    make_job: Callable[[DictConfig, Path, Record], AnyJob],
) -> tuple[AnyJob, Any]:
    """Read the checkpoint that a command names, and make the job with the model it was trained with."""
    from afr_clip.run.model import read_named  # noqa: PLC0415

    name = _named_checkpoint(typed)
    checkpoint, reads_files = read_named(name, typed.num_threads), name is None or not is_exported(name)
    if not reads_files:
        _refuse_fixed(typed_overrides())
    with _naming(checkpoint):
        if checkpoint is not None:
            trained_with = checkpoint.manifest["config"]
            config = restore_model(config, trained_with, typed_overrides(), reads_files=reads_files)
        return make_job(config, output_dir(), current_record()), checkpoint


def _refuse_fixed(overrides: Sequence[str]) -> None:
    """Refuse what an exported model decides itself."""
    for key in (override.lstrip("+~").split("=", 1)[0] for override in overrides):
        if key.startswith(FIXED_BY_EXPORT):
            msg = (
                f"{key} cannot be changed for an exported model. Leave it out, or name the checkpoint that the model "
                f"was made from."
            )
            raise ConfigError(msg)


@contextmanager
def _naming(checkpoint: "Checkpoint | Exported | None") -> Iterator[None]:
    """Name the checkpoint in config errors: the typed config was checked before, so the fault is the checkpoint's."""
    try:
        yield
    except (ConfigError, OmegaConfBaseException) as error:
        if checkpoint is None:
            raise
        fault = str(error) if isinstance(error, ConfigError) else f"{str(error).splitlines()[0]}."
        msg = f"{fault} The checkpoint is {shown(checkpoint.path)}."
        raise ConfigError(msg) from error


def _named_checkpoint(typed: EvaluateConfig | InspectConfig | ExportConfig) -> str | None:
    """Return where the checkpoint is, or ``None`` for a method that needs none."""
    if typed.module.network.needs_checkpoint and typed.checkpoint is not None:
        return named_checkpoint(typed.checkpoint)
    return None
