"""Files that are either whole or the ones before them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file under another name and rename it at the end.

    Args:
        path: The file; folders above it are made.

    Yields:
        Where to write. On an error it is removed, and the file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished-{os.getpid()}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # a power cut after the renaming must not leave an empty file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
