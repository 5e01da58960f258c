"""Networks as their config files describe them."""

from collections.abc import Iterator
from functools import cache

from torch import nn

from afr_clip.clip.load import Towers
from afr_clip.config.plan import composed_model
from afr_clip.models.interface import StagedNetwork
from afr_clip.models.method_settings import ModuleSettings

FOR_FOUR_BLOCKS: dict[str, tuple[str, ...]] = {"cocoop": ("module.network.reduction=1",)}
"""Overrides by method, where the published setting does not suit the tiny tower: two hidden units may both be off."""

IN_TWO_EPOCHS = {"aa_clip": ("module.network.text_epochs=1",)}
"""Overrides by method, where a training has stages: each gets one epoch."""


@cache
def composed_module(method: str, *overrides: str) -> ModuleSettings:
    """Compose ``module=METHOD``."""
    return composed_model(f"module={method}", *overrides)[1]


def build_method(method: str, towers: Towers, *overrides: str) -> nn.Module:
    """Build a method's network in its published setting on given towers."""
    return composed_module(method, *overrides).network.build(towers)


def stages(network: nn.Module) -> Iterator[None]:
    """Enter each stage of a network's training in turn; most have one."""
    if not isinstance(network, StagedNetwork):
        yield
        return
    for epoch in (0, 1000):
        network.begin_epoch(epoch)
        yield


def build_on_four_blocks(method: str, towers: Towers) -> nn.Module:
    """Build a method's network on the tiny towers."""
    return build_method(method, towers, *FOR_FOUR_BLOCKS.get(method, ()))
