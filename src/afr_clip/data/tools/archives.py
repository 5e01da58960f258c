"""Unpack downloaded archives safely: nothing is written outside the target, and nothing is left after an error.

``tarfile`` (with its ``data`` filter) and ``zipfile`` read and write the files. The checks around them do not trust
what an archive says about itself: bytes are counted as they are decompressed, and links are refused wherever they lead,
because no public dataset contains any.
"""

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from afr_clip.data.errors import DataError, MissingDataError
from afr_clip.data.progress import progress_bar
from afr_clip.files import unfinished_folder

MOST_BYTES = 100 << 30
"""Most bytes that one archive may unpack to, far above any known dataset."""

MOST_RATIO, FREE_RATIO_BYTES = 100, 256 << 20
"""Most bytes per byte of an archive, checked beyond the second number. Photographs hardly shrink; masks are small."""

RESERVE = 512 << 20
"""Bytes of the disk that are left free."""

MOST_MEMBERS = 200_000
"""Most files and folders in one archive; VisA, the largest known, has some 12,000."""

MOST_LEVELS = 32
"""Most folders above a file."""

DATASET_LEVELS = 3
"""Most folders around a dataset."""

CHUNK = 1 << 20
"""Bytes read at a time."""

MOST_AT_ONCE = 16 << 20
"""Most bytes that ``tarfile`` may ask for at once, for example for a long name."""

NUM_SHOWN = 5
"""Most names that an error lists."""

JUNK = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db"})
"""Files that operating systems add to archives, apart from names that begin with ``._``."""

ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
DECOMPRESSORS: Mapping[bytes, Callable[[BinaryIO], io.BufferedIOBase]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
"""First bytes of compressed tar archives, and what decompresses them."""

DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, struct.error),
    *(EOFError, RuntimeError, ValueError, LookupError, ArithmeticError, AttributeError),
)
"""What readers raise on damaged archives, apart from an ``OSError`` without a number or about an invalid position."""


def unpack_archives(
    archives: Sequence[Path],
    target: Path,
    *,
    is_dataset: Callable[[Path], bool],
    sha256: Mapping[str, str],
    expected: str = "the folders that its publisher describes",
) -> Path:
    """Unpack the archives of a dataset into one new folder, which appears only when it is complete.

    Args:
        archives: Zip or tar files; their content decides the format, not their names.
        is_dataset: Recognises a dataset's folder. The shallowest such folder in the archives becomes ``target``; of
            several, the first by name.
        sha256: Known hashes by file name; other archives are not checked.
        expected: What ``is_dataset`` looks for, in words for the user.

    Raises:
        MissingDataError: If an archive cannot be opened.
        DataError: If ``target`` exists, a hash differs, an archive is damaged, unsafe or too large, the disk fails,
            or no dataset is inside.
    """
    if os.path.lexists(target):
        msg = f"{target} already exists. Remove it, or choose another folder for the dataset."
        raise DataError(msg)
    with ExitStack() as opened:
        files: list[BinaryIO] = []
        for archive in archives:
            try:
                files.append(opened.enter_context(archive.open("rb")))
            except OSError as error:
                msg = f"Cannot open the archive {archive}: {error}. Check the path."
                raise MissingDataError(msg) from error
        for archive, file in zip(archives, files, strict=True):
            if archive.name in sha256:
                _check_sha256(archive, file, sha256[archive.name].lower())
        try:
            folder = opened.enter_context(unfinished_folder(target)) / "content"
            folder.mkdir()
            taken: dict[str, tuple[str, bool]] = {}
            for archive, file in zip(archives, files, strict=True):
                _unpack(_Unpacking(archive, file, folder, taken))
            _find_dataset(folder, is_dataset, archives, expected).rename(target)
        except OSError as error:
            if isinstance(error, DataError):
                raise
            msg = f"Cannot unpack to {target.parent}: {error}. Check the disk and its permissions."
            raise DataError(msg) from error
    return target


def _check_sha256(archive: Path, file: BinaryIO, known: str) -> None:
    digest = hashlib.sha256()
    with progress_bar(f"Checking {archive.name}", os.fstat(file.fileno()).st_size) as reached:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            reached(file.tell())
    file.seek(0)
    found = digest.hexdigest()
    if found != known:
        msg = (
            f"{archive} must have the SHA-256 {known[:16]}..., got {found[:16]}.... The download is incomplete, or "
            f"this is another file of that name. Download it again."
        )
        raise DataError(msg)


