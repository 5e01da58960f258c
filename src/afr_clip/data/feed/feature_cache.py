"""What a frozen image tower reads out of each image, on disk: computed once, then read by every epoch and every run.

One folder per dataset and key. It is filled under another name, image by image, and gets its own when it is whole; a
filling that was stopped, by whatever, goes on behind its last whole record.
"""

import io
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from afr_clip.data.errors import DataError

logger = logging.getLogger(__name__)

RECORDS, CHECKSUMS, INDEX = "records.npy", "checksums.bin", "index.json"
CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class TappedSample:
    """One image as the image tower left it, with its truth.

    Attributes:
        mask: Pixel truth at the model's input size.
        tapped: What the tower gave, without a batch axis.
    """

    mask: Bool[Tensor, "height width"]
    tapped: tuple[Tensor, ...]


@dataclass(frozen=True)
class RecordForm:
    """How a record lies on disk: the mask's bytes, then the tensors behind each other.

    Attributes:
        size: Height and width of the mask.
        shapes: Of the tensors.
        dtype: Of the tensors on disk: ``float32`` or ``float16``; they are read as float32.
    """

    size: tuple[int, int]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str

    @classmethod
    def of(cls, sample: TappedSample, dtype: str) -> "RecordForm":
        """Return the form that a sample takes."""
        height, width = sample.mask.shape
        return cls((height, width), tuple(tuple(tensor.shape) for tensor in sample.tapped), dtype)

    @property
    def num_bytes(self) -> int:
        """Bytes of a record."""
        values = sum(int(np.prod(shape)) for shape in self.shapes)
        return self.size[0] * self.size[1] + values * np.dtype(self.dtype).itemsize

    def pack(self, sample: TappedSample) -> bytes:
        """Turn a sample into a record.

        Args:
            sample: A sample of this form.

        Returns:
            The record's bytes.

        Raises:
            DataError: If the sample has another form, or a value is beyond what ``dtype`` holds.
        """
        form = RecordForm.of(sample, self.dtype)
        if form != self:
            msg = f"Every record must have the form {self}, got {form}. Run with data.feature_cache=false."
            raise DataError(msg)
        with np.errstate(over="ignore"):  # said below
            values = [tensor.float().cpu().numpy().astype(self.dtype) for tensor in sample.tapped]
        if not all(np.isfinite(array).all() for array in values):
            msg = (
                f"What the image tower gives must be finite numbers that {self.dtype} holds, and is not. "
                f"Set data.feature_dtype=float32, or data.feature_cache=false."
            )
            raise DataError(msg)
        return b"".join([sample.mask.cpu().numpy().tobytes(), *(array.tobytes() for array in values)])

    def unpack(self, record: bytes) -> TappedSample:
        """Turn a record back into a sample; its tensors are float32."""
        num_pixels, itemsize = self.size[0] * self.size[1], np.dtype(self.dtype).itemsize
        mask = np.frombuffer(record, np.bool_, num_pixels).reshape(self.size)
        tapped, offset = [], num_pixels
        for shape in self.shapes:
            values = np.frombuffer(record, np.uint8, int(np.prod(shape)) * itemsize, offset).view(self.dtype)
            tapped.append(torch.from_numpy(values.reshape(shape).astype(np.float32)))
            offset += values.nbytes
        return TappedSample(torch.from_numpy(mask.copy()), tuple(tapped))


@dataclass(frozen=True)
class FeatureCache:
    """A whole cache folder; each process maps its files when it first reads.

    Attributes:
        folder: Where the files are.
    """

    folder: Path

    def __getstate__(self) -> dict[str, Path]:
        return {"folder": self.folder}  # a pickled map would carry every record to the worker

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__dict__.update(state)

    @cached_property
    def _form(self) -> RecordForm:
        return _form_of(json.loads((self.folder / INDEX).read_text(encoding="utf-8")))

    @cached_property
    def _records(self) -> NDArray[np.uint8]:
        return np.load(self.folder / RECORDS, mmap_mode="r")

    @cached_property
    def _checksums(self) -> NDArray[np.uint32]:
        return np.fromfile(self.folder / CHECKSUMS, dtype="<u4")

    def read(self, index: int) -> TappedSample:
        """Read one sample, and compare it with its checksum.

        Args:
            index: Position in the list of samples that the cache was filled for.

        Returns:
            A copy of what was kept.

        Raises:
            DataError: If the record is damaged.
        """
        record = self._records[index].tobytes()
        if zlib.crc32(record) != self._checksums[index]:
            msg = (
                f"Record {index} in {self.folder / RECORDS} must be what was written there, and is damaged. "
                f"Delete {self.folder} and run again."
            )
            raise DataError(msg)
        return self._form.unpack(record)


@dataclass(frozen=True)
class FeatureRequest:
    """Which cache is wanted.

    Attributes:
        folder: Where it lies once it is whole.
        key: Hash of everything that decides a record.
        num_samples: How many records.
        dtype: Of the tensors on disk.
    """

    folder: Path
    key: str
    num_samples: int
    dtype: str


