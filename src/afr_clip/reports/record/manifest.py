"""The manifest of a run: where its numbers come from."""

import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from afr_clip import __version__

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "open_clip_torch",
    "timm",
    "torchmetrics",
    "albumentations",
    "numpy",
    "pillow",
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
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": _machine(),
    }


def _commit() -> dict[str, Any] | None:
    """Return hash and dirty flag of the checkout this package runs from; ``None`` outside one."""
    here = Path(__file__).resolve().parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        # An installed package may lie inside a checkout of something else.
        tracked = _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
        return (
            {"hash": head, "dirty": bool(_git(here, "status", "--porcelain", "--untracked-files=no"))}
            if tracked
            else None
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
