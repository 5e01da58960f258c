"""The page of `afr-clip demo` in a browser without a screen."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def demo_page(folder: Path, *words: str, ends_with: signal.Signals = signal.SIGTERM) -> Iterator[str]:
    """Start the command in a process of its own; yields the address of the page."""
    command = [sys.executable, "-m", "afr_clip", "demo", "--port", "0", "--device", "cpu", *words]
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    try:
        line = process.stdout.readline()
        assert line.startswith("page: "), (folder / "log.txt").read_text()
        yield line.removeprefix("page: ").strip()
    finally:
        process.send_signal(ends_with)
        process.wait(120)
        process.stdout.close()


@contextmanager
def browser() -> Iterator[Any]:
    """Start Chromium; yields Playwright's browser."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - not everywhere installed

    with sync_playwright() as playwright:
        # A container has no user namespaces for the sandbox; only our own page is opened.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()
