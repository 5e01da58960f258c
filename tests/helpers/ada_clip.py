"""AdaCLIP on the smallest towers."""

import torch

from afr_clip.clip.load import Towers
from afr_clip.models.ada_clip.network import AdaCLIP
from afr_clip.models.ada_clip.settings import FusionReading, FusionSettings
from afr_clip.prompts.ensemble import PromptSettings, PromptStyle
from helpers.methods import build_method

ENSEMBLE = PromptSettings(PromptStyle.ada_clip, object_agnostic=False)
FUSION = FusionSettings(FusionReading.mean_of_clusters, num_clusters=20, num_patches=100, weight=0.2)


def tiny_ada_clip(towers: Towers, *, seed: int = 0, **changes: object) -> AdaCLIP:
    """AdaCLIP in its published setting on given towers; ``changes`` are keys of its network, ``__`` for a dot."""
    torch.manual_seed(seed)
    overrides = (f"module.network.{key.replace('__', '.')}={value}" for key, value in changes.items())
    network = build_method("ada_clip", towers, *overrides)
    assert isinstance(network, AdaCLIP)
    return network
