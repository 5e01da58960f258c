"""Fixtures that compose configs; the unit tests of every room that reads them import it."""

from collections.abc import Callable
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from afr_clip.config.nodes import COMMANDS, CommandConfig, config_dir, register
from afr_clip.config.validate import read

Compose = Callable[..., DictConfig]


def _compose(*overrides: str, command: str = "train", **kwargs: Any) -> DictConfig:
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return compose(command, overrides=list(overrides), **kwargs)


def validate(config: DictConfig) -> CommandConfig:
    """Read a config as its command does."""
    return read(config, COMMANDS[config.task_name])


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a config as nested plain values."""
    return OmegaConf.to_container(config, resolve=True, enum_to_str=True)


@pytest.fixture(scope="session")
def composed() -> Compose:
    """Compose the config of a command, as typing the overrides would."""
    return _compose


@pytest.fixture(scope="session")
def default_config() -> DictConfig:
    return _compose()


@pytest.fixture
def changed(default_config) -> Compose:
    """Copy the default config of `train` with some keys changed; much faster than composing it again."""

    def change(**keys: Any) -> DictConfig:
        config = default_config.copy()
        for key, value in keys.items():
            OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
        return config

    return change
