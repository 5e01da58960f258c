"""Atomic file replacement, and names of files as text."""

import hashlib
import os
import platform
import re
import time
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

ABANDONED_AFTER = 24 * 60 * 60.0
"""Seconds after which another machine's unfinished file counts as abandoned: its writer cannot be checked."""

_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that let a terminal or page show a name in another order than it is stored."""

_UNFINISHED = re.compile(r"\..+\.unfinished-(?P<machine>.*)-(?P<pid>\d+)")


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
    unfinished = path.with_name(f".{path.name}.unfinished-{platform.node()}-{os.getpid()}")
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


def remove_abandoned(folder: Path) -> None:
    """Remove unfinished files that killed processes left below a folder; those of living processes stay.

    Args:
        folder: A run folder; it need not be there.
    """
    for path in folder.rglob(".*.unfinished-*"):
        writer = _UNFINISHED.fullmatch(path.name)
        if writer is not None and path.is_file() and _is_abandoned(path, writer["machine"], int(writer["pid"])):
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path, machine: str, pid: int) -> bool:
    if machine != platform.node():
        try:
            return time.time() - path.stat().st_mtime > ABANDONED_AFTER
        except FileNotFoundError:
            return False  # its writer has just finished it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # another user's, and alive
    return False


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
    """Return a name for files, anchors and labels made of letters, digits and ``_ . + -``, at most 60 of them.

    A name that is not clean, or is taken, ends in digits of its own hash, so that different names stay different.

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
