"""What a recorded config says about the numbers of a run, in one flat form for records of any version."""

from collections.abc import Iterator, Mapping
from typing import Any

WITHOUT_INFLUENCE = {
    *("label", "every_epoch", "keep_every_epoch", "resume", "requeue"),
    *("run_dir", "data_dir", "drawn_dir", "cache_dir", "num_threads"),
    *("save_maps", "map_format", "published_pro", "pixel_threshold", "formats", "xlsx"),
    *("workers", "shard_size", "ray_address", "num_figures", "figure_every_n_epochs", "activation_checkpointing"),
    *("data.num_workers", "data.cache", "data.feature_cache", "data.eval_batch_size", "data.max_pixels"),
    "dataset.root",
    *("trainer.log_every_n_steps", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
}
"""Keys that change at most the last bits of the weights. Images and frozen weights are compared by content instead."""

_NAMED_BY_TARGET = {
    "optimizer": {"torch.optim.Adam": "adam", "torch.optim.AdamW": "adamw"},
    "schedule": {
        "afr_clip.training.schedule.constant": "constant",
        "afr_clip.training.schedule.cosine": "cosine",
        "afr_clip.training.schedule.inverse_epoch": "inverse_epoch",
    },
}
"""Version 0.1 recorded these two choices as an import path in ``_target_``; today they are the key ``name``."""


_WITHOUT_KEY: dict[str, Any] = {
    "backbone.position_embeddings": "bicubic_antialias",
    "data.mosaic_kind": "by_type",
    "data.mosaic_label": "any",
    "loss.l1_weight": 0.0,
    "loss.alignment_weight": 0.0,
    "loss.separation_weight": 0.0,
    "loss.separation_margin": None,
    "loss.focal_smoothing": 0.0,
    "loss.image_smoothing": 0.0,
    "loss.dice_per": "image",
}
"""Values of keys that a record lacks: the behaviour before the key existed, whatever today's default is."""

_WITHOUT_KEY_OF_METHOD: dict[str, dict[str, Any]] = {
    "afr_clip": {
        "module.network.prompts.universal_prototypes": False,
        "module.network.prompts.normalised": True,
        "module.network.adapters.kind": "linear",
        "module.network.adapters.standardised_patches": False,
        "module.network.adapters.unit_tokens": False,
        "module.network.scoring.align_corners": False,
        "module.network.scoring.softmax_after_upsampling": False,
        "module.network.scoring.mean_class_logits": False,
        "module.network.scoring.trained_maps": "mean",
    },
    "april_gan": {"module.network.released_weights": None},
    "winclip": {"module.network.reference_tokens": "ln_post"},
}
"""The same for keys of one method's network, even if the record lacks the whole node."""


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a recorded config to dotted keys, so that records of all versions compare.

    Hydra's own keys (``_target_`` and the like) are left out: where code lies is no setting. Keys that are newer than
    the record get the value that the record was made with.

    Returns:
        A value for each key; a node without keys has none.

    Example:
        >>> flat({"optimizer": {"_target_": "torch.optim.Adam", "lr": 0.1}, "roots": {}})
        {'optimizer.name': 'adam', 'optimizer.lr': 0.1}
    """
    known = dict(_leaves(config, ""))
    nodes = {key.rpartition(".")[0] for key in known}
    without = {key: value for key, value in _WITHOUT_KEY.items() if key.rpartition(".")[0] in nodes}
    if "module.network" in nodes:
        without |= _WITHOUT_KEY_OF_METHOD.get(known.get("module.name", ""), {})
    if {"images", "good"} & known.keys():  # predict and calibrate
        without |= {"engine": "torch", "runs_on": "local"}
    return without | known


def _leaves(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if key == "_target_" and (names := _NAMED_BY_TARGET.get(path.removesuffix("."))):
            yield f"{path}name", names.get(str(value), value)
        elif key.startswith("_"):
            continue
        elif isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def differing_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the keys in which two recorded configs differ, in alphabetical order."""
    old, new = flat(before), flat(now)
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
