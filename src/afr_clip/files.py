"""Atomic file replacement, names of files, and a log that may fail."""

import glob
import hashlib
import io
import logging
import os
import platform
import re
import shlex
import shutil
import threading
import time
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

ABANDONED_AFTER = 24 * 60 * 60.0
"""Seconds after which another machine's unfinished file counts as abandoned: its writer cannot be checked."""

_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that reverse the text after them, so that a name can look like another."""

LONGEST_NAME = 255
"""Bytes in a file name that every common file system allows."""

_UNFINISHED = re.compile(r"\..+\.unfinished-(?P<machine>.*)-(?P<pid>\d+)(\.\d+)?")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file under another name and rename it at the end.

    Args:
        path: The file; folders above it are made.

    Yields:
        Where to write. On an error it is removed, and the file stays as it was.

    Raises:
        OSError: If it cannot be written; the error names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # a power cut after the renaming must not leave an empty file
        unfinished.replace(path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # the system does not know what a write was for
            error.filename = str(path)
        raise
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def unfinished_folder(target: Path) -> Iterator[Path]:
    """Make a scratch folder next to a target, and remove it at the end; also remove those of killed processes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.unfinished-*"):
        if _is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = _unfinished(target)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unfinished(path: Path) -> Path:
    ending = f".unfinished-{platform.node()}-{os.getpid()}.{threading.get_ident()}"
    return path.with_name(f".{fitted(path.name, LONGEST_NAME - len(os.fsencode(ending)) - 1)}{ending}")


def write_encoded(path: Path, encode: Callable[[BinaryIO], object]) -> None:
    """Write a picture atomically. It is encoded in memory first, because Pillow does not report a full disk as such."""
    buffer = io.BytesIO()
    encode(buffer)
    with written_whole(path) as unfinished:
        unfinished.write_bytes(buffer.getvalue())


def fitted(name: str, most: int) -> str:
    """Shorten a file name to a number of bytes; what is cut off is replaced by a hash of the whole name.

    Example:
        >>> fitted("bolt.png", 255), fitted("b" * 300, 30)
        ('bolt.png', 'bbbbbbbbbbbbbbbbb~dccc1450d6fc')
    """
    whole = os.fsencode(name)
    if len(whole) <= most:
        return name
    ending = f"~{hashlib.sha256(whole).hexdigest()[:12]}"
    kept = name[: most - len(ending)]
    while len(os.fsencode(kept)) + len(ending) > most:
        kept = kept[:-1]
    return f"{kept}{ending}"


class LogFile(logging.FileHandler):
    """The log in a run folder. A run does not fail because its log cannot be written."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, if that is possible."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)  # the file could not be opened

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing; logging would print a traceback for every further record."""


def remove_abandoned(folder: Path) -> None:
    """Remove unfinished files that killed processes left below a folder; those of living processes stay.

    Args:
        folder: A run folder; it need not be there.
    """
    for path in folder.rglob(".*.unfinished-*"):
        if path.is_file() and _is_abandoned(path):
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    writer = _UNFINISHED.fullmatch(path.name)
    if writer is None:
        return False
    if writer["machine"] != platform.node():
        try:
            return time.time() - path.stat().st_mtime > ABANDONED_AFTER
        except FileNotFoundError:
            return False  # its writer has just finished it
    return not is_running(int(writer["pid"]))


def is_running(pid: int) -> bool:
    """Whether this machine runs a process, of this user or another."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def natural_order(path: Path) -> tuple[tuple[str | int, ...], ...]:
    """Return a sorting key by which ``9.png`` comes before ``10.png``.

    Example:
        >>> [path.name for path in sorted(map(Path, ["10.png", "9.png"]), key=natural_order)]
        ['9.png', '10.png']
    """
    split = ((re.split("([0-9]+)", part), part) for part in path.parts)
    return tuple((*(int(p) if i % 2 else p for i, p in enumerate(parts)), part) for parts, part in split)


def shown(name: str | Path) -> str:
    r"""Return a name in one line of characters that CSV, JSON, a page and a terminal can hold.

    Control characters, line breaks and bytes that are not UTF-8 become escapes, and so does the backslash, so that no
    two names become equal.

    Example:
        >>> print(shown("two\nlines"), shown("Haselnüsse (Los 7).png"), shown(os.fsdecode(b"b\xff.png")))
        two\nlines Haselnüsse (Los 7).png b\xff.png
    """
    text = name.as_posix() if isinstance(name, Path) else name
    return in_one_line(text.replace("\\", "\\\\"))


def shown_below(root: Path, path: Path) -> str:
    """Return the path below a root as `shown` gives it; the whole path if it lies elsewhere."""
    return shown(path.relative_to(root) if path.is_relative_to(root) else path)


def for_shell(word: str) -> str:
    """Quote a word for the shell, in characters that a terminal can show.

    Example:
        >>> print(for_shell("run_dir=Haselnüsse (Los 7)"), for_shell("run_dir=outputs/nuts"))
        run_dir='Haselnüsse (Los 7)' run_dir=outputs/nuts
    """
    name, equals, rest = word.partition("=")
    if equals and re.fullmatch(r"[\w.]+", name):
        return f"{name}={for_shell(rest)}"
    text = shown(word)
    return text if re.fullmatch(r"[\w@%+:,./=\[\]-]*", text) else shlex.quote(text)


def first_few(names: Sequence[str], most: int = 3) -> str:
    """Write the first names for a sentence, and count the others.

    Example:
        >>> first_few(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(number: int, one: str, several: str = "") -> str:
    """Write a number of things.

    Example:
        >>> counted(1, "image"), counted(2, "mask belongs", "masks belong"), counted(1200, "image")
        ('1 image', '2 masks belong', '1,200 images')
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def in_one_line(text: str) -> str:
    """Escape what `shown` escapes, except the backslash: for text in which names are already as `shown` gives them."""
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python holds a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in _REORDERING:
        return character.encode("unicode_escape", "backslashreplace").decode("ascii")
    return character


def clean_name(name: str, taken: Collection[str] = ()) -> str:
    """Return a name for files, anchors and labels: at most 60 ASCII letters, digits and ``_ . + -``.

    A name that has to be changed, or is taken, ends in digits of its hash, so that different names stay different.

    Example:
        >>> clean_name("table3"), clean_name("../../x")
        ('table3', 'x-9cdf6a50')
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,59}", name) and name not in taken:
        return name
    kept = re.sub(r"[^A-Za-z0-9_+-]+", "_", name).strip("_-+")[:50]
    return f"{kept}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}".lstrip("-")


def as_cell(text: str) -> str:
    """Write text into a CSV cell so that no spreadsheet takes it for a formula; numbers stay numbers.

    Example:
        >>> as_cell("=1+1"), as_cell("-0.5"), as_cell("'quoted"), as_cell("plain")
        ("'=1+1", '-0.5', "''quoted", 'plain')
    """
    return f"'{text}" if text[:1] in _ACTED_ON and not _NUMBER.fullmatch(text) else text


def from_cell(cell: str) -> str:
    """Return the text that `as_cell` wrote into a cell."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] in _ACTED_ON else cell


_ACTED_ON = tuple("=+-@\t\r'")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def append_whole(file: io.RawIOBase, content: bytes) -> None:
    """Append to an unbuffered file; what is written survives a kill of this process.

    Raises:
        OSError: If it cannot be written; then nothing of it is.
    """
    before = file.seek(0, os.SEEK_END)
    try:
        while content:
            content = content[file.write(content) or 0 :]
    except OSError as error:
        with suppress(OSError):
            file.truncate(before)
        error.filename = getattr(file, "name", None)
        raise
