"""From config nodes to objects. Below the commands nothing sees a config."""

import copy
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from afr_clip.config.validate import ConfigError


def build(node: DictConfig, **injected: Any) -> Any:  # noqa: ANN401 - the type is the node's target
    """Build what a node's ``_target_`` names, with plain lists and numbers.

    Args:
        node: The config node.
        **injected: Arguments that no config can hold, for example the frozen towers.

    Returns:
        The object; errors are those of its constructor, unwrapped.
    """
    try:
        if not injected:
            return instantiate(node, _convert_="all")
        # Hydra would turn injected dataclasses into configs, so they are passed after it is done.
        factory = instantiate(node, _convert_="all", _partial_=True)
    except Exception as error:
        # Hydra wraps whatever a constructor raises; the constructor's own sentence is the one to show.
        if type(error).__name__ == "InstantiationException" and isinstance(error.__cause__, Exception):
            raise error.__cause__ from None
        raise
    return factory(**injected)


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a config as nested dictionaries of plain values, interpolations resolved, enums by name."""
    return OmegaConf.to_container(config, resolve=True, enum_to_str=True)  # type: ignore[return-value]


def compose_group(group: str, name: str) -> DictConfig:
    """Read ``conf/GROUP/NAME.yaml`` with its schema, as ``GROUP=NAME`` would.

    Args:
        group: A config group.
        name: One of its files.

    Returns:
        The node.

    Raises:
        ConfigError: If there is no such file.
    """
    known = group_options(group)
    if name not in known:
        msg = f"{group} must be one of {', '.join(known)}, got {name}. A file of your own is found with --config-dir."
        raise ConfigError(msg)
    # A method's file says what it stands on, so it is composed where there is a backbone.
    return compose("evaluate", overrides=[f"{group}={name}"])[group]


def group_options(group: str) -> list[str]:
    """Name the files of a config group."""
    options = GlobalHydra.instance().config_loader().get_group_options(group)
    return [option for option in options if option != "schema"]


def compose_target(name: str, protocol: DictConfig, auxiliary: DictConfig | None = None) -> DictConfig:
    """Make the dataset node of a target: ``conf/dataset/NAME.yaml``, or a folder of the user's own under that name.

    Args:
        name: An entry of ``protocol.targets``, or of ``protocol.legs``.
        protocol: Its ``roots`` and ``categories`` go into the node.
        auxiliary: What is trained on; a target of that name is other categories of the same files.

    Returns:
        The node.

    Raises:
        ConfigError: If there is no such config and no root for it.
    """
    if auxiliary is not None and auxiliary.name == name:
        node = copy.deepcopy(auxiliary)
        node.categories = None
    else:
        node = _chosen_dataset(name, protocol)
    node.name = name
    node.root = protocol.roots.get(name, node.root)
    node.categories = protocol.categories.get(name, node.categories)
    return node


def _chosen_dataset(name: str, protocol: DictConfig) -> DictConfig:
    known = group_options("dataset")
    if name not in known and name not in protocol.roots:
        msg = (
            f"protocol.targets must name datasets ({', '.join(known)}), got {name}. For a folder of your own under "
            f"that name add +protocol.roots.{name}=DIR."
        )
        raise ConfigError(msg)
    return compose_group("dataset", name if name in known else "folder")


def compose_leg(auxiliary: str, config: DictConfig) -> DictConfig:
    """Make the config of one leg of a protocol: the one that ``dataset=`` and ``protocol.targets=`` would compose.

    Args:
        auxiliary: A key of ``protocol.legs``.
        config: The config that has the legs.

    Returns:
        A copy without legs, with that dataset and its targets.

    Raises:
        ConfigError: If there is no such dataset, and no root for it.
    """
    protocol, targets = config.protocol, list(config.protocol.legs[auxiliary])
    leg = copy.deepcopy(config)
    leg.dataset = compose_target(auxiliary, protocol)
    leg.protocol.legs, leg.protocol.targets = {}, targets
    for key in ("roots", "categories"):
        leg.protocol[key] = {name: value for name, value in protocol[key].items() if name in targets}
    return leg


def optional_path(value: str | None) -> Path | None:
    """Return a path, or ``None`` where none is configured."""
    return None if value is None else Path(value)
