"""The config a checkpoint was trained with, and what a command line may change in it."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from afr_clip.config.assemble import compose_group
from afr_clip.config.validate import ConfigError

_MODEL_GROUPS = ("backbone", "module")

_MAY_BE_TYPED = (
    "module.network.scoring.temperature",
    "module.network.scoring.image_score",
    "module.network.scoring.smoothing_sigma",
    "module.network.released_weights",
    "backbone.image_size",
    "backbone.weights",
    "backbone.pretrained",
    "backbone.cnn.weights",
    "backbone.cnn.pretrained",
)
"""What leaves the trained network as it is; the fingerprint still demands the same frozen weights."""


def typed_overrides() -> list[str]:
    """Return what was typed on this command line, as ``key=value``."""
    return list(HydraConfig.get().overrides.task)


def chosen_files() -> dict[str, Any]:
    """Return which file of each config group this command was composed of, Hydra's own groups left out."""
    hydra = HydraConfig.get()
    choices = {group: name for group, name in hydra.runtime.choices.items() if not group.startswith("hydra/")}
    for override in hydra.overrides.task:  # Hydra does not count a list of files as a choice
        group, _, names = override.partition("=")
        if group not in choices and "." not in group and re.fullmatch(r"\[[\w, /]+\]", names):
            choices[group] = [name.strip() for name in names[1:-1].split(",")]
    return choices


def output_dir() -> str:
    """Return the run folder that Hydra made for this command."""
    return str(HydraConfig.get().runtime.output_dir)


def restore_model(config: DictConfig, trained_with: Mapping[str, Any], overrides: Sequence[str]) -> DictConfig:
    """Put a checkpoint's own model into the config of a command.

    Backbone and module are what the checkpoint was trained with. Where the frozen weights lie, how similarities become
    scores and how large images are made may be typed anew; nothing that would make it another network. What gets called
    is never read from a checkpoint: every ``_target_`` is the one of our own config files.

    Args:
        config: The composed config of the command.
        trained_with: The resolved config in the checkpoint.
        overrides: What was typed.

    Returns:
        The config with the model replaced.

    Raises:
        ConfigError: If another model was typed than the checkpoint has.
    """
    keys = [override.lstrip("+~").split("=", 1)[0] for override in overrides]
    restored = copy.deepcopy(config)
    for group in _MODEL_GROUPS:
        own, typed = trained_with[group]["name"], config[group].name
        if group in keys and typed != own:
            msg = f"{group} must be {own}, with which the checkpoint was trained, got {typed}. Leave {group}= out."
            raise ConfigError(msg)
        restored[group] = OmegaConf.merge(compose_group(group, own), _without_targets(trained_with[group]))
    learned = OmegaConf.select(restored, "module.network.scoring.learnable_temperature", default=False)
    for key in (key for key in keys if key.split(".")[0] in _MODEL_GROUPS and "." in key):
        if not key.startswith(_MAY_BE_TYPED) or (learned and key.endswith("temperature")):
            msg = (
                f"{key} belongs to the network that was trained, and was typed. Leave it out; only "
                f"{', '.join(_MAY_BE_TYPED)} may change after training, the temperature only if it was not learned."
            )
            raise ConfigError(msg)
        OmegaConf.update(restored, key, OmegaConf.select(config, key))
    return restored


def _without_targets(node: Any) -> Any:  # noqa: ANN401 - plain values of any depth
    if not isinstance(node, Mapping):
        return node
    return {key: _without_targets(value) for key, value in node.items() if not str(key).startswith("_")}
