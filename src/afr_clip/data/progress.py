"""Progress bars for work that may take long."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

PATIENCE = 2.0
"""Seconds of silence before a bar appears."""

LOG_INTERVAL = 60.0
"""Seconds between two lines of the log."""

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr once the work has taken ``PATIENCE`` seconds; log a line a minute if it is no terminal.

    Yields:
        A function to call with the amount that is done.

    Example:
        >>> with progress_bar("Reading", total=2) as reached:
        ...     reached(1)
    """
    console = Console(stderr=True)
    progress = Progress(console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(what, total=total)
    begin = logged = time.monotonic()

    def reached(completed: int) -> None:
        nonlocal logged
        progress.update(task, completed=completed)
        if not console.is_terminal and time.monotonic() - logged > LOG_INTERVAL:
            logged = time.monotonic()
            logger.info("%s: %d of %d.", what, completed, total)
        if not progress.live.is_started and time.monotonic() - begin > PATIENCE:
            progress.start()

    try:
        yield reached
    finally:
        if progress.live.is_started:
            progress.stop()


def tracked(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Iterate over items under a progress bar with the label ``what``.

    Example:
        >>> list(tracked("abc", "Spelling"))
        ['a', 'b', 'c']
    """
    with progress_bar(what, len(items)) as reached:
        for number, item in enumerate(items, start=1):
            yield item
            reached(number)
