"""From a composed config to typed values; all faults are reported at once, before torch is loaded."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from afr_clip.config.nodes import (
    CalibrateConfig,
    CommandConfig,
    DiagnoseConfig,
    ExportConfig,
    PredictConfig,
    TrainConfig,
)
from afr_clip.inspection.settings import HINTS_NEED_TEXT
from afr_clip.models.method_settings import MethodSettings

Typed = TypeVar("Typed", bound=CommandConfig)

_ADVICE = {
    "images": "Write images=FOLDER, or name photographs: afr-clip predict a.jpg b.jpg category=WORDS.",
    "categories": "Write categories=['metal nut'], or a list [a,b].",
    "category": "Say in words what the photographs show: category='metal nut'.",
    "checkpoint": "Write checkpoint=RUN for the folder of a training, or checkpoint=pocket for the model that ships "
    "with the package.",
    "dataset": "Write dataset=NAME, for example dataset=mvtec_ad, or dataset=folder dataset.root=DIR for your own.",
}
"""What to write for a key that has no value."""

_OF_RECIPE = {"loss", "optimizer", "schedule"}


class ConfigError(ValueError):
    """A config whose values contradict each other or what they configure."""


class MissingKeyError(ConfigError):
    """A key without a value, which only the command line can give."""


def read(config: DictConfig, kind: type[Typed]) -> Typed:
    """Check a composed config and turn it into typed values.

    Args:
        config: The composed config of a command.

    Returns:
        The values; ``dataset`` and ``checkpoint`` are ``None`` if the command needs none.

    Raises:
        MissingKeyError: If a key has no value; one sentence per key.
        ConfigError: If anything else is wrong; one sentence per fault.
    """
    network = OmegaConf.get_type(config.module, "network")
    method = network if isinstance(network, type) and issubclass(network, MethodSettings) else None
    if issubclass(kind, TrainConfig) and method is not None and not method.trains:
        name = config.module.name
        msg = (
            f"module={name} has nothing to train. Run afr-clip evaluate module={name} dataset=NAME, or choose a method "
            f"that learns."
        )
        raise ConfigError(msg)
    config = config.copy()
    needs_none = issubclass(kind, ExportConfig) or (issubclass(kind, TrainConfig) and config.protocol.legs)
    if needs_none and is_unchosen(config.dataset):
        config.dataset = None
    released = OmegaConf.select(config, "module.network.released_weights", default=None)
    if method is not None and (not method.trains or released) and OmegaConf.is_missing(config, "checkpoint"):
        config.checkpoint = None
    missing = set()
    for key in OmegaConf.missing_keys(config):
        group = key.split(".")[0]
        missing.add("recipe" if group in _OF_RECIPE else group if is_unchosen(config._get_node(group)) else key)
    if missing:
        faults = [
            f"{key} must be given, got nothing. {_ADVICE.get(key, f'Add {key}=VALUE.')}" for key in sorted(missing)
        ]
        raise MissingKeyError(sentences(faults))
    faults = [*_faults(config), *_faults_of_command(config, kind)]
    if not faults:
        typed = OmegaConf.to_object(config)
        assert isinstance(typed, kind), "each command starts from its schema"
        faults = list(_rules(typed))
        if not faults:
            return typed
    raise ConfigError(sentences(faults))


def sentences(faults: list[str]) -> str:
    """Write faults as one sentence, or as a list."""
    return faults[0] if len(faults) == 1 else f"The config has {len(faults)} faults:\n- " + "\n- ".join(faults)


def is_unchosen(node: object) -> bool:
    """Whether a group was not chosen: none of its keys has a value."""
    return isinstance(node, DictConfig) and all(OmegaConf.is_missing(node, key) for key in node)


def _children(node: DictConfig) -> Iterator[DictConfig]:
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing()):
            yield child


def _faults(node: DictConfig) -> Iterator[str]:
    """Yield the faults that the classes of the nodes below a node find in their values, innermost first."""
    for child in _children(node):
        inner = list(_faults(child))
        yield from inner
        kind = OmegaConf.get_type(child)
        if inner or not is_dataclass(kind):
            continue
        known = [field.name for field in fields(kind)]
        path = child._get_full_key(None)
        endless = list(_not_finite(child, path))
        yield from endless
        if endless:
            continue
        unknown = [str(key) for key in child if key not in known]  # added with +
        for key in unknown:
            yield f"{path}.{key} is not a key of {path}, which has {', '.join(known)}. Leave it out."
        if unknown:
            continue
        try:
            OmegaConf.to_object(child)
        except OmegaConfBaseException:
            raise  # an interpolation that leads nowhere; the error names its key
        except ValueError as error:
            yield from (_with_whole_key(line, path, known) for line in str(error).splitlines())


def _with_whole_key(fault: str, path: str, known: list[str]) -> str:
    """Begin a fault with the key as it is typed, where a class knows only its end."""
    node, _, key = fault.split(" ", 1)[0].rpartition(".")
    if key in known and node != path and (not node or path.endswith(f".{node}")):
        return f"{path}.{key}{fault[len(node) + len(key) + bool(node) :]}"
    return fault


def _not_finite(node: DictConfig, path: str) -> Iterator[str]:
    for key in map(str, node):
        value: Any = None if OmegaConf.is_missing(node, key) else node[key]
        for one in value if isinstance(value, ListConfig) else [value]:
            if isinstance(one, float) and not math.isfinite(one):
                yield f"{path}.{key} must be a finite number, got {one}. Change {path}.{key}=VALUE."


def _faults_of_command(config: DictConfig, kind: type[CommandConfig]) -> Iterator[str]:
    """Yield the faults in the command's own values, which can be checked even if a node below is wrong."""
    command = object.__new__(kind)
    vars(command).update({str(key): config[key] for key in config})
    try:
        command.__post_init__()
    except ValueError as error:
        yield from str(error).splitlines()


