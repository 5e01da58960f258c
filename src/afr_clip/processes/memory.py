"""How much memory a stretch of work takes at its peak."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
"""Where Linux forgets the peak of a process, and where it tells it."""


@contextmanager
def measuring_memory(device: torch.device) -> Iterator[Callable[[], float | None]]:
    """Measure the peak from here on: what PyTorch allocates on a GPU, or what this process occupies on a CPU.

    Yields:
        Returns the peak in MiB; ``None`` where the system does not tell.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
        return
    is_reset = False
    with suppress(OSError):
        _RESET.write_text("5", encoding="ascii")
        is_reset = True
    yield lambda: _peak() if is_reset else None


def _peak() -> float | None:
    with suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    return None
