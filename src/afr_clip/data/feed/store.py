"""Records of named arrays on disk: computed once, then read as a memory map by every worker, epoch and run.

A store is one folder per key. It is filled under another name, record by record, and renamed when it is complete. After
an interruption, filling resumes at the first record that is missing or damaged.
"""

import io
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from afr_clip.data.errors import DataError
from afr_clip.files import counted

logger = logging.getLogger(__name__)

RECORDS, CHECKSUMS, INDEX = "records.npy", "checksums.bin", "index.json"
FORMAT_VERSION = 2
CHECKSUM_BYTES = 4

Record = Mapping[str, NDArray[Any]]
"""The arrays of one record by name. All records of a store have the same names, shapes and types."""


@dataclass(frozen=True)
class StoreRequest:
    """The requested store.

    Attributes:
        folder: Its folder when it is complete.
        key: Hash of everything that decides a record's content.
        what: What it is called in messages.
        advice: A sentence for when it cannot be written.
        is_costly: Whether records take long to compute. If so, a filling that failed is kept to be resumed, and each
            record is compared with its checksum when it is read. If not, all are compared when the store is opened, and
            a damaged store is filled again.
    """

    folder: Path
    key: str
    num_records: int
    what: str
    advice: str
    is_costly: bool


@dataclass(frozen=True)
class Store:
    """A complete store; each process maps the files when it first reads.

    Attributes:
        checks_reads: Whether each record is compared with its checksum when it is read.
    """

    folder: Path
    checks_reads: bool

    def __reduce__(self) -> tuple[type["Store"], tuple[Path, bool]]:
        return Store, (self.folder, self.checks_reads)  # pickled maps would send every record to the worker

    @cached_property
    def _records(self) -> NDArray[Any]:
        return np.load(self.folder / RECORDS, mmap_mode="r")

    @cached_property
    def _checksums(self) -> NDArray[np.uint32]:
        return np.fromfile(self.folder / CHECKSUMS, dtype="<u4")

    @property
    def record_bytes(self) -> int:
        """Size of one record."""
        return int(self._records.dtype.itemsize)

    def read(self, index: int) -> dict[str, NDArray[Any]]:
        """Read a copy of one record.

        Raises:
            DataError: If the record does not match its checksum.
        """
        if self.checks_reads and zlib.crc32(self._records[index].tobytes()) != self._checksums[index]:
            msg = f"Record {index} in {self.folder / RECORDS} is damaged. Delete {self.folder} and run again."
            raise DataError(msg)
        record = self._records[index]
        return {name: np.array(record[name]) for name in record.dtype.names}


def open_store(request: StoreRequest, compute: Callable[[int], Iterable[Record]]) -> Store:
    """Open a store, and fill it first if it is absent. One process fills it while the others wait.

    Args:
        compute: Yields the records from a position on, in order.

    Raises:
        DataError: If the store does not fit on the disk or cannot be written, or a record cannot be computed.
    """
    folder = request.folder
    try:
        if not _is_whole(request):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder.with_name(f".{folder.name}.lock"), request.what):
                if not _is_whole(request):
                    _fill(request, compute)
    except DataError:
        raise
    except OSError as error:
        msg = f"Cannot write the {request.what} to {folder.parent}: {error}. {request.advice}"
        raise DataError(msg) from error
    return Store(folder, checks_reads=request.is_costly)


