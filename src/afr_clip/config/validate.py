"""Check a whole config before anything is built: targets bound to signatures, ranges, rules across keys."""

import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from afr_clip.config.methods import declared_by, package_of, settings_node
from afr_clip.models.method_settings import MethodSettings

_HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}

_SETTINGS = ("backbone", "dataset.drawn")
"""Nodes whose targets check their own ranges and need neither torch nor anything but the config, as a method's do."""

_POSITIVE = (
    "data.batch_size",
    "data.eval_batch_size",
    "trainer.max_epochs",
    "trainer.accumulate_grad_batches",
    "trainer.log_every_n_steps",
    "optimizer.lr",
    "num_threads",
    "figure_every_n_epochs",
    "logger.tensorboard.flush_secs",
)
_NOT_NEGATIVE = (
    "data.num_workers",
    "num_figures",
    "seed",
    "optimizer.weight_decay",
    "loss.image_weight",
    "loss.focal_weight",
    "loss.dice_weight",
    "loss.complement_weight",
    "loss.focal_gamma",
    "loss.image_gamma",
)
_PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "auto")
_STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")
_FEATURE_DTYPES = ("float32", "float16")
_SHARE = ("data.mosaic",)


class ConfigError(ValueError):
    """A config whose values contradict each other or what they configure."""


class MissingKeyError(ConfigError):
    """A key without a value, which only the command line can give."""


def validate(config: DictConfig) -> None:
    """Check a composed config and report everything that is wrong with it at once.

    Args:
        config: The composed config of a command.

    Raises:
        MissingKeyError: If a key has no value; one sentence per key.
        ConfigError: If anything else is wrong; one sentence per fault.
    """
    untrainable = list(_untrainable(config))
    if untrainable:
        raise ConfigError(_sentences(untrainable))
    missing = list(_missing(config))
    if missing:
        raise MissingKeyError(_sentences(missing))
    # Binding imports torch, which takes seconds; what can be said without it is said first.
    for check in (_without_imports, _unbound):
        faults = list(check(config))
        if faults:
            raise ConfigError(_sentences(faults))


def _without_imports(config: DictConfig) -> Iterator[str]:
    yield from _ranges(config)
    yield from _rules(config)
    yield from _refused_by_settings(config)


def _sentences(faults: list[str]) -> str:
    return faults[0] if len(faults) == 1 else f"The config has {len(faults)} faults:\n- " + "\n- ".join(faults)


def _untrainable(config: DictConfig) -> Iterator[str]:
    method = _declared(config)
    if "loss" in config and method is not None and not method.trains:
        name = config.module.name
        yield (
            f"module must be a method that learns, got {name}, which has nothing to train. "
            f"Run python -m afr_clip.evaluate module={name} dataset=NAME."
        )


def _missing(config: DictConfig) -> Iterator[str]:
    # A group that was not chosen lacks every one of its keys, and is to be named once.
    keys = {"recipe" if key.split(".")[0] in _OF_RECIPE else key for key in OmegaConf.missing_keys(config)}
    missing = {key.removesuffix(".name") for key in keys} - _OF_UNCHOSEN
    method = _declared(config)
    if (method is not None and not method.trains) or _value(config, "module.network.released_weights"):
        missing -= {"checkpoint"}
    for key in sorted(missing - {"dataset"} if _value(config, "protocol.legs") else missing):
        yield f"{key} must be given, got nothing. Add {key}=VALUE to the command."


_OF_RECIPE = {"loss", "optimizer", "schedule"}
_OF_UNCHOSEN = {"dataset.layout", "dataset.root", "dataset.categories", "dataset.drawn"}


def _ranges(config: DictConfig) -> Iterator[str]:
    kinds: tuple[tuple[str, tuple[str, ...], Callable[[float], bool]], ...] = (
        ("positive", _POSITIVE, lambda value: value > 0),
        ("0 or more", _NOT_NEGATIVE, lambda value: value >= 0),
        ("from 0 to 1", _SHARE, lambda value: 0 <= value <= 1),
    )
    for wanted, keys, holds in kinds:
        for key in keys:
            value = _value(config, key)
            if value is not None and not holds(value):
                yield f"{key} must be {wanted}, got {value}. Change {key}=VALUE."


def _rules(config: DictConfig) -> Iterator[str]:
    yield from _protocol_rules(config)
    yield from _feature_cache_rules(config)
    precision = _value(config, "trainer.precision")
    if precision not in _PRECISIONS:
        yield f"trainer.precision must be one of {', '.join(_PRECISIONS)}, got {precision}. Scores are float32 always."
    yield from _process_rules(config)
    if _value(config, "requeue") and _value(config, "run_dir") is None:
        yield "run_dir must be given where requeue=true, to be found again by the requeued job. Add run_dir=DIR."
    category = _value(config, "category")
    if category is not None and not category.strip():
        yield f"category must say what the images show, got {category!r}. Use words, for example category='metal nut'."
    categories = _value(config, "dataset.categories")
    if categories is not None and not categories:
        yield "dataset.categories must name at least one category, got none. Use null for all."


def _process_rules(config: DictConfig) -> Iterator[str]:
    numbers = {key: _value(config, key) for key in ("trainer.devices", "trainer.num_nodes")}
    for key, value in numbers.items():
        if not (str(value).isdecimal() and int(value) > 0):
            yield f"{key} must be a number from 1 on, got {value}. Write how many processes are to be started."
            return
    num_processes = math.prod(map(int, numbers.values()))
    if num_processes == 1:
        return
    strategy = _value(config, "trainer.strategy")
    if strategy not in _STRATEGIES:
        yield (
            f"trainer.strategy must be one of {', '.join(_STRATEGIES)} where there are several processes, "
            f"got {strategy}. Use ddp."
        )
    if "images" in config:
        yield (
            f"trainer.devices and trainer.num_nodes must be 1 where photographs are scored, got {numbers}. "
            f"Leave them out, or score a dataset with python -m afr_clip.evaluate."
        )
    batch_size = _value(config, "data.batch_size")
    if "loss" in config and batch_size is not None and batch_size < num_processes:
        yield (
            f"data.batch_size counts the images of all processes, so it must be at least their number, "
            f"{num_processes}, got {batch_size}. Raise data.batch_size, or start fewer processes."
        )


