"""Archives as users download them, unpacked so that nothing but a dataset can come of them."""

import errno
import hashlib
import lzma
import os
import re
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.data.progress import progress_bar
from afr_clip.data.tools.archive_members import CHUNK, Budget, Member, read_members, refusal

MOST_MEMBERS = 200_000
"""Files and folders in one archive; VisA, the largest that is known here, has some 12,000."""

MOST_LEVELS = 32
"""Folders above a file."""

DATASET_LEVELS = 3
"""Folders that may lie around a dataset."""

NUM_SHOWN = 5
"""How many names an error lists."""

JUNK = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db"})
"""What operating systems leave in archives; so are names that begin with ``._``."""

DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, struct.error),
    *(EOFError, RuntimeError, ValueError, LookupError, ArithmeticError, AttributeError),
)
"""What readers raise on damaged archives, besides an ``OSError`` without a number or of a senseless position."""


def unpack_archives(
    archives: Sequence[Path],
    target: Path,
    *,
    is_dataset: Callable[[Path], bool],
    sha256: Mapping[str, str],
    expected: str = "the folders that its publisher describes",
) -> Path:
    """Unpack the archives of a dataset into one folder, which appears under its name only when it is complete.

    Args:
        archives: Zip or tar files, whatever their names.
        target: The folder to make; must not exist.
        is_dataset: Tells a dataset's folder. The shallowest such folder of what was unpacked becomes ``target``, of
            several the first by name.
        sha256: Known digests, by the name of an archive; others are not checked.
        expected: What ``is_dataset`` looks for, in words for the user.

    Returns:
        ``target``.

    Raises:
        MissingDataError: If an archive cannot be opened.
        DataError: If ``target`` exists, a digest is not the known one, an archive is damaged, holds what it must not or
            becomes too large, the disk fails, or no dataset is inside.
    """
    if os.path.lexists(target):
        msg = f"A dataset is unpacked into a new folder, but {target} exists. Remove it, or choose another one."
        raise DataError(msg)
    with ExitStack() as opened:
        files = [opened.enter_context(_opened(archive)) for archive in archives]
        for archive, file in zip(archives, files, strict=True):
            if archive.name in sha256:
                _check_digest(archive, file, sha256[archive.name].lower())
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(prefix=f".{target.name}.unpacking-", dir=target.parent)
            folder = _Folder(Path(opened.enter_context(scratch)) / "content")
            for archive, file in zip(archives, files, strict=True):
                _unpack(archive, file, folder)
            _find_dataset(folder.path, is_dataset, archives, expected).rename(target)
        except OSError as error:
            if isinstance(error, DataError):
                raise
            msg = f"Unpacking must write below {target.parent}, but failed: {error}. Check the disk and permissions."
            raise DataError(msg) from error
    return target


def _opened(archive: Path) -> BinaryIO:
    try:
        return archive.open("rb")
    except OSError as error:
        msg = f"{archive} must be a readable archive, but opening it failed: {error}. Check the path."
        raise MissingDataError(msg) from error


def _check_digest(archive: Path, file: BinaryIO, known: str) -> None:
    digest = hashlib.sha256()
    with progress_bar(f"Checking {archive.name}", _size(file)) as reached:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            reached(file.tell())
    file.seek(0)
    found = digest.hexdigest()
    if found != known:
        msg = (
            f"{archive} must have the SHA-256 {known[:16]}..., but has {found[:16]}.... It is cut off, or another file "
            f"of that name. Download it again."
        )
        raise DataError(msg)


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


class _Folder:
    """Where members go, and the names that are taken there."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self._taken: dict[str, tuple[str, bool]] = {}

    def place(self, archive: Path, member: Member) -> Path | None:
        """Say where a member goes, ``None`` for junk; raises if it must not be unpacked."""
        parts = [part for part in member.name.split("/") if part not in {"", "."}]
        objection = _objection(member.name)
        if not parts and member.content is not None:
            objection = objection or "has no name"
        if not objection and any(part in JUNK or part.startswith("._") for part in parts):
            return None
        objection = objection or self._collision(parts, is_folder=member.content is None)
        if objection:
            raise refusal(archive, member.name, objection)
        return self.path.joinpath(*parts)

    def _collision(self, parts: Sequence[str], *, is_folder: bool) -> str:
        """Take a name and those of the folders above it; say if another one already means the same place."""
        for depth in range(1, len(parts) + 1):
            name, is_above = "/".join(parts[:depth]), is_folder or depth < len(parts)
            key = unicodedata.normalize("NFC", name).casefold()
            taken = self._taken.get(key)
            if taken is not None and (taken != (name, True) or not is_above):
                return f"means the same place as {taken[0]!r}, at least where case does not count"
            self._taken[key] = (name, is_above)
        return ""


def _objection(name: str) -> str:
    """Say what is wrong with a member's name; empty if nothing is."""
    parts = name.split("/")
    objections = {
        "is an absolute path": name.startswith("/") or re.match("[A-Za-z]:", name) is not None,
        "has a backslash in its name": "\\" in name,
        "leads out of its folder": ".." in parts,
        f"lies more than {MOST_LEVELS} folders deep": len(parts) > MOST_LEVELS,
        "has control characters in its name": any(ord(letter) < ord(" ") for letter in name),
    }
    return next((objection for objection, holds in objections.items() if holds), "")


def _unpack(archive: Path, file: BinaryIO, folder: _Folder) -> None:
    budget = Budget(archive, _size(file), folder.path)
    try:
        with progress_bar(f"Unpacking {archive.name}", _size(file)) as reached:
            for number, member in enumerate(read_members(archive, file, budget)):
                if number == MOST_MEMBERS:
                    msg = f"{archive} must have at most {MOST_MEMBERS} members, but has more. Is it the right archive?"
                    raise DataError(msg)
                path = folder.place(archive, member)
                if path is not None:
                    _write(member, path)
                reached(file.tell())
    except DataError:
        raise
    except (OSError, *DAMAGE) as error:
        if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:
            raise  # the disk speaks, not the reader of a damaged archive
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = f"{archive} must be an intact zip or tar archive, but cannot be read ({reason}). Download it again."
        raise DataError(msg) from error


def _write(member: Member, path: Path) -> None:
    if member.content is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        while chunk := member.content.read(CHUNK):
            file.write(chunk)
        num_bytes = file.tell()
    if num_bytes != member.size:
        msg = f"{member.name!r} has {num_bytes} bytes instead of {member.size}"
        raise ValueError(msg)


def _find_dataset(folder: Path, is_dataset: Callable[[Path], bool], archives: Sequence[Path], expected: str) -> Path:
    """Find the shallowest folder that holds a dataset."""
    level = [folder]
    for _ in range(DATASET_LEVELS + 1):
        for candidate in level:
            if is_dataset(candidate):
                return candidate
        level = sorted(path for candidate in level for path in candidate.iterdir() if path.is_dir())
    found = ", ".join(sorted(repr(path.name) for path in folder.iterdir())[:NUM_SHOWN]) or "nothing"
    names = ", ".join(archive.name for archive in archives) or "The archives"
    msg = f"{names} must hold {expected}, but at the top there is {found}. Is it another dataset or release?"
    raise DataError(msg)