@contextmanager
def _alone(path: Path, what: str) -> Iterator[None]:
    lock = FileLock(path)  # the system releases it when the process ends
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Waiting for another process to fill the %s.", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_whole(request: StoreRequest) -> bool:
    try:
        index = json.loads((request.folder / INDEX).read_text(encoding="utf-8"))
        if (index["format"], index["key"]) != (FORMAT_VERSION, request.key):
            return False
        with (request.folder / RECORDS).open("rb") as records, (request.folder / CHECKSUMS).open("rb") as checksums:
            record = _read_header(records, request.num_records)
            sizes = [os.fstat(file.fileno()).st_size for file in (records, checksums)]
            num_bytes = records.tell() + request.num_records * record.itemsize
            if sizes != [num_bytes, request.num_records * CHECKSUM_BYTES]:
                return False
            return request.is_costly or _count_whole(records, checksums, record.itemsize) == request.num_records
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _fill(request: StoreRequest, compute: Callable[[int], Iterable[Record]]) -> None:
    unfinished = request.folder.with_name(f".{request.folder.name}.unfinished")
    layout, start = _resumable(unfinished, request)
    if layout is None:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
    elif start:
        logger.info("Resuming the %s at record %d of %d.", request.what, start + 1, request.num_records)
    try:
        with (unfinished / RECORDS).open("ab") as records, (unfinished / CHECKSUMS).open("ab") as checksums:
            for record in compute(start) if start < request.num_records else ():
                if layout is None:
                    layout = _layout_of(record)
                    _require_space(request, layout)
                    index = {"format": FORMAT_VERSION, "key": request.key, "num_records": request.num_records}
                    (unfinished / INDEX).write_text(json.dumps(index), encoding="utf-8")
                    records.write(_header(layout, request.num_records))
                assert _layout_of(record) == layout, "all samples of a dataset are prepared alike"
                content = b"".join(array.tobytes() for array in record.values())
                records.write(content)
                records.flush()  # its checksum, written next, marks the record as complete
                checksums.write(zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little"))
                checksums.flush()
            for file in (records, checksums):
                os.fsync(file.fileno())
    except (DataError, OSError):
        if not request.is_costly:
            shutil.rmtree(unfinished)
        raise
    if request.folder.exists():
        shutil.rmtree(request.folder)  # incomplete or damaged
    unfinished.rename(request.folder)


def _layout_of(record: Record) -> np.dtype[Any]:
    return np.dtype([(name, array.dtype, array.shape) for name, array in record.items()])


def _require_space(request: StoreRequest, layout: np.dtype[Any]) -> None:
    where = request.folder.parent
    total, free = request.num_records * layout.itemsize, shutil.disk_usage(where).free
    size = f"{counted(request.num_records, 'image')} of {layout.itemsize / 1e6:.2f} MB, {total / 1e9:.2f} GB in total"
    if total > free:
        msg = (
            f"The {request.what} does not fit in {where}: it needs {size}, but only {free / 1e9:.2f} GB are free. "
            f"{request.advice}"
        )
        raise DataError(msg)
    logger.info("Filling the %s %s: %s.", request.what, request.folder, size)


def _resumable(unfinished: Path, request: StoreRequest) -> tuple[np.dtype[Any] | None, int]:
    """Return the layout and the number of whole records of an unfinished store, and cut off what follows them."""
    try:
        index = json.loads((unfinished / INDEX).read_text(encoding="utf-8"))
        if (index["format"], index["key"]) != (FORMAT_VERSION, request.key):
            return None, 0
        with (unfinished / RECORDS).open("r+b") as records, (unfinished / CHECKSUMS).open("r+b") as checksums:
            layout = _read_header(records, request.num_records)
            head = records.tell()
            num_whole = _count_whole(records, checksums, layout.itemsize)
            records.truncate(head + num_whole * layout.itemsize)
            checksums.truncate(num_whole * CHECKSUM_BYTES)
    except (OSError, ValueError, LookupError, TypeError):
        return None, 0
    return layout, num_whole


def _count_whole(records: BinaryIO, checksums: BinaryIO, num_bytes: int) -> int:
    """Count the records from the current position on that match their checksums, up to the first that does not."""
    number = 0
    while len(checksum := checksums.read(CHECKSUM_BYTES)) == CHECKSUM_BYTES:
        content = records.read(num_bytes)
        if len(content) < num_bytes or zlib.crc32(content) != int.from_bytes(checksum, "little"):
            break
        number += 1
    return number


def _header(layout: np.dtype[Any], num_records: int) -> bytes:
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(layout)
    header = {"descr": descr, "fortran_order": False, "shape": (num_records,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def _read_header(file: BinaryIO, num_records: int) -> np.dtype[Any]:
    np.lib.format.read_magic(file)
    shape, _, layout = np.lib.format.read_array_header_1_0(file)
    if shape != (num_records,) or layout.names is None:
        msg = "the records are of another format"
        raise ValueError(msg)
    return layout
