"""The config a checkpoint was trained with, and what a command line may change in it."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from afr_clip.config.validate import ConfigError

_MODEL_GROUPS = ("backbone", "module")


def typed_overrides() -> list[str]:
    """Return what was typed on this command line, as ``key=value``."""
    return list(HydraConfig.get().overrides.task)


def output_dir() -> str:
    """Return the run folder that Hydra made for this command."""
    return str(HydraConfig.get().runtime.output_dir)


def restore_model(config: DictConfig, trained_with: Mapping[str, Any], overrides: Sequence[str]) -> DictConfig:
    """Put a checkpoint's own model into the config of a command.

    Backbone and module are what the checkpoint was trained with. Single keys typed on the command line win, so that
    weights may lie elsewhere and scoring may be tried another way; another backbone may not.

    Args:
        config: The composed config of the command.
        trained_with: The resolved config in the checkpoint.
        overrides: What was typed.

    Returns:
        The config with the model replaced.

    Raises:
        ConfigError: If another backbone or method was typed than the checkpoint has.
    """
    keys = [override.lstrip("+~").split("=", 1)[0] for override in overrides]
    for group in _MODEL_GROUPS:
        own, typed = trained_with[group]["name"], config[group].name
        if group in keys and typed != own:
            msg = f"{group} must be {own}, with which the checkpoint was trained, got {typed}. Leave {group}= out."
            raise ConfigError(msg)
    restored = DictConfig(OmegaConf.to_container(config, resolve=True))
    with open_dict(restored):
        for group in _MODEL_GROUPS:
            typed = {key: OmegaConf.select(config, key) for key in keys if key.startswith(f"{group}.")}
            restored[group] = trained_with[group]
            for key, value in typed.items():
                OmegaConf.update(restored, key, value)
    return restored
