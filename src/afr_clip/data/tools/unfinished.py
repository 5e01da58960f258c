"""A folder that becomes another's when it is complete, and of which a killed process leaves nothing for ever."""

import glob
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def unfinished_folder(target: Path) -> Iterator[Path]:
    """Make a folder next to a target and remove it at the end, with those that killed processes left there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    start = f".{target.name}.unfinished-{platform.node()}-"
    for path in target.parent.glob(f"{glob.escape(start)}*"):
        writer = re.match(r"[0-9]+", path.name.removeprefix(start))
        if writer is not None and not _is_alive(int(writer[0])):
            shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{start}{os.getpid()}-", dir=target.parent) as folder:
        yield Path(folder)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True
