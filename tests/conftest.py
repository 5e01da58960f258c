"""Run commands in this process, as a shell would."""

import sys
from collections.abc import Callable, Iterator

import pytest
import torch

from afr_clip.cli.main import run as run_command_line
from helpers.overrides import last_of_each

RUN = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[RUN]:
    """Run ``python -m afr_clip.COMMAND OVERRIDES``; returns the exit code."""
    yield from running(monkeypatch)


@pytest.fixture(scope="module")
def run_once() -> Iterator[RUN]:
    """The same, for what the tests of a module share."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield from running(monkeypatch)


def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[RUN]:
    threads = torch.get_num_threads()
    for variable in ("HYDRA_FULL_ERROR", "PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # what a command leaves behind
        monkeypatch.setenv(variable, "0")

    def command(name: str, *overrides: str) -> int:
        monkeypatch.setattr(sys, "argv", [f"afr_clip.{name}", *last_of_each(overrides)])
        try:
            run_command_line(name)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    yield command
    torch.set_num_threads(threads)
