"""The config a checkpoint was trained with, and what a command line may change in it."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from afr_clip.config.schema import group_schema
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
    restored = copy.deepcopy(config)
    for group in _MODEL_GROUPS:
        restored[group] = OmegaConf.merge(group_schema(group, trained_with[group]["name"]), trained_with[group])
        for key in keys:
            if key.startswith(f"{group}."):
                OmegaConf.update(restored, key, OmegaConf.select(config, key))
    return restored
