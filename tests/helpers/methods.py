"""Networks as their config files describe them."""

from functools import cache

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from afr_clip.clip.load import Towers
from afr_clip.config.nodes import config_dir, register
from afr_clip.models.method_settings import ModuleSettings

FOR_FOUR_BLOCKS: dict[str, tuple[str, ...]] = {}
"""Overrides by method, where the published setting names blocks that the tiny tower lacks."""


@cache
def composed_module(method: str, *overrides: str) -> ModuleSettings:
    """Compose ``module=METHOD``."""
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return OmegaConf.to_object(compose("evaluate", overrides=[f"module={method}", *overrides]).module)


def build_method(method: str, towers: Towers, *overrides: str) -> nn.Module:
    """Build a method's network in its published setting on given towers."""
    return composed_module(method, *overrides).network.build(towers)


def build_on_four_blocks(method: str, towers: Towers) -> nn.Module:
    """Build a method's network on the tiny towers."""
    return build_method(method, towers, *FOR_FOUR_BLOCKS.get(method, ()))
