"""Photographs that have been written completely, in a folder that others write into."""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from afr_clip.data.disk.folders import IMAGE_SUFFIXES, is_hidden
from afr_clip.data.disk.picture_files import MOST_BYTES_PER_PIXEL, decode_picture
from afr_clip.data.errors import DataError
from afr_clip.files import shown
from afr_clip.inspection.detector import Decoded
from afr_clip.inspection.service import sentence_of
from afr_clip.watching.journal import Stat

logger = logging.getLogger(__name__)


@dataclass
class _UnsettledFile:
    """A file that may still be written: what it looked like, since when, and when it is tried next."""

    stat: Stat
    since: float
    next_try: float


@dataclass(frozen=True)
class Arrived:
    """A photograph that has arrived.

    Attributes:
        path: Below the folder, as the system has it.
        key: The same for the same content at the same place, 32 hexadecimal digits.
        photograph: Its pixels, or why they cannot be read.
    """

    path: bytes
    stat: Stat
    key: str
    name: str
    photograph: Decoded | DataError


class Arrivals:
    """Finds the files of a folder that have been written completely.

    A file is tried once its size and date have not changed for ``settle`` seconds. If it cannot be decoded, its writer
    may only pause: it is tried again after twice the time, and so on, until ``give_up`` seconds without a change.

    Args:
        known: Files that were inspected; kept up to date with `note`.
        clock: In seconds.

    Attributes:
        seconds: How long the last look at the folder took.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settle: float,
        give_up: float,
        max_pixels: int,
        known: dict[bytes, Stat],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._settle, self._give_up, self._max_pixels = folder, settle, give_up, max_pixels
        self._known, self._clock = known, clock
        self._waiting: dict[bytes, _UnsettledFile] = {}
        self._found: dict[bytes, Stat] = {}
        self._skipped: set[bytes] = set()
        self._skipped_before: set[bytes] = set()
        self.seconds = 0.0

    @property
    def num_waiting(self) -> int:
        """Files that may still be written."""
        return len(self._waiting)

    def ready(self) -> Iterator[Arrived]:
        """Look through the folder; yield what has arrived, the oldest first, and read it when it is asked for.

        What cannot be looked at below the folder is left out, with one warning until it can.

        Raises:
            DataError: If the folder cannot be listed.
        """
        now = self._clock()
        self._skipped_before, self._skipped = self._skipped, set()
        self._found = found = dict(self._files())
        self.seconds = self._clock() - now
        for gone in self._waiting.keys() - found.keys():
            del self._waiting[gone]
        due = []
        for path, stat in found.items():
            if self._known.get(path) == stat:
                self._waiting.pop(path, None)
                continue
            waiting = self._waiting.get(path)
            if waiting is None or waiting.stat != stat:
                self._waiting[path] = _UnsettledFile(stat, now, now + self._settle)
            elif now >= waiting.next_try:
                due.append((stat.mtime_ns, path))
        for _, path in sorted(due):
            arrived = self._read(path, self._waiting[path])
            if arrived is not None:
                yield arrived

    def note(self, inspected: Collection[Arrived]) -> None:
        """Note that photographs are recorded."""
        for one in inspected:
            self._known[one.path] = one.stat
            self._waiting.pop(one.path, None)

    def gone(self) -> list[bytes]:
        """Return the files that were inspected and were not there at the last look, and forget them."""
        gone = list(self._known.keys() - self._found.keys())
        for path in gone:
            del self._known[path]
        return gone

    def _files(self) -> Iterator[tuple[bytes, Stat]]:
        """Yield the images in and below the folder, by their paths below it; links to folders are not followed."""
        folder, places = os.fsencode(self._folder), [b""]
        while places:
            place = places.pop()
            entries: list[os.DirEntry[bytes]] = []
            with self._skipping(place):
                entries = list(os.scandir(os.path.join(folder, place)))  # noqa: PTH118 - names need not be UTF-8
            for entry in entries:
                path, name = os.path.join(place, entry.name), os.fsdecode(entry.name)  # noqa: PTH118
                if is_hidden(name):
                    continue
                with self._skipping(path):
                    if entry.is_dir(follow_symlinks=False):
                        places.append(path)
                    elif Path(name).suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
                        yield path, _stat(entry.stat())

    @contextmanager
    def _skipping(self, path: bytes) -> Iterator[None]:
        """Leave out what cannot be looked at; only without the folder itself there is nothing to do."""
        try:
            yield
        except OSError as error:
            if not path:
                msg = f"The folder {shown(self._folder)} cannot be listed: {error.strerror}. Check its permissions."
                raise DataError(msg) from error
            if isinstance(error, FileNotFoundError):
                return  # it was removed meanwhile
            self._skipped.add(path)
            if path not in self._skipped_before:
                logger.warning("%s is left out: %s.", shown(Path(os.fsdecode(path))), error.strerror)

    def _read(self, path: bytes, waiting: _UnsettledFile) -> Arrived | None:
        """Read a file; ``None`` if it is to be tried again."""
        name = shown(Path(os.fsdecode(path)))
        quiet = self._clock() - waiting.since
        content = f"{waiting.stat}".encode()  # stands for content that is not read
        try:
            with open(os.path.join(os.fsencode(self._folder), path), "rb") as file:  # noqa: PTH123, PTH118 - bytes
                if waiting.stat.size > self._max_pixels * MOST_BYTES_PER_PIXEL:
                    found: Decoded | DataError = DataError(f"{name} is too large for an image.")
                else:
                    content = file.read()
                    found = self._decoded(content, name, path)
                if _stat(os.fstat(file.fileno())) != waiting.stat:
                    return None  # the next look notices
        except FileNotFoundError:
            return None
        except OSError as error:
            found = DataError(f"{name} cannot be read: {error.strerror}.")
        if isinstance(found, DataError) and quiet < self._give_up:
            waiting.next_try = min(waiting.since + 2 * max(quiet, 0.1), waiting.since + self._give_up)
            return None
        key = hashlib.sha256(path + b"\0" + hashlib.sha256(content).digest()).hexdigest()[:32]
        return Arrived(path, waiting.stat, key, name, found)

    def _decoded(self, content: bytes, name: str, path: bytes) -> Decoded | DataError:
        try:
            pixels = decode_picture(content, name, max_pixels=self._max_pixels).rgb.transpose(2, 0, 1)
        except DataError as error:
            return DataError(sentence_of(error, "Raise --max-pixels, or scale it down."))
        return Decoded(name, pixels, self._folder / os.fsdecode(path))


def _stat(found: os.stat_result) -> Stat:
    return Stat(found.st_size, found.st_mtime_ns)