def _feature_cache_rules(config: DictConfig) -> Iterator[str]:
    dtype = _value(config, "data.feature_dtype")
    if dtype not in _FEATURE_DTYPES:
        yield f"data.feature_dtype must be one of {', '.join(_FEATURE_DTYPES)}, got {dtype}. float32 loses nothing."
    if not _value(config, "data.feature_cache"):
        if dtype == "float16":  # whether there is a cache may change on resume, and only float32 changes no number
            yield "data.feature_dtype must be float32 without data.feature_cache=true, got float16. Leave it out."
        return
    if "loss" not in config:
        yield "data.feature_cache must be false where nothing is trained, got true. Leave data.feature_cache out."
        return
    for key, plain in (("augment", False), ("mosaic", 0.0)):
        value = _value(config, f"data.{key}")
        if value != plain:
            yield (
                f"data.{key} must be {plain} with data.feature_cache=true, got {value}: pictures that differ in every "
                f"epoch cannot be kept. Leave one of them out."
            )
    try:
        settings: MethodSettings = instantiate(settings_node(config.module.network), _convert_="all")
    except Exception:  # said by _refused_by_settings or _unbound
        return
    if not settings.has_frozen_taps:
        advice = "Add ablation=no_sp, or leave" if hasattr(settings, "self_prompting") else "Leave"
        yield (
            f"data.feature_cache=true needs an image tower that reads nothing that learns, and module="
            f"{config.module.name} puts prompts into it. {advice} data.feature_cache out."
        )


def _protocol_rules(config: DictConfig) -> Iterator[str]:
    targets = list(_value(config, "protocol.targets") or [])
    legs = {name: list(scored) for name, scored in (_value(config, "protocol.legs") or {}).items()}
    if legs:
        yield from _leg_rules(config, legs, targets)
    lists = {"protocol.targets": targets} | {f"protocol.legs.{name}": scored for name, scored in legs.items()}
    for key, scored in lists.items():
        for repeated in {name for name in scored if scored.count(name) > 1}:
            yield f"{key} must name a dataset once, got {repeated} twice. Remove one."
    kind, given = ("legs", str(legs)) if legs else ("targets", str(targets))
    named = legs.keys() | {name for scored in lists.values() for name in scored}
    for key in ("roots", "categories"):
        for name in (_value(config, f"protocol.{key}") or {}).keys() - named:
            yield f"protocol.{key} must be about protocol.{kind}={given}, got {name}. Add it to the {kind}."


def _leg_rules(config: DictConfig, legs: Mapping[str, list[str]], targets: list[str]) -> Iterator[str]:
    if targets:
        yield (
            f"protocol.legs and protocol.targets exclude each other, got both; the targets are {targets}. "
            f"Leave the targets out, or choose protocol=no_targets."
        )
    chosen = [f"dataset.{key}={value}" for key in config.dataset if (value := _value(config, f"dataset.{key}"))]
    if chosen:
        yield (
            f"dataset must not be chosen where protocol.legs name what is trained on, got {chosen[0]}. Leave it out, "
            f"or take it away with ~dataset; protocol.roots and protocol.categories are for auxiliary datasets too."
        )
    for auxiliary, scored in legs.items():
        if auxiliary in scored:
            yield f"protocol.legs.{auxiliary} must not score what its model is trained on, got {scored}. Take it out."


def _unbound(config: DictConfig) -> Iterator[str]:
    for path, node in _targets(config, ""):
        try:
            parameters = inspect.signature(pkgutil.resolve_name(node._target_)).parameters
        except (ImportError, ValueError, AttributeError, TypeError) as error:
            yield f"{path}._target_ must name something callable, got {node._target_} ({error}). Check its spelling."
            continue
        given = {str(key) for key in node} - _HYDRA_KEYS
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        for key in sorted(given - parameters.keys()) if not takes_any else ():
            yield f"{path}.{key} must be an argument of {node._target_}, and is not. It takes {', '.join(parameters)}."


def _targets(node: DictConfig, path: str) -> Iterator[tuple[str, DictConfig]]:
    if "_target_" in node:
        yield path, node
    for key in map(str, node):
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from _targets(child, f"{path}.{key}" if path else key)


def _refused_by_settings(config: DictConfig) -> Iterator[str]:
    for path in _SETTINGS:
        node = OmegaConf.select(config, path)
        if node is not None:
            yield from _refused(node)
    network = config.module.network
    parts = [network[key] for key in network if OmegaConf.is_dict(network[key]) and "_target_" in network[key]]
    refused = [sentence for part in parts for sentence in _refused(part)]
    yield from refused
    if not refused and _declared(config) is not None:  # otherwise only the first of its parts would be heard
        yield from _refused(settings_node(network))


def _refused(node: DictConfig) -> Iterator[str]:
    try:
        instantiate(node, _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, ValueError):  # an unknown target or key is said by _unbound, which names the key
            yield str(cause)


def _declared(config: DictConfig) -> type[MethodSettings] | None:
    try:
        return declared_by(package_of(config.module.network))
    except (ImportError, ValueError, AttributeError, OmegaConfBaseException):
        return None  # said by _missing or _unbound


def _value(config: DictConfig, key: str) -> Any:  # noqa: ANN401 - config values of any type
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return None
