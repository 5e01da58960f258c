"""A scratch folder next to where its content will go, which is removed even if the process is killed."""

import glob
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from afr_clip.files import is_running


@contextmanager
def unfinished_folder(target: Path) -> Iterator[Path]:
    """Make a scratch folder next to a target, and remove it at the end; also remove those of killed processes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    start = f".{target.name}.unfinished-{platform.node()}-"
    for path in target.parent.glob(f"{glob.escape(start)}*"):
        writer = re.match(r"[0-9]+", path.name.removeprefix(start))
        if writer is not None and not is_running(int(writer[0])):
            shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{start}{os.getpid()}-", dir=target.parent) as folder:
        yield Path(folder)
