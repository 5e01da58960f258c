"""Prepare the process before libraries are imported: no telemetry, caches in a private folder, torch's libraries."""

import atexit
import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import MutableMapping
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

SILENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",
}
"""Variables that keep libraries from reporting home or looking for a newer version."""

MATPLOTLIB = "MPLCONFIGDIR"

TORCH = {"libtorch_global_deps.so": ctypes.RTLD_GLOBAL, "libtorch_python.so": ctypes.RTLD_LOCAL}
"""The shared libraries to load, with the visibility that ``import torch`` gives their symbols. The second brings in
the rest."""

_loading: list[Thread] = []


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what the user has not set, before the libraries that read it are imported."""
    for variable, value in SILENT.items():
        environment.setdefault(variable, value)
    if MATPLOTLIB not in environment:
        environment[MATPLOTLIB] = _cache_folder(environment) or _temporary_folder()


def load_torch_ahead() -> None:
    """Load torch's shared libraries on a thread while the command line is checked.

    ``import torch`` then finds them in memory. If this fails, it reports why.
    """
    torch = find_spec("torch") if sys.platform == "linux" and "torch" not in sys.modules else None
    if torch is None or torch.origin is None:
        return
    folder = Path(torch.origin).parent / "lib"

    def load() -> None:
        dlopen = ctypes.CDLL(None).dlopen  # called through ctypes, which releases the GIL; `ctypes.CDLL(name)` holds it
        for name, scope in TORCH.items():
            dlopen(os.fsencode(folder / name), os.RTLD_NOW | scope)

    _loading.append(Thread(target=load, daemon=True))
    _loading[-1].start()
    atexit.register(finish_loading)


def finish_loading() -> None:
    """Wait for `load_torch_ahead`: a process that tears libraries down while they are loaded may crash."""
    for thread in _loading:
        thread.join()


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
