"""The manifest of a run: where its numbers come from."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from afr_clip import __version__
from afr_clip.settings import METHOD_PACKAGES

PACKAGES = (
    *("torch", "torchvision", "lightning", "hydra-core", "open_clip_torch", "timm", "torchmetrics"),
    *("albumentations", "numpy", "pillow", "openvino", "onnxruntime"),
)


def build_manifest(command: str, overrides: Sequence[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a run before it starts, in plain values for JSON and checkpoints."""
    return {
        "command": command,
        "overrides": list(overrides),
        "config": dict(config),
        "seed": config["seed"],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "afr_clip": __version__,
        "commit": _commit(),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in PACKAGES} | _package_of(config.get("module", {}).get("name")),
        "machine": _machine(),
    }


GIT_SECONDS = 10
"""How long git may take, on a network drive that hangs for example."""

_HARMLESS = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
"""Options with which git takes no lock and runs no program that a repository's config names."""

_OF_ANOTHER_REPOSITORY = {"GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"}
"""Variables that git sets for a hook, from which a run may have been started."""


def _commit() -> dict[str, Any] | None:
    """Return hash and dirty flag of the checkout this package runs from; ``None`` outside one."""
    here = Path(__file__).resolve().parent
    try:
        # An installed package may lie inside a checkout of something else.
        if not _git(here, "ls-files", "--error-unmatch", Path(__file__).name):
            return None
        changes = _git(here, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
        return {"hash": _git(here, "rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY}
    environment |= {"GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(
        ["git", "-C", str(folder), *_HARMLESS, *arguments],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
        timeout=GIT_SECONDS,
    )
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _package_of(method: str | None) -> dict[str, str]:
    """Return name and version of the package that brings a method; nothing for a method of this package."""
    if method is None or find_spec(f"afr_clip.models.{method}") is not None:
        return {}
    found = entry_points(group=METHOD_PACKAGES, name=method)
    return {entry.dist.name: entry.dist.version for entry in found if entry.dist is not None}


def _machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