def open_features(request: FeatureRequest, compute: Callable[[int], Iterable[TappedSample]]) -> FeatureCache:
    """Open a cache; fill it first if it is not there. Of several processes one fills it, and the others wait.

    Args:
        request: Which one.
        compute: Gives the samples from a position on, in their order.

    Returns:
        The cache.

    Raises:
        DataError: If it does not fit on the disk, or cannot be written.
    """
    folder = request.folder
    try:
        if not _is_whole(request):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder.with_name(f".{folder.name}.lock")):
                if not _is_whole(request):
                    _fill(request, compute)
    except DataError:
        raise
    except OSError as error:
        msg = (
            f"The feature cache must be written to {folder.parent}, but that failed: {error}. Free some space and run "
            f"again, which goes on where it stopped; or set cache_dir=DIR, or data.feature_cache=false."
        )
        raise DataError(msg) from error
    return FeatureCache(folder)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that no other process holds; the system releases it when the process ends, however it does."""
    import fcntl  # noqa: PLC0415 - absent on Windows, where only this needs it

    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Another process fills the feature cache; waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_whole(request: FeatureRequest) -> bool:
    """Whether the folder is there with all its files; their content is compared when it is read."""
    try:
        index = json.loads((request.folder / INDEX).read_text(encoding="utf-8"))
        sizes = [(request.folder / name).stat().st_size for name in (RECORDS, CHECKSUMS)]
        records = len(_header(_form_of(index), request.num_samples)) + request.num_samples * _form_of(index).num_bytes
        return bool(index["key"] == request.key and sizes == [records, request.num_samples * CHECKSUM_BYTES])
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _fill(request: FeatureRequest, compute: Callable[[int], Iterable[TappedSample]]) -> None:
    unfinished = request.folder.with_name(f".{request.folder.name}.unfinished")
    form, start = _left_by_another(unfinished, request)
    if form is None:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
    elif start:
        logger.info("Going on with the feature cache behind image %d of %d.", start, request.num_samples)
    with (unfinished / RECORDS).open("ab") as records, (unfinished / CHECKSUMS).open("ab") as checksums:
        for sample in compute(start) if start < request.num_samples else ():
            if form is None:
                form = RecordForm.of(sample, request.dtype)
                _announce(request, form)
                index = {"key": request.key, "num_samples": request.num_samples, **asdict(form)}
                (unfinished / INDEX).write_text(json.dumps(index), encoding="utf-8")
                records.write(_header(form, request.num_samples))
            record = form.pack(sample)
            records.write(record)
            records.flush()  # the checksum behind it says that a record is whole
            checksums.write(zlib.crc32(record).to_bytes(CHECKSUM_BYTES, "little"))
            checksums.flush()
        for file in (records, checksums):
            os.fsync(file.fileno())
    if request.folder.exists():
        shutil.rmtree(request.folder)  # of this name, and not whole
    unfinished.rename(request.folder)


def _announce(request: FeatureRequest, form: RecordForm) -> None:
    total = request.num_samples * form.num_bytes
    free = shutil.disk_usage(request.folder.parent).free
    where = request.folder.parent
    if total > free:
        msg = (
            f"The feature cache needs {total / 1e9:.2f} GB in {where} ({request.num_samples} images of "
            f"{form.num_bytes / 1e6:.2f} MB), where {free / 1e9:.2f} GB are free. Free some space, set cache_dir=DIR "
            f"or data.feature_dtype=float16, or run with data.feature_cache=false."
        )
        raise DataError(msg)
    logger.info(
        "Filling the feature cache %s: %d images of %.2f MB, %.2f GB in all.",
        *(request.folder, request.num_samples, form.num_bytes / 1e6, total / 1e9),
    )


def _left_by_another(unfinished: Path, request: FeatureRequest) -> tuple[RecordForm | None, int]:
    """Find out how far a stopped filling got, and cut off what is not whole."""
    try:
        index = json.loads((unfinished / INDEX).read_text(encoding="utf-8"))
        form = _form_of(index)
        if index["key"] != request.key:
            return None, 0
        head = len(_header(form, request.num_samples))
        with (unfinished / RECORDS).open("r+b") as records, (unfinished / CHECKSUMS).open("r+b") as checksums:
            if records.read(head) != _header(form, request.num_samples):
                return None, 0
            num_whole = _count_whole(records, checksums, form.num_bytes)
            records.truncate(head + num_whole * form.num_bytes)
            checksums.truncate(num_whole * CHECKSUM_BYTES)
    except (OSError, ValueError, LookupError, TypeError):
        return None, 0
    return form, num_whole


def _count_whole(records: BinaryIO, checksums: BinaryIO, num_bytes: int) -> int:
    number = 0
    while len(checksum := checksums.read(CHECKSUM_BYTES)) == CHECKSUM_BYTES:
        record = records.read(num_bytes)
        if len(record) < num_bytes or zlib.crc32(record) != int.from_bytes(checksum, "little"):
            break
        number += 1
    return number


def _form_of(index: dict[str, Any]) -> RecordForm:
    height, width = index["size"]
    return RecordForm((height, width), tuple(tuple(shape) for shape in index["shapes"]), index["dtype"])


def _header(form: RecordForm, num_samples: int) -> bytes:
    buffer = io.BytesIO()
    layout = {"descr": "|u1", "fortran_order": False, "shape": (num_samples, form.num_bytes)}
    np.lib.format.write_array_header_1_0(buffer, layout)
    return buffer.getvalue()
