"""The smallest real parts: random CLIP towers, a network on them, a batch for it."""

from dataclasses import fields, replace
from pathlib import Path

import torch

from afr_clip.clip.load import Towers, load_towers
from afr_clip.clip.settings import BackboneSettings, CNNSettings, PositionEmbeddings
from afr_clip.data.records import AnomalyBatch, AnomalySample
from afr_clip.models.afr_clip.network import AFRCLIP
from afr_clip.models.afr_clip.settings import (
    AdapterKind,
    AdapterSettings,
    CMFRSettings,
    LearnableScoringSettings,
    Placement,
    SelfPromptingSettings,
    StatelessPromptSettings,
    TrainedMaps,
)
from afr_clip.models.prediction import AnomalyPrediction
from afr_clip.models.scoring_settings import ImageScore
from afr_clip.prompts.ensemble import PromptStyle

CNN = CNNSettings("test_resnet", pretrained=False, weights=None, random_weights=True, stages=[-1])
TINY = BackboneSettings(
    name="tiny",
    architecture="afr-clip-tiny",
    pretrained=None,
    weights=None,
    random_weights=True,
    quick_gelu=True,
    other_activation=False,
    image_size=64,
    position_embeddings=PositionEmbeddings.bicubic_antialias,
    tap_layers=None,
    cnn_stem=False,
    cnn=CNN,
)
PROMPTS = StatelessPromptSettings(
    PromptStyle.single, object_agnostic=False, universal_prototypes=False, normalised=True
)
ADAPTERS = AdapterSettings(AdapterKind.linear, standardised_patches=False, unit_tokens=False)
CMFR = CMFRSettings(enabled=True, inner_dim=None, kernel_size=1, shared=False, symmetric=False)
SELF_PROMPTING = SelfPromptingSettings(
    enabled=True, image_prompt=True, shared_prompt=True, num_prompts=5, stages=[1], placement=Placement.replace
)
SCORING = LearnableScoringSettings(
    temperature=1.0,
    learnable_temperature=False,
    image_score=ImageScore.class_token,
    smoothing_sigma=0.0,
    align_corners=False,
    softmax_after_upsampling=False,
    mean_class_logits=False,
    trained_maps=TrainedMaps.mean,
)


def tiny_towers(**changes: object) -> Towers:
    """Random towers of four blocks; ``changes`` replace settings."""
    return load_towers(replace(TINY, **changes), needs_cnn=True)


def tiny_network(
    towers: Towers,
    *,
    seed: int = 0,
    mpfa_window: int = 3,
    tap_ln_post: bool = False,
    **changes: dict,
) -> AFRCLIP:
    """AFR-CLIP on given towers; ``changes`` map the nodes of its settings to changed settings."""
    torch.manual_seed(seed)
    return AFRCLIP(
        towers,
        replace(PROMPTS, **changes.get("prompts", {})),
        replace(ADAPTERS, **changes.get("adapters", {})),
        replace(CMFR, **changes.get("cmfr", {})),
        replace(SELF_PROMPTING, **changes.get("self_prompting", {})),
        replace(SCORING, **changes.get("scoring", {})),
        mpfa_window=mpfa_window,
        tap_ln_post=tap_ln_post,
    )


def assert_probabilities(prediction: AnomalyPrediction) -> None:
    """Check that everything a method returns is a float32 probability."""
    for field in fields(prediction):
        values = getattr(prediction, field.name)
        if values is None or field.name in ("patch_tokens", "prototypes"):
            continue
        assert values.dtype == torch.float32, field.name
        assert ((values >= 0) & (values <= 1)).all(), field.name


def random_batch(num: int = 4, size: int = 64, seed: int = 0) -> AnomalyBatch:
    """A batch of noise; every second image is anomalous in its upper left corner."""
    generator = torch.Generator().manual_seed(seed)
    is_anomalous = torch.arange(num) % 2 == 1
    mask = torch.zeros(num, size, size, dtype=torch.bool)
    mask[is_anomalous, : size // 4, : size // 3] = True
    samples = tuple(
        AnomalySample(
            dataset="noise",
            category="metal_nut",
            defect_type="bad" if bad else "good",
            image_path=Path(f"{i}.png"),
            mask_path=None,
            is_anomalous=bool(bad),
            prompt_name="metal nut",
        )
        for i, bad in enumerate(is_anomalous)
    )
    return AnomalyBatch(
        image=torch.randn(num, 3, size, size, generator=generator),
        mask=mask,
        has_mask=torch.ones(num, dtype=torch.bool),
        is_anomalous=is_anomalous,
        index=torch.arange(num),
        samples=samples,
    )