def _rules(config: CommandConfig) -> Iterator[str]:
    """Yield the contradictions between nodes."""
    if isinstance(config, TrainConfig) and config.protocol.legs and config.dataset is not None:
        yield (
            f"dataset must not be set if protocol.legs name the training datasets, got {config.dataset.name}. Leave it "
            f"out, or remove it with ~dataset. protocol.roots and protocol.categories apply to legs too."
        )
    yield from _feature_cache_rules(config)
    if isinstance(config, TrainConfig) and config.trainer.max_epochs < config.module.network.fewest_epochs:
        yield (
            f"trainer.max_epochs must be at least {config.module.network.fewest_epochs} for module="
            f"{config.module.name}, which trains its parts one after the other, got {config.trainer.max_epochs}. "
            f"Raise it, or give fewer epochs to the first part."
        )
    if isinstance(config, PredictConfig) and config.defects is not None and not config.backbone.has_text:
        yield HINTS_NEED_TEXT
    num_processes = config.trainer.num_processes
    if num_processes > 1 and isinstance(config, CalibrateConfig | DiagnoseConfig | ExportConfig):
        command = type(config).__name__.removesuffix("Config").lower()  # task_name may be changed
        yield (
            f"{command} runs in one process, got trainer.devices={config.trainer.devices} and "
            f"trainer.num_nodes={config.trainer.num_nodes}. Leave them out."
        )
    elif isinstance(config, TrainConfig) and num_processes > 1 and config.module.network.needs_whole_batch:
        yield (
            f"module={config.module.name} normalises over all images of a batch, so it trains in one process, got "
            f"trainer.devices={config.trainer.devices} and trainer.num_nodes={config.trainer.num_nodes}. Leave them "
            f"out; evaluate and predict may have several."
        )
    elif isinstance(config, TrainConfig) and config.data.batch_size < num_processes:
        yield (
            f"data.batch_size counts the images of all processes, so it must be at least their number, "
            f"{num_processes}, got {config.data.batch_size}. Raise data.batch_size, or start fewer processes."
        )


def _feature_cache_rules(config: CommandConfig) -> Iterator[str]:
    data = config.data
    if not data.feature_cache:
        if (
            data.feature_dtype == "float16"
        ):  # whether there is a cache may change on resume; only float32 changes nothing
            yield "data.feature_dtype must be float32 without data.feature_cache=true, got float16. Leave it out."
        return
    if not isinstance(config, TrainConfig):
        yield "data.feature_cache must be false where nothing is trained, got true. Leave data.feature_cache out."
        return
    for key, plain in (("augment", False), ("mosaic", 0.0)):
        value = getattr(data, key)
        if value != plain:
            yield (
                f"data.{key} must be {plain} with data.feature_cache=true, got {value}: pictures that differ in every "
                f"epoch cannot be cached. Leave one of the two out."
            )
    if not config.module.network.has_frozen_taps:
        advice = "Add ablation=no_sp, or leave" if hasattr(config.module.network, "self_prompting") else "Leave"
        yield (
            f"data.feature_cache=true needs an image tower whose output no trained part changes, and module="
            f"{config.module.name} puts learned parts into it. {advice} data.feature_cache out."
        )
