"""One small random tower of each kind: the families that timm builds, at 4 blocks of width 64."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import open_clip
import torch
from timm.layers import LayerNorm
from timm.models import register_model
from timm.models.eva import _create_eva
from timm.models.vision_transformer import _create_vision_transformer
from timm.models.vision_transformer_hybrid import ConvStem, _create_vision_transformer_hybrid
from timm.models.vitamin import GeGluMlp

from afr_clip.clip.load import Towers, load_towers
from helpers.tiny import TINY

NATIVE, SIZE = 48, 64
"""Sides in pixels: what the towers are made for, and what they run at, so that positions are interpolated."""

SHAPE = {"embed_dim": 64, "depth": 4, "num_heads": 2, "img_size": NATIVE}
VIT = {"patch_size": 16, **SHAPE}

default_cfgs: dict[str, dict[str, Any]] = {}
"""Where timm looks for how images are normalised."""


def convolutional(name: str, pretrained: bool, **arguments: Any) -> torch.nn.Module:
    """A ViT over convolutions, as MobileCLIP-B and ViTamin are."""
    stem = ConvStem(channels=(8, 16, 64), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0)
    return _create_vision_transformer_hybrid(name, stem, {"proj": False}, pretrained, **arguments)


def register(name: str, create: Any, mean: float, **own: Any) -> None:
    """Make a ViT known to timm."""

    def entry(pretrained: bool = False, **given: Any) -> torch.nn.Module:
        return create(name, pretrained=pretrained, **(own | given))

    entry.__name__ = name
    default_cfgs[name] = {"mean": (mean,) * 3, "std": (0.25,) * 3, "input_size": (3, NATIVE, NATIVE), "num_classes": 0}
    register_model(entry)


register("tiny_siglip", _create_vision_transformer, 0.5, **VIT, class_token=False, global_pool="map")
register(
    "tiny_pe",
    _create_eva,
    0.5,
    **VIT,
    global_pool="map",
    attn_type="rope",
    use_pre_transformer_norm=True,
    use_rot_pos_emb=True,
    ref_feat_shape=(3, 3),
    rope_grid_offset=1.0,
    rope_grid_indexing="xy",
    norm_layer=partial(LayerNorm, eps=1e-5),
)
register(
    "tiny_eva02",
    _create_eva,
    0.4,
    **VIT,
    qkv_fused=False,
    swiglu_mlp=True,
    scale_mlp=True,
    scale_attn_inner=True,
    use_rot_pos_emb=True,
    ref_feat_shape=(3, 3),
    global_pool="token",
)
register("tiny_eva_post_norm", _create_eva, 0.4, **VIT, use_post_norm=True, global_pool="token")
register("tiny_mobileclip", convolutional, 0.0, **SHAPE, no_embed_class=True)
register("tiny_vitamin", convolutional, 0.3, **SHAPE, mlp_layer=GeGluMlp, class_token=False, global_pool="avg")
register("tiny_dinov2", _create_vision_transformer, 0.2, **VIT, init_values=0.1, reg_tokens=4, no_embed_class=True)
register(
    "tiny_dinov3",
    _create_eva,
    0.1,
    **VIT,
    dynamic_img_size=True,
    qkv_bias=False,
    init_values=0.1,
    rope_type="dinov3",
    rope_temperature=100,
    use_rot_pos_emb=True,
    use_abs_pos_emb=False,
    rope_rotate_half=True,
    num_reg_tokens=4,
    use_fc_norm=False,
)
register(
    "tiny_mixed_rope",
    _create_eva,
    0.1,
    **VIT,
    global_pool="token",
    use_rot_pos_emb=True,
    use_abs_pos_emb=False,
    rope_type="mixed",
    num_reg_tokens=2,
)

CAUSAL = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
SIGLIP_TEXT = CAUSAL | {
    "context_length": 64,
    "hf_tokenizer_name": "timm/ViT-L-16-SigLIP2-384",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
}


def of_timm(name: str, pool: str, projection: str | None, embed_dim: int = 32, **text: Any) -> dict[str, Any]:
    """Describe a model of open_clip over a tower of timm."""
    vision = {"image_size": NATIVE, "timm_model_name": name, "timm_pool": pool, "timm_proj": projection}
    return {"embed_dim": embed_dim, "custom_text": True, "vision_cfg": vision, "text_cfg": CAUSAL | text}


CLIPS = {
    "Tiny-SigLIP2": of_timm("tiny_siglip", "map", "none", 64, **SIGLIP_TEXT) | {"init_logit_bias": -10},
    "Tiny-PE-Core": of_timm("tiny_pe", "map", None),
    "Tiny-EVA02": of_timm("tiny_eva02", "token", None),
    "Tiny-EVA02-E": of_timm("tiny_eva_post_norm", "token", None),
    "Tiny-MobileCLIP-B": of_timm("tiny_mobileclip", "token", None),
    "Tiny-ViTamin": of_timm("tiny_vitamin", "", "linear"),
    "Tiny-CLIPA": {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": NATIVE,
            "layers": 4,
            "width": 64,
            "head_width": 32,
            "patch_size": 16,
            "no_ln_pre": True,
            "pool_type": "avg",
            "final_ln_after_pool": True,
        },
        "text_cfg": CAUSAL,
    },
}
_FOLDER = Path(mkdtemp(prefix="afr_clip_towers_"))
for _name, _config in CLIPS.items():
    (_FOLDER / f"{_name}.json").write_text(json.dumps(_config))
open_clip.add_model_config(_FOLDER)

WITH_TEXT = ("afr-clip-tiny", *CLIPS)
WITHOUT_TEXT = ("timm:tiny_dinov2", "timm:tiny_dinov3", "timm:tiny_mixed_rope", "timm:tiny_siglip", "timm:tiny_pe")
KINDS = (*WITH_TEXT, *WITHOUT_TEXT)


def towers_of(kind: str, *, needs_cnn: bool = False, **changes: Any) -> Towers:
    """Random towers of a kind, all of whose weights matter.

    timm starts class tokens and the scales of layers near zero, where mistakes would not show.
    """
    quick_gelu = kind == "afr-clip-tiny"
    changes = {"name": kind, "architecture": kind, "quick_gelu": quick_gelu, "image_size": SIZE} | changes
    towers = load_towers(replace(TINY, **changes), needs_cnn=needs_cnn)
    with torch.no_grad():
        for seed, parameter in enumerate(towers.backbone.clip.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return towers
