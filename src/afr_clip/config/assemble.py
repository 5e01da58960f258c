"""From config nodes to objects. Below the commands nothing sees a config."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf


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


def compose_dataset(name: str) -> DictConfig:
    """Read ``conf/dataset/NAME.yaml`` with its schema, as ``dataset=NAME`` would.

    Args:
        name: The dataset's config name.

    Returns:
        The node.
    """
    return compose("dataset_only", overrides=[f"dataset={name}"]).dataset


def optional_path(value: str | None) -> Path | None:
    """Return a path, or ``None`` where none is configured."""
    return None if value is None else Path(value)


Factory = Callable[..., Any]
