"""Configs for the tests of this room."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from afr_clip.config.command import config_dir
from afr_clip.config.schema import register

Compose = Callable[..., DictConfig]


def _compose(*overrides: str, command: str = "train", **kwargs: Any) -> DictConfig:
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return compose(command, overrides=list(overrides), **kwargs)


@pytest.fixture(scope="package", autouse=True)
def _quick_collection() -> Iterator[None]:
    """Composing leaves many cycles; without this each collection would walk through all of torch as well."""
    gc.freeze()
    yield
    gc.unfreeze()


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
