"""AdaCLIP on the smallest towers."""

from dataclasses import replace

import torch

from afr_clip.clip.load import Towers
from afr_clip.models.ada_clip.network import AdaCLIP
from afr_clip.models.ada_clip.settings import FusionReading, FusionSettings, HybridPromptSettings
from afr_clip.models.scoring_settings import ImageScore, ScoringSettings
from afr_clip.prompts.ensemble import PromptSettings, PromptStyle

ENSEMBLE = PromptSettings(PromptStyle.ada_clip, object_agnostic=False)
HYBRID_PROMPTS = HybridPromptSettings(length=5, depth=4)
FUSION = FusionSettings(FusionReading.mean_of_clusters, num_clusters=20, num_patches=100, weight=0.2)
SCORING = ScoringSettings(temperature=0.01, image_score=ImageScore.class_token, smoothing_sigma=4.0)


def tiny_ada_clip(
    towers: Towers, *, seed: int = 0, released_weights: str | None = None, **changes: dict[str, object]
) -> AdaCLIP:
    """AdaCLIP on given towers; ``changes`` map ``hybrid_prompts``, ``fusion``, ``scoring`` to changed settings."""
    torch.manual_seed(seed)
    return AdaCLIP(
        towers,
        ENSEMBLE,
        replace(HYBRID_PROMPTS, **changes.get("hybrid_prompts", {})),
        replace(FUSION, **changes.get("fusion", {})),
        replace(SCORING, **changes.get("scoring", {})),
        released_weights,
    )
