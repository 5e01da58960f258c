"""The methods: one per folder of ``models/``, with config keys read off the settings that each declares."""

import pkgutil
from collections.abc import Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass
from functools import reduce
from importlib.util import find_spec
from operator import or_
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig

from afr_clip.models.method_settings import MethodSettings


def method_names() -> list[str]:
    """Name the folders of ``models/``."""
    models = find_spec("afr_clip.models")
    assert models is not None, "the package has a folder of that name"
    return [module.name for module in pkgutil.iter_modules(models.submodule_search_locations) if module.ispkg]


def declared_by(package: str) -> type[MethodSettings]:
    """Find what a method declares, without importing its network.

    Args:
        package: The method's folder, for example ``"afr_clip.models.afr_clip"``.

    Returns:
        ``PACKAGE.settings.NetworkSettings``.

    Raises:
        ImportError: If there is no such module.
        AttributeError: If there is no such class in it.
    """
    settings: type[MethodSettings] = pkgutil.resolve_name(f"{package}.settings:NetworkSettings")
    return settings


def package_of(network: DictConfig) -> str:
    """Name the folder of a method: its ``_target_`` is ``PACKAGE.network.CLASS``."""
    return str(network._target_).rsplit(".", 2)[0]


def settings_node(network: DictConfig) -> DictConfig:
    """Turn the node of a network into that of its settings, which can be built without the towers.

    Args:
        network: ``module.network``.

    Returns:
        A copy with another ``_target_``.
    """
    node = network.copy()
    node._target_ = f"{package_of(network)}.settings.NetworkSettings"
    return node


def schema_of(settings: type, bases: tuple[type, ...] = ()) -> type:
    """Derive the schema of a config node from the settings that it becomes.

    Args:
        settings: A dataclass.
        bases: What the schema derives from.

    Returns:
        A dataclass with ``_target_`` and the same keys, none of which has a value.
    """
    hints = get_type_hints(settings)
    keys: list[Any] = [("_target_", str, field(default=MISSING))]
    for key in fields(settings):
        kind = _node_type(hints[key.name])
        is_node = isinstance(kind, type) and is_dataclass(kind)
        keys.append((key.name, kind, field(default_factory=kind) if is_node else field(default=MISSING)))
    return make_dataclass(f"{settings.__name__}Node", keys, bases=bases)


def _node_type(hint: Any) -> Any:  # noqa: ANN401 - type hints share no type
    if isinstance(hint, UnionType):
        return reduce(or_, map(_node_type, get_args(hint)))
    if get_origin(hint) is Sequence:
        return list[get_args(hint)]  # type: ignore[misc]
    return schema_of(hint) if isinstance(hint, type) and is_dataclass(hint) else hint