class _Unpacking:
    """One archive on its way into a folder, with a budget of bytes.

    Args:
        taken: The names in the folder and whether they are folders, by their spelling without case.
    """

    def __init__(self, archive: Path, file: BinaryIO, folder: Path, taken: dict[str, tuple[str, bool]]) -> None:
        self.archive, self.file, self.folder = archive, file, folder
        self._taken = taken
        self._num_members = 0
        most_grown = max(MOST_RATIO * os.fstat(file.fileno()).st_size, FREE_RATIO_BYTES)
        self._most, self._reason = min(
            (shutil.disk_usage(folder).free - RESERVE, "the disk has no room for more"),
            (MOST_BYTES, "no public dataset is larger"),
            (most_grown, f"datasets do not grow to more than {MOST_RATIO} times their archive"),
        )
        self._left = self._most

    def require(self, num_bytes: int) -> None:
        """Raise an error if so many more bytes are not allowed."""
        if num_bytes > self._left:
            msg = (
                f"{self.archive} may unpack to at most {max(self._most, 0) / 1e6:.1f} MB, because {self._reason}, but "
                f"holds more. Make room on the disk, or unpack it by hand if you trust it."
            )
            raise DataError(msg)

    def spend(self, num_bytes: int) -> None:
        """Count bytes that came out of the archive."""
        self.require(num_bytes)
        self._left -= num_bytes

    def admit(self, name: str, objections: Mapping[str, bool], *, is_folder: bool) -> bool:
        """Refuse a member if an objection holds; otherwise return whether to write it, because it is not junk."""
        self._num_members += 1
        if self._num_members > MOST_MEMBERS:
            msg = f"{self.archive} must have at most {MOST_MEMBERS} members, but has more. Is it the right archive?"
            raise DataError(msg)
        levels, parts = name.split("/"), [part for part in name.split("/") if part not in {"", "."}]
        objections = {
            **objections,
            "is an absolute path": name.startswith("/") or re.match("[A-Za-z]:", name) is not None,
            "has a backslash in its name": "\\" in name,
            "leads out of its folder": ".." in levels,
            f"lies more than {MOST_LEVELS} folders deep": len(levels) > MOST_LEVELS,
            "has control characters in its name": any(ord(letter) < ord(" ") for letter in name),
            "has no name": not parts and not is_folder,
        }
        objection = next((objection for objection, holds in objections.items() if holds), "")
        if not objection and any(part in JUNK or part.startswith("._") for part in parts):
            return False
        for depth in range(1, len(parts) + 1):
            upper, is_above = "/".join(parts[:depth]), is_folder or depth < len(parts)
            key = unicodedata.normalize("NFC", upper).casefold()
            if not objection and key in self._taken and (self._taken[key] != (upper, True) or not is_above):
                objection = f"means the same place as {self._taken[key][0]!r}, at least where case does not count"
            self._taken[key] = (upper, is_above)
        if objection:
            msg = (
                f"{self.archive} must hold only plain files and folders below its root, but {name!r} {objection}. "
                f"Download it again from its publisher, and do not unpack this one by hand."
            )
            raise DataError(msg)
        return True


class _Metered(io.BufferedIOBase):
    """A decompressed tar that can only be read forwards, against a budget."""

    def __init__(self, source: io.BufferedIOBase | BinaryIO, unpacking: _Unpacking) -> None:
        self._source, self._unpacking = source, unpacking
        self._position = 0
        self.last = b""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MOST_AT_ONCE:
            msg = f"a header wants {size} bytes"
            raise ValueError(msg)
        self.last = self._source.read(size)
        self._position += len(self.last)
        self._unpacking.spend(len(self.last))
        return self.last

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if offset < self._position or whence != os.SEEK_SET:
            msg = "members overlap"
            raise ValueError(msg)
        while self._position < offset and self.read(min(offset - self._position, CHUNK)):
            pass
        return self._position


def _unpack(unpacking: _Unpacking) -> None:
    archive, file = unpacking.archive, unpacking.file
    start = file.read(max(map(len, DECOMPRESSORS)))
    file.seek(0)
    try:
        with progress_bar(f"Unpacking {archive.name}", os.fstat(file.fileno()).st_size) as reached:
            if start.startswith(ZIP_SIGNATURES):
                _unpack_zip(unpacking, reached)
            else:
                decompress = next(
                    (one for signature, one in DECOMPRESSORS.items() if start.startswith(signature)), None
                )
                _unpack_tar(unpacking, _Metered(decompress(file) if decompress else file, unpacking), reached)
    except DataError:
        raise
    except (OSError, *DAMAGE) as error:
        if isinstance(error, OSError) and error.errno not in {None, errno.EINVAL}:
            raise  # from the disk, not from the reader of a damaged archive
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = f"{archive} is not a valid zip or tar archive ({reason}). Download it again."
        raise DataError(msg) from error


def _unpack_zip(unpacking: _Unpacking, reached: Callable[[int], None]) -> None:
    with zipfile.ZipFile(unpacking.file) as reader:
        # A member never gives more bytes than it declares, so their sum is a bound.
        unpacking.require(sum(info.file_size for info in reader.infolist()))
        for info in reader.infolist():
            if _is_from_windows(info.filename):
                info.filename = info.filename.replace("\\", "/")
            objections = {
                "is a link or a device": stat.S_IFMT(info.external_attr >> 16) not in {0, stat.S_IFREG, stat.S_IFDIR},
                "is encrypted": bool(info.flag_bits & 1),
            }
            if unpacking.admit(info.filename, objections, is_folder=info.is_dir()):
                path = Path(reader.extract(info, unpacking.folder))
                if path.is_file() and path.stat().st_size != info.file_size:
                    msg = f"{info.filename!r} has {path.stat().st_size} bytes instead of {info.file_size}"
                    raise ValueError(msg)
            reached(unpacking.file.tell())


def _is_from_windows(name: str) -> bool:
    """Tell whether a name only has the backslashes that some packers on Windows write between its folders."""
    return "/" not in name and all(part not in {"", ".", ".."} for part in name.rstrip("\\").split("\\"))


def _unpack_tar(unpacking: _Unpacking, stream: _Metered, reached: Callable[[int], None]) -> None:
    with tarfile.open(fileobj=stream, mode="r:") as reader:
        for info in reader:
            is_special = not (info.isdir() or info.isreg()) or info.issparse()
            objections = {"is a link, a device or a sparse file": is_special}
            if unpacking.admit(info.name, objections, is_folder=info.isdir()):
                unpacking.require(info.size)
                reader.extract(info, unpacking.folder, set_attrs=False, filter="data")
            reached(unpacking.file.tell())
    # The reader takes damage for the end, which is a block of zeros. A checksum of the compression may follow it.
    if stream.last != bytes(tarfile.BLOCKSIZE):
        msg = "it ends too early"
        raise EOFError(msg)
    while stream.read(CHUNK):
        pass


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
    msg = f"{names} must hold {expected}, but the top level holds {found}. Is it another dataset or release?"
    raise DataError(msg)
