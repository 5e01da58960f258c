"""What people call a setting: words for the values of config keys, and for the files that set them."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import yaml

from afr_clip.reports.compare.paper import FULL, label_of

ANY = "*"

WORDS: Mapping[str, Mapping[str, str] | str] = {
    "backbone.image_size": "{} px",
    "backbone.other_activation": {"false": "", "true": "other GELU"},
    "backbone.tap_layers": "taps {}",
    "module.category_names": {"words": "names in words", "raw": "names as spelt"},
    "module.network.shots": {"0": "zero-shot", ANY: "few-shot ({})"},
    "module.network.mpfa_window": {"3": "", "1": "no MPFA", ANY: "MPFA over {0} x {0}"},
    "module.network.cmfr.enabled": {"true": "", "false": "no CMFR"},
    "module.network.cmfr.inner_dim": "CMFR width {}",
    "module.network.cmfr.kernel_size": {"1": "", ANY: "CMFR {0} x {0}"},
    "module.network.cmfr.shared": {"false": "", "true": "shared CMFR"},
    "module.network.cmfr.symmetric": {"false": "", "true": "symmetric CMFR"},
    "module.network.self_prompting.enabled": {"true": "", "false": "no SP"},
    "module.network.self_prompting.image_prompt": {"true": "", "false": "no P_v"},
    "module.network.self_prompting.shared_prompt": {"true": "", "false": "no P_l"},
    "module.network.self_prompting.num_prompts": "{} prompts",
    "module.network.self_prompting.stages": "SP in stages {}",
    "module.network.self_prompting.placement": {"replace": "", ANY: "SP: {}"},
    "module.network.tap_ln_post": {"false": "", "true": "taps after ln_post"},
    "module.network.adapters.kind": {"linear": "", ANY: "{} adapters"},
    "module.network.adapters.standardised_patches": {"false": "", "true": "standardised patches"},
    "module.network.adapters.unit_tokens": {"false": "", "true": "unit tokens"},
    "module.network.prompts.style": "prompts: {}",
    "module.network.prompts.object_agnostic": {"false": "", "true": "object-agnostic"},
    "module.network.prompts.universal_prototypes": {"false": "", "true": "universal prototypes"},
    "module.network.prompts.normalised": {"true": "", "false": "raw text"},
    "module.network.scoring.temperature": "tau {}",
    "module.network.scoring.learnable_temperature": {"false": "", "true": "tau learned"},
    "module.network.scoring.image_score": {"class_token": "", ANY: "score: {}"},
    "module.network.scoring.smoothing_sigma": {"0.0": "not smoothed", ANY: "smoothed by {} px"},
    "module.network.scoring.align_corners": {"false": "", "true": "aligned corners"},
    "module.network.scoring.softmax_after_upsampling": {"false": "", "true": "softmax after upsampling"},
    "module.network.scoring.mean_class_logits": {"false": "", "true": "mean class logits"},
    "module.network.scoring.trained_maps": {"mean": "", "stages": "loss on every stage"},
    "loss.image_weight": {"1.0": "", "0.0": "no image loss", ANY: "image loss x {}"},
    "loss.focal_weight": {"1.0": "", "0.0": "no focal loss", ANY: "focal loss x {}"},
    "loss.dice_weight": {"1.0": "", "0.0": "no Dice loss", ANY: "Dice loss x {}"},
    "loss.complement_weight": {"1.0": "", "0.0": "no complement loss", ANY: "complement loss x {}"},
    "optimizer.name": "{}",
    "optimizer.lr": "lr {}",
    "optimizer.weight_decay": {"0.0": "", ANY: "weight decay {}"},
    "schedule.name": "{} schedule",
    "data.batch_size": "batch {}",
    "data.augment": {"false": "not augmented", "true": "augmented"},
    "data.mosaic": {"0.0": "", ANY: "mosaic {}"},
    "epochs": "{} epochs",
    "trainer.precision": "trained in {}",
    "trainer.precision in scoring": "scored in {}",
    "backbone.fingerprint": "frozen weights {:.8}",
}
"""Words for a value, where ``{}`` is the value, by config key. The usual value has none: names leave it out."""


BY_DATASET = "by dataset"
"""Stands for a value that a recipe chooses by the dataset that is trained on."""


def as_typed(value: object) -> str:
    """Write a plain value as on the command line.

    Example:
        >>> as_typed(True), as_typed([1, 2]), as_typed("cosine"), as_typed(0.07)
        ('true', '[1, 2]', 'cosine', '0.07')
    """
    return json.dumps(value).replace('"', "")


def describe_value(key: str, value: object) -> str:
    """Put a value of a config key in words; a key without words is named by its last two parts.

    Example:
        >>> describe_value("module.network.cmfr.enabled", False), describe_value("module.network.cmfr.enabled", True)
        ('no CMFR', '')
        >>> describe_value("module.network.scoring.temperature", 0.07)
        'tau 0.07'
        >>> describe_value("module.network.fusion.weight", 0.2)
        'fusion.weight=0.2'
    """
    if value == BY_DATASET:
        return f"{key.rsplit('.', maxsplit=1)[-1]} by dataset"
    typed, words = as_typed(value), WORDS.get(key)
    if isinstance(words, Mapping):
        words = words.get(typed, words.get(ANY))
    return f"{'.'.join(key.split('.')[-2:])}={typed}" if words is None or value is None else words.format(typed)


def is_usual(key: str, value: object) -> bool:
    """Whether a value is the usual one of its key, which is left out of names."""
    return key in WORDS and describe_value(key, value) == ""


def has_usual(key: str) -> bool:
    """Whether a key has a value that is left out of names."""
    words = WORDS.get(key)
    return isinstance(words, Mapping) and "" in words.values()


def describe_choices(choices: Mapping[str, Any]) -> Iterator[str]:
    """Name the files of ``experiment``, ``recipe`` and ``ablation`` that a run chose, without those of every run."""
    for group in ("experiment", "recipe", "ablation"):
        chosen = choices.get(group)
        for name in chosen if isinstance(chosen, list) else [chosen]:
            if name not in (None, FULL, choices.get("module")):
                yield f"{group} {name}" if group != "ablation" else label_of(str(name))


def describe_setting(name: str) -> str:
    """Put the name that a sweep gave a setting in words: files of ``ablation``, or what was typed.

    Example:
        >>> describe_setting("no_sp+reading_raw_text")
        'no SP, raw text'
        >>> describe_setting("optimizer.lr=0.01,module.network.mpfa_window=1")
        'lr 0.01, no MPFA'
    """
    if "=" not in name:
        return label_of(name)
    return ", ".join(filter(None, map(_describe_override, re.split(r",(?=[\w.]+=)", name)))) or name


def _describe_override(override: str) -> str:
    key, _, value = override.partition("=")
    with suppress(yaml.YAMLError):  # a name may be anything
        return describe_value(key, yaml.safe_load(value)) if key in WORDS else override
    return override
