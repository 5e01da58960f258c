"""What a fuzz test may do to its machine: a time limit, a memory limit, and no trace outside its folder.

``AFR_CLIP_FUZZ`` scales the number of examples (``make fuzz``: 1), ``AFR_CLIP_FUZZ_SEED`` draws other ones.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, seed, settings

T = TypeVar("T")

SCALE = float(os.environ.get("AFR_CLIP_FUZZ", "0.01"))
SEED = int(os.environ.get("AFR_CLIP_FUZZ_SEED", "0"))

SECONDS = 60
"""No input may take longer."""

GIBIBYTES = 4
"""No input may take more memory on top of what the process held before."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_PATHS_OF = {
    "os.remove": ((0, 1),), "os.rename": ((0, 2), (1, 3)), "os.mkdir": ((0, 2),), "os.rmdir": ((0, 1),),
    "os.link": ((1, 3),), "os.symlink": ((1, 2),), "os.truncate": ((0, None),), "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),), "os.utime": ((0, 3),), "shutil.rmtree": ((0, 1),), "shutil.copyfile": ((1, None),),
    "shutil.move": ((0, None), (1, None)),
}  # fmt: skip
"""Audit events that change files: positions of each path, and of the descriptor of the folder it is relative to."""

_CACHE = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "afr_clip")
"""The user's cache, where libraries keep what belongs to no run."""

_NEVER = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn")
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind")


class OutOfBoundsError(BaseException):
    """Something that no input may make the program do; not an ``Exception``, so that nothing handles it."""


class _Guard:
    """The audit hook, which Python never removes; it acts only inside `guarded`."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.faults: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and not isinstance(path, int):
                self._require_inside(event, path)
        elif event in _PATHS_OF:
            for position, folder in _PATHS_OF[event]:
                at = arguments[folder] if folder is not None and folder < len(arguments) else None
                self._require_inside(event, arguments[position], at)
        elif event == "subprocess.Popen":
            program = os.path.basename(os.fsdecode(arguments[0]))  # noqa: PTH119 - may be bytes
            if program not in {"git", "uname", "lscpu"}:
                self._refuse(f"started {program}")
        elif event in _NEVER or event in _NETWORK:
            self._refuse(f"{event}{arguments!r}")

    def _require_inside(self, event: str, path: object, folder: int | None = None) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a file descriptor, whose opening was checked
        base = f"/proc/self/fd/{folder}" if folder is not None and folder >= 0 else "."
        name = os.path.realpath(os.path.join(base, os.fsdecode(path)))  # noqa: PTH118 - pathlib knows no bytes
        allowed = any(name.startswith(f"{folder}/") or name == folder for folder in (self.folder, _CACHE, "/dev"))
        if not (allowed or "__pycache__" in name or _CACHE.startswith(f"{name}/")):
            self._refuse(f"{event}: {name} is outside {self.folder}")

    def _refuse(self, what: str) -> None:
        self.faults.append(what)
        raise OutOfBoundsError(what)


_GUARD = _Guard()
sys.addaudithook(_GUARD)


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Fail if the block writes outside a folder, starts a program, opens a connection, hangs, or takes much memory."""

    def too_slow(*_: object) -> None:
        message = f"took more than {SECONDS} s"
        raise OutOfBoundsError(message)

    before = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + GIBIBYTES * 2**30, before[1]))
    handler = signal.signal(signal.SIGALRM, too_slow)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _GUARD.faults, _GUARD.folder = [], str(folder.resolve())
    try:
        yield
    finally:
        _GUARD.folder = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert not _GUARD.faults, _GUARD.faults  # also those that the program handled


def fuzzed(full: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test on ``full`` examples times ``AFR_CLIP_FUZZ``, drawn from ``AFR_CLIP_FUZZ_SEED``."""
    chosen = settings(
        max_examples=max(1, round(full * SCALE)),
        deadline=None,  # the guard has one
        database=None,
        print_blob=True,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: seed(SEED)(chosen(test))


class Refused(str):
    """The sentence of a refusal."""


def outcome(folder: Path, action: Callable[[], T], refusals: type[Exception]) -> T | Refused:
    """Run an action inside `guarded`; what it returns, or the one sentence with which it refuses its input."""
    with guarded(folder):
        try:
            return action()
        except refusals as refusal:
            sentence = Refused(refusal)
    assert sentence, "a refusal without a sentence"
    assert "\n" not in sentence
    assert "Unexpected" not in sentence
    return sentence
