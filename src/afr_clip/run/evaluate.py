"""Score a dataset with a trained checkpoint."""

from pathlib import Path

from omegaconf import DictConfig

from afr_clip.clip.load import Towers
from afr_clip.clip.weights import weight_path
from afr_clip.config.assemble import build
from afr_clip.config.methods import settings_node
from afr_clip.config.restore import output_dir, restore_model, typed_overrides
from afr_clip.config.validate import ConfigError, validate
from afr_clip.data.disk.loaded import load_dataset
from afr_clip.data.disk.separation import TrainedOn, refuse_overlap
from afr_clip.data.feed.datamodule import AnomalyDataModule
from afr_clip.models.method_settings import MethodSettings
from afr_clip.processes.signals import interruptible
from afr_clip.processes.together import require_same
from afr_clip.run.parts import (
    Run,
    build_engine,
    build_loggers,
    build_module,
    build_towers,
    check_model,
    data_settings,
    dataset_spec,
    describe,
    finish_run,
    note_released_weights,
    start_run,
)
from afr_clip.run.score import score_targets
from afr_clip.training.checkpoint import Checkpoint, load_adapters, read_checkpoint
from afr_clip.training.loggers import closing_mirrors
from afr_clip.training.module import AnomalyDetectionModule


def evaluate(config: DictConfig) -> None:
    """Run ``python -m afr_clip.evaluate``.

    Args:
        config: The composed and validated config.
    """
    with interruptible():
        _evaluate(config)


def _evaluate(config: DictConfig) -> None:
    checkpoint, config = restore(config)
    run = start_run(config, Path(output_dir()))
    target = load_dataset(dataset_spec(config.dataset, config))
    require_same({target.spec.name: target.digest.sha256})
    if checkpoint is not None:
        refuse_overlap(TrainedOn.from_plain(checkpoint.manifest["trained_on"]), target)
    run.note(checkpoint=provenance(checkpoint), targets={target.spec.name: describe(target)})
    module, towers = build_scoring(config, run, checkpoint)
    data = AnomalyDataModule(None, [target], data_settings(config, towers))
    loggers = build_loggers(config, run)
    with closing_mirrors(loggers):
        score_targets(config, run, module, data, build_engine(config, run, loggers))
    finish_run(run.folder)


def restore(config: DictConfig) -> tuple[Checkpoint | None, DictConfig]:
    """Read the checkpoint a command names, and put its model into the command's config.

    Args:
        config: Names the checkpoint, or a method that needs none.

    Returns:
        The checkpoint, if there is one, and the config with the model it was trained with.

    Raises:
        ConfigError: If a checkpoint was typed for a method that needs none.
    """
    typed = typed_overrides()
    method: MethodSettings = build(settings_node(config.module.network))
    if method.needs_checkpoint:
        checkpoint = read_checkpoint(weight_path(config.checkpoint))
        config = restore_model(config, checkpoint.manifest["config"], typed)
        validate(config)
        check_model(config)
        return checkpoint, config
    if any(override.lstrip("+").startswith("checkpoint=") for override in typed):
        msg = (
            f"checkpoint must be left out for module={config.module.name}, which has nothing to train or has published "
            f"weights, got {config.checkpoint}. Leave out one of them."
        )
        raise ConfigError(msg)
    check_model(config)
    return None, config


def build_scoring(config: DictConfig, run: Run, checkpoint: Checkpoint | None) -> tuple[AnomalyDetectionModule, Towers]:
    """Build a network that scores, with the trained weights of its checkpoint.

    Args:
        config: A restored config.
        run: Gets the backbone's fingerprint.
        checkpoint: The weights; ``None`` where nothing is trained.

    Returns:
        The module, and the towers it stands on.
    """
    towers = build_towers(config, run)
    module = build_module(config, towers)
    note_released_weights(config, run)
    if checkpoint is not None:
        load_adapters(module.network, checkpoint, run.manifest["backbone"]["fingerprint"])
    return module, towers


def provenance(checkpoint: Checkpoint | None) -> dict[str, object] | None:
    """Say where trained weights come from, for the manifest."""
    if checkpoint is None:
        return None
    trained = checkpoint.manifest
    kept = ("commit", "seed", "epochs", "auxiliary", "started", "config", "precision")
    return {"path": str(checkpoint.path), **{key: trained.get(key) for key in kept}}
