"""Networks as their config files describe them."""

from collections.abc import Iterator, Sequence
from functools import cache

from torch import Tensor, nn

from afr_clip.clip.load import Towers
from afr_clip.config.plan import composed_model
from afr_clip.models.interface import StagedNetwork
from afr_clip.models.method_settings import ModuleSettings
from afr_clip.models.prediction import AnomalyPrediction

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


def learning(method: str, network: nn.Module, image: Tensor, category: Sequence[str]) -> AnomalyPrediction:
    """Score images as a training does, each next to another one if the method asks for that."""
    reference = (image.flip(0),) if composed_module(method).network.needs_reference else ()
    return network(image, category, *reference)


def build_on_four_blocks(method: str, towers: Towers) -> nn.Module:
    """Build a method's network on the tiny towers."""
    return build_method(method, towers, *FOR_FOUR_BLOCKS.get(method, ()))
