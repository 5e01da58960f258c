"""The files and folders of an archive, one after the other, read against a budget.

What an archive says of itself is not believed: bytes are counted as they come out. Links are refused altogether,
wherever they lead, because no public dataset holds any.
"""

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from afr_clip.data.errors import DataError

MOST_BYTES = 100 << 30
"""Bytes that one archive may become; far above any dataset that is known here."""

MOST_RATIO, FREE_RATIO_BYTES = 100, 256 << 20
"""Bytes that one byte of an archive may become, and how many are let pass before that is asked.

Photographs hardly shrink; masks shrink more, but are few beside them.
"""

RESERVE = 512 << 20
"""Bytes of the disk that are left free."""

CHUNK = 1 << 20
"""Bytes read at a time."""

MOST_AT_ONCE = 16 << 20
"""Bytes that the reader of tar archives may ask for at once, as it does for long names."""


@runtime_checkable
class Readable(Protocol):
    """What bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Read up to ``size`` bytes; none at the end."""


ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
DECOMPRESSORS: Mapping[bytes, Callable[[BinaryIO], Readable]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
"""First bytes of compressed tar archives, and what reads them."""


@dataclass(frozen=True)
class Member:
    """One entry of an archive.

    Attributes:
        name: Its path as the archive spells it.
        size: How many bytes it should have.
        content: To be read before the next member is asked for; ``None`` for a folder.
    """

    name: str
    size: int
    content: Readable | None


class Budget:
    """How many bytes an archive may become.

    Args:
        archive: The file.
        num_bytes: Its size.
        folder: Where it is unpacked.
    """

    def __init__(self, archive: Path, num_bytes: int, folder: Path) -> None:
        most_grown = max(MOST_RATIO * num_bytes, FREE_RATIO_BYTES)
        self._most, self._reason = min(
            (shutil.disk_usage(folder).free - RESERVE, "the disk has no room for more"),
            (MOST_BYTES, "no public dataset is larger"),
            (most_grown, f"datasets do not grow to more than {MOST_RATIO} times their archive"),
        )
        self._archive = archive
        self._left = self._most

    def require(self, num_bytes: int) -> None:
        """Ask whether so many bytes more are allowed.

        Args:
            num_bytes: How many.

        Raises:
            DataError: If they are not.
        """
        if num_bytes > self._left:
            most = max(self._most, 0) / 1e6
            msg = (
                f"{self._archive} must unpack to at most {most:.1f} MB, because {self._reason}, but holds more. "
                f"Make room on the disk, or unpack it by hand if you trust it."
            )
            raise DataError(msg)

    def spend(self, num_bytes: int) -> None:
        """Count bytes that came out of the archive.

        Args:
            num_bytes: How many.

        Raises:
            DataError: If they are more than is left.
        """
        self.require(num_bytes)
        self._left -= num_bytes


def read_members(archive: Path, file: BinaryIO, budget: Budget) -> Iterator[Member]:
    """Read an archive; its content tells its kind: zip, or tar, plain or compressed with gzip, bzip2 or xz.

    Args:
        archive: Its path, for sentences.
        file: The same, open at its beginning.
        budget: What it may become.

    Yields:
        Files and folders in the archive's order.

    Raises:
        DataError: If there is something else inside, or the budget is spent; damage raises whatever the reader does.
    """
    start = file.read(max(map(len, DECOMPRESSORS)))
    file.seek(0)
    if start.startswith(ZIP_SIGNATURES):
        yield from _zip_members(archive, file, budget)
        return
    found = (decompress for signature, decompress in DECOMPRESSORS.items() if start.startswith(signature))
    decompress = next(found, None)
    yield from _tar_members(archive, _Metered(decompress(file) if decompress else file, budget), budget)


def refusal(archive: Path, name: str, objection: str) -> DataError:
    """Say why a member is not unpacked.

    Args:
        archive: The file.
        name: The member.
        objection: What is wrong with it.

    Returns:
        To be raised.
    """
    return DataError(
        f"{archive} must hold plain files and folders below its own root, but {name!r} {objection}. "
        f"Download it again from its publisher, and do not unpack this one by hand."
    )


class _Metered(io.BufferedIOBase):
    """A file that is read forwards only, against a budget."""

    def __init__(self, source: Readable, budget: Budget) -> None:
        self._source, self._budget = source, budget
        self._position = 0
        self.last = b""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MOST_AT_ONCE:
            msg = f"a header wants {size} bytes"
            raise ValueError(msg)
        self.last = self._source.read(size)
        self._position += len(self.last)
        self._budget.spend(len(self.last))
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


def _zip_members(archive: Path, file: BinaryIO, budget: Budget) -> Iterator[Member]:
    with zipfile.ZipFile(file) as reader:
        budget.require(sum(info.file_size for info in reader.infolist()))
        for info in reader.infolist():
            if stat.S_IFMT(info.external_attr >> 16) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise refusal(archive, info.filename, "is a link or a device")
            if info.flag_bits & 1:
                raise refusal(archive, info.filename, "is encrypted")
            if info.is_dir():
                yield Member(info.filename, 0, None)
                continue
            with reader.open(info) as content:
                yield Member(info.filename, info.file_size, _Metered(content, budget))


def _tar_members(archive: Path, stream: _Metered, budget: Budget) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r:") as reader:
        for info in reader:
            if not (info.isdir() or info.isreg()) or info.issparse():
                raise refusal(archive, info.name, "is a link, a device or a file with holes")
            budget.require(info.size)
            yield Member(info.name, info.size, reader.extractfile(info) if info.isreg() else None)
    # The reader takes damage for the end, which is a block of zeros; a checksum of the compression may follow it.
    if stream.last != bytes(tarfile.BLOCKSIZE):
        msg = "it ends too early"
        raise EOFError(msg)
    while stream.read(CHUNK):
        pass
