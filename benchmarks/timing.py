"""What several benchmarks share; importing it loads no package that would show in a process's memory."""

import time
from collections.abc import Callable

Work = Callable[[], object]


def seconds(work: Work) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
