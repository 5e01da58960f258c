"""Score a dataset with a trained checkpoint."""

from pathlib import Path

from omegaconf import DictConfig

from afr_clip.clip.load import Towers
from afr_clip.clip.weights import weight_path
from afr_clip.config.assemble import build
from afr_clip.config.restore import output_dir, restore_model, typed_overrides
from afr_clip.config.validate import validate
from afr_clip.data.datamodule import AnomalyDataModule
from afr_clip.data.loaded import load_dataset
from afr_clip.data.separation import TrainedOn, refuse_overlap
from afr_clip.training.checkpoint import Checkpoint, load_adapters, read_checkpoint
from afr_clip.training.module import AnomalyDetectionModule
from afr_clip.workflow.parts import (
    Run,
    build_engine,
    build_loggers,
    build_towers,
    check_model,
    data_settings,
    dataset_spec,
    describe,
    finish_run,
    start_run,
)
from afr_clip.workflow.score import score_targets


def evaluate(config: DictConfig) -> None:
    """Run ``python -m afr_clip.evaluate``.

    Args:
        config: The composed and validated config.
    """
    checkpoint, config = restore(config)
    run = start_run(config, Path(output_dir()))
    target = load_dataset(dataset_spec(config.dataset, config))
    refuse_overlap(TrainedOn.from_plain(checkpoint.manifest["trained_on"]), target)
    run.note(checkpoint=provenance(checkpoint), targets={target.spec.name: describe(target)})
    module, towers = build_trained(config, run, checkpoint)
    data = AnomalyDataModule(None, [target], data_settings(config, towers))
    score_targets(config, run, module, data, build_engine(config, run, build_loggers(config, run)))
    finish_run(run.folder)


def restore(config: DictConfig) -> tuple[Checkpoint, DictConfig]:
    """Read the checkpoint a command names, and put its model into the command's config.

    Args:
        config: Names the checkpoint.

    Returns:
        The checkpoint, and the config with the model it was trained with.
    """
    checkpoint = read_checkpoint(weight_path(config.checkpoint))
    config = restore_model(config, checkpoint.manifest["config"], typed_overrides())
    validate(config)
    check_model(config)
    return checkpoint, config


def build_trained(config: DictConfig, run: Run, checkpoint: Checkpoint) -> tuple[AnomalyDetectionModule, Towers]:
    """Build the network of a checkpoint with its trained weights.

    Args:
        config: A restored config.
        run: Gets the backbone's fingerprint.
        checkpoint: The weights.

    Returns:
        The module, and the towers it stands on.
    """
    towers = build_towers(config, run)
    network = build(config.module.network, towers=towers)
    load_adapters(network, checkpoint, run.manifest["backbone"]["fingerprint"])
    return AnomalyDetectionModule(network), towers


def provenance(checkpoint: Checkpoint) -> dict[str, object]:
    """Say where trained weights come from, for the manifest."""
    trained = checkpoint.manifest
    kept = ("commit", "seed", "epochs", "auxiliary", "started", "config")
    return {"path": str(checkpoint.path), **{key: trained.get(key) for key in kept}}
