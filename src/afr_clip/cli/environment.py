"""Environment variables for libraries: no telemetry, and their files in a private folder of the user."""

import atexit
import os
import shutil
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

SILENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",
}
"""Variables that keep libraries from reporting home or looking for a newer version."""

MATPLOTLIB = "MPLCONFIGDIR"


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what the user has not set, before the libraries that read it are imported."""
    for variable, value in SILENT.items():
        environment.setdefault(variable, value)
    if MATPLOTLIB not in environment:
        environment[MATPLOTLIB] = _cache_folder(environment) or _temporary_folder()


def _cache_folder(environment: MutableMapping[str, str]) -> str | None:
    """Return our folder below the user's cache; ``None`` if there is no such place, as in some containers."""
    try:
        cache = Path(environment.get("XDG_CACHE_HOME", ""))
        if not cache.is_absolute():
            cache = Path.home().resolve(strict=True) / ".cache"  # do not create a missing home directory
        folder = cache / "afr_clip" / "matplotlib"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home directory
        return None
    return str(folder) if os.access(folder, os.W_OK) else None


def _temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="afr_clip-")  # private, under a name that cannot be guessed
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
