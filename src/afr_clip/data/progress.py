"""A progress bar for what may take long, silent for what does not."""

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

PATIENCE = 2.0
"""Seconds of silence before a bar appears."""

Item = TypeVar("Item")


def tracked(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Iterate over items and show a bar on stderr once that has taken ``PATIENCE`` seconds.

    Where stderr is not a terminal nothing is shown.

    Args:
        items: What is worked through.
        what: The bar's label.

    Yields:
        The items, in order.

    Example:
        >>> list(tracked("abc", "Spelling"))
        ['a', 'b', 'c']
    """
    console = Console(stderr=True)
    progress = Progress(console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(what, total=len(items))
    begin = time.monotonic()
    try:
        for item in items:
            yield item
            progress.advance(task)
            if not progress.live.is_started and time.monotonic() - begin > PATIENCE:
                progress.start()
    finally:
        if progress.live.is_started:
            progress.stop()
