"""The model that a checkpoint was trained with, from its recorded config; needs OmegaConf but not Hydra."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from afr_clip.clip.settings import BackboneSettings
from afr_clip.config.nodes import config_dir, known_methods, module_schema
from afr_clip.config.validate import ConfigError
from afr_clip.files import shown
from afr_clip.models.method_settings import ModuleSettings

FILES = ("backbone.weights", "backbone.cnn.weights", "module.network.released_weights")
"""Keys that name files. A file that only a checkpoint names is not read: it may come from a stranger."""


PACKAGED_CHECKPOINTS = {
    "pocket": "package:afr_clip/pocket/demo.ckpt",
    "pocket_names": "package:afr_clip/pocket/names.ckpt",
}
"""Checkpoints that ship with the package, by name; the second was also trained where the name decides."""


def named_checkpoint(name: str) -> str:
    """Return the place that ``checkpoint=`` names: a file, or one that ships with the package."""
    return name if os.path.lexists(name) else PACKAGED_CHECKPOINTS.get(name, name)


def recorded_model(
    recorded: Mapping[str, Any], files: Mapping[str, str] | None = None
) -> tuple[BackboneSettings, ModuleSettings]:
    """Restore the settings of a trained model; a key that is newer than the record has today's default.

    Args:
        recorded: The config in a checkpoint.
        files: What the caller says of `FILES`.

    Raises:
        ConfigError: If this version cannot build the model, or the record names a file that the caller did not.
    """
    files = files or {}
    restored = []
    for group in ("backbone", "module"):
        name = recorded[group]["name"]
        if group == "module" and name not in known_methods():
            msg = (
                f"The checkpoint was trained with module={shown(name)}, which this version does not have. If a package "
                f"brings that method, install it."
            )
            raise ConfigError(msg)
        node = restored_group(group, known_group(group, name), recorded[group], files)
        for key, value in files.items():
            if key.startswith(f"{group}."):
                OmegaConf.update(node, key.removeprefix(f"{group}."), value)
        try:
            restored.append(OmegaConf.to_object(node))
        except (OmegaConfBaseException, ValueError) as error:
            raise _cannot_build(group, error) from error
    backbone, module = restored
    assert isinstance(backbone, BackboneSettings), "as its schema is"
    assert isinstance(module, ModuleSettings), "as its schema is"
    return backbone, module


def restored_group(group: str, known: Any, recorded: Any, named: Collection[str]) -> Any:  # noqa: ANN401 - config nodes
    """Put what a checkpoint recorded into a group as this version knows it.

    Args:
        known: The group as the package ships it.
        named: The keys that were typed or passed, see `FILES`.

    Raises:
        ConfigError: If it does not fit, or the checkpoint alone names a file.
    """
    try:
        node = OmegaConf.merge(known, plain_values(recorded))
    except OmegaConfBaseException as error:
        raise _cannot_build(group, error) from error
    _refuse_foreign_files(group, node, known, named)
    return node


def _cannot_build(group: str, error: Exception) -> ConfigError:
    fault = str(error).splitlines()[0]
    return ConfigError(f"The checkpoint was trained with a {group} that this version cannot build: {fault}.")


def _refuse_foreign_files(group: str, restored: Any, known: Any, named: Collection[str]) -> None:  # noqa: ANN401
    """Refuse a file that only the checkpoint names."""
    for key in (key for key in FILES if key.startswith(f"{group}.") and key not in named):
        inside = key.removeprefix(f"{group}.")
        value = OmegaConf.select(restored, inside, default=None)
        if value not in (None, OmegaConf.select(known, inside, default=None)):
            msg = (
                f"The checkpoint was trained with {key}={shown(value)}. A file that a checkpoint names is not read: if "
                f"you trust it, add {key}={shown(value)}, or where it lies here."
            )
            raise ConfigError(msg)


def is_packaged(group: str, name: str) -> bool:
    """Whether ``conf/GROUP/NAME.yaml`` ships with the package, or with the method of that name."""
    return Path(str(name)).name == name and _place(group, name).is_file()


def known_group(group: str, name: str) -> Any:  # noqa: ANN401 - a config node
    """Read ``conf/GROUP/NAME.yaml`` over its schema, without Hydra; for a file of the user's own, the schema alone."""
    schema = BackboneSettings if group == "backbone" else module_schema(name)
    own = OmegaConf.load(_place(group, name)) if is_packaged(group, name) else OmegaConf.create({})
    assert isinstance(own, DictConfig), "config files hold keys"
    own.pop("defaults", None)
    return OmegaConf.merge(OmegaConf.structured(schema), own)


def _place(group: str, name: str) -> Path:
    conf = known_methods()[name].conf if group == "module" and name in known_methods() else Path(config_dir())
    return conf / group / f"{name}.yaml"


def plain_values(node: Any) -> Any:  # noqa: ANN401 - plain values of any depth
    """Return recorded values without Hydra's own keys.

    Raises:
        ConfigError: If a value is an interpolation, which could read the environment. Records hold resolved values.
    """
    if isinstance(node, Mapping):
        return {key: plain_values(value) for key, value in node.items() if not str(key).startswith("_")}
    if isinstance(node, list | tuple):
        return [plain_values(value) for value in node]
    if isinstance(node, str) and ("${" in node or node == "???"):
        msg = f"A recorded value is {shown(node)}, which stands for something else. Use a record that holds values."
        raise ConfigError(msg)
    return node
