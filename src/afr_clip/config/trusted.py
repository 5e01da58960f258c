"""What a composed config may run: only what is listed here, because config files may come from strangers.

Our own nodes call nothing that a file names; their values are checked. Hydra's node does: it builds callbacks, launcher
and sweeper from ``_target_``, and loggers from ``class`` and ``()``. A launcher's settings hold shell commands for a
cluster, and a log file whose name and format can be chosen could become a script.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from afr_clip.config.validate import ConfigError, sentences

TARGETS = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
)
"""The only values of ``_target_``, in any node."""

LOGGING_CLASSES = (
    "afr_clip.files.LogFile",
    "logging.FileHandler",
    "logging.Formatter",
    "logging.StreamHandler",
)

_STREAMS = ("ext://sys.stderr", "ext://sys.stdout")

_LOG_FILE = re.compile(r"\$\{hydra\.runtime\.output_dir\}/(?:[\w.-]|\$\{hydra\.job\.name\}|\$\{process_suffix:\})+")
"""A file in the run folder itself."""

_BUILT = ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging")
"""The nodes that Hydra makes objects from."""

_ONLY_TYPED = (
    *("job.env_set", "job.env_copy"),
    *(f"launcher.{key}" for key in ("setup", "additional_parameters", "python", "srun_args", "ray.init.runtime_env")),
)
"""Keys below ``hydra`` that reach the environment or the shell of a job. They may be typed, but not set in a file."""


def refuse_untrusted(config: DictConfig, typed: Sequence[str]) -> None:
    """Refuse a composed config that names code, a shell command or a log file that is not on the list.

    Args:
        config: The config, including Hydra's node.
        typed: The overrides on the command line, which may set more than a file may.

    Raises:
        ConfigError: If the config names something else.
    """
    faults = [*_targets(config, ""), *_faults_of_hydra(config.hydra, typed)]
    if faults:
        raise ConfigError(sentences(faults))


def _children(node: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - a node of any kind
    """Yield the keys and nodes of a container as they are written; interpolations are not followed."""
    if isinstance(node, DictConfig | ListConfig) and isinstance(node._content, dict | list):
        keys: Iterable[Any] = node if isinstance(node, DictConfig) else range(len(node))
        for key in keys:
            yield key, node._get_node(key)


def _targets(node: Any, path: str) -> Iterator[str]:  # noqa: ANN401 - a node of any kind
    for key, child in _children(node):
        name = f"{path}.{key}".lstrip(".")
        if key == "_target_" and child._value() not in TARGETS:
            yield f"{name}={child._value()} is refused: a config cannot name code to run. Leave {name} out."
        yield from _targets(child, name)


def _faults_of_hydra(hydra: DictConfig, typed: Sequence[str]) -> Iterator[str]:
    for name in _BUILT:
        node = hydra._get_node(name)
        for path in _interpolated_containers(node, f"hydra.{name}"):
            yield f"{path} must be written out, got an interpolation. Write its keys into the node itself."
        for path, value in _leaves(node, f"hydra.{name}"):
            if "logging" in name:
                yield from _faults_of_logging(path, value)
            elif isinstance(value, str) and not value.isprintable():
                yield f"{path} must be one line, got {value!r}. Such a value could end up as a line of a script."
    keys = {word.lstrip("+~").partition("=")[0] for word in typed}
    for key in _ONLY_TYPED:
        full, value = f"hydra.{key}", OmegaConf.select(hydra, key)
        if value and not any(own == full or own.startswith(f"{full}.") for own in keys):
            yield f"{full} reaches the shell of a job, so a file must not set it. Type {full}=... yourself."
    for key in ("output_subdir", "job.name"):
        value = OmegaConf.select(hydra, key)
        if value is not None and Path(str(value)).name != value:
            yield f"hydra.{key} must be a plain name, got {value}. It names files in the run folder."


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - a node of any kind
    if not isinstance(node, DictConfig | ListConfig):
        yield path, node._value()
    for key, child in _children(node):
        yield from _leaves(child, f"{path}.{key}")


def _interpolated_containers(node: Any, path: str) -> Iterator[str]:  # noqa: ANN401 - a node of any kind
    if node._is_interpolation():
        try:
            if isinstance(node._dereference_node(), DictConfig | ListConfig):
                yield path
        except OmegaConfBaseException:
            pass  # known only while the job runs, where nothing but plain values are added
    for key, child in _children(node):
        yield from _interpolated_containers(child, f"{path}.{key}")


def _faults_of_logging(path: str, value: Any) -> Iterator[str]:  # noqa: ANN401 - a plain value
    key = path.rpartition(".")[2]
    if key == "class" and value not in LOGGING_CLASSES:
        yield f"{path} must be one of {', '.join(LOGGING_CLASSES)}, got {value}."
    elif key == "filename" and not (isinstance(value, str) and _LOG_FILE.fullmatch(value)):
        yield f"{path} must be ${{hydra.runtime.output_dir}}/NAME, got {value}. Logs are written into the run folder."
    elif "()" in path or ".." in path or key in ("queue", "listener"):
        yield f"{path} must be left out, got {value}. A config cannot name code that makes a log handler."
    elif isinstance(value, str) and "://" in value and value not in _STREAMS:
        yield f"{path} must be one of {', '.join(_STREAMS)}, got {value}."
