"""Files of tensors, read without running what is in them: safetensors, ``torch.save``, TorchScript.

The last two are zip archives. Their ``data.pkl`` says how tensors lie in storages, which are files of the archive. It
is a pickle, so it is read with an unpickler that knows a handful of names and calls nothing else. PyTorch's own readers
would not do: one does not compare checksums, and that of TorchScript runs the operators in the file.
"""

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from afr_clip.files import shown, written_whole

MAX_VALUES = 2_000_000
"""Most values next to tensors. Lists that contain each other could expand beyond any memory."""

MAX_DEPTH = 100
"""Deepest nesting of these values."""

MAX_SIDE = 2**40
"""Longest side of a tensor. A longer one must be empty along another side, and could overflow there."""

MAX_PICKLE = 2**28
"""Bytes of ``data.pkl`` and of the code of a TorchScript archive, of which the largest known have 2 MB."""

_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

_OF_WHOLE_MODULES = re.compile(r"torch\.nn\.modules\.\w+|clip\.adaptor")
"""Where the classes of modules come from that were saved whole instead of as a state dict: PyTorch's, and AF-CLIP's."""

_TENSORS_OF_CLASS = re.compile(
    r"^class (?P<name>\w+)(?:\(\w+\))?:\n"
    r"(?:\s+__parameters__ = \[(?P<parameters>.*)\]\n)?"
    r"(?:\s+__buffers__ = \[(?P<buffers>.*)\])?",
    re.MULTILINE,
)
"""Where the code of a TorchScript archive lists which attributes of a class are weights."""

_STARTS = {
    rb"version https://git-lfs": "a Git LFS pointer: run `git lfs pull`",
    rb"\s*(<!doctype html|<html|<head|<\?xml)": "a web page, so the download failed",
    rb"\x89PNG|\xff\xd8\xff|GIF8|BM....\x00\x00\x00\x00|II\*\x00|MM\x00\*": "a picture",
    rb"\x1f\x8b|7z\xbc\xaf|BZh|\xfd7zXZ": "a compressed archive: unpack it first",
    rb"PK\x03\x04": "a damaged or incomplete archive",
    rb"\x80[\x02-\x05]": "a pickle that is damaged, incomplete or holds more than tensors and plain values",
    rb"[\t\n\r -~\xc2-\xf4\x80-\xbf]+$": "a text file",
}
"""What a file without tensors is, by its first bytes."""


class TensorFileError(ValueError):
    """A file that cannot be read. The message names the file and its fault; what to do depends on who asked for it."""


class _NotReadableError(Exception):
    """What is wrong inside a file, as the end of a sentence about it."""


def read_tensor_file(path: Path) -> Any:  # noqa: ANN401 - a file holds what it likes
    """Read the tensors and plain values of a file onto the CPU.

    Checksums are compared where the form has them. Nothing larger than the file is allocated.

    Returns:
        What was saved. Dictionaries, lists and tuples keep their kind; of a TorchScript archive, or of a module of
        PyTorch's that was saved whole, the state dict.

    Raises:
        TensorFileError: If the file is damaged or of another kind, or holds more than tensors and plain values.
        OSError: If it cannot be opened.
    """
    if path.is_dir():
        msg = f"{shown(path)} could not be read: it is a folder"
        raise TensorFileError(msg)
    with path.open("rb") as file:
        head = file.read(1024)
        try:
            if path.suffix == ".safetensors" or _is_safetensors(head, path):
                return _Plain().of(load_file(path))
            if zipfile.is_zipfile(file):
                archive = _Archive(file)
                return _Plain(archive.tensor).of(archive.content())
            return _Plain().of(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # what the libraries raise for damaged bytes is of any kind
            why = str(error) if isinstance(error, _NotReadableError) else f"it is {_kind(head, error)}"
            msg = f"{shown(path)} could not be read: {why}"
            raise TensorFileError(msg) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, {"format": "pt"})
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Name the tensors that hold NaN or infinity."""
    return [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]


def _is_safetensors(head: bytes, path: Path) -> bool:
    return head[8:10] == b'{"' and int.from_bytes(head[:8], "little") <= path.stat().st_size


def _kind(head: bytes, error: Exception) -> str:
    if not head:
        return "empty"
    for start, kind in _STARTS.items():
        if re.match(start, head, re.IGNORECASE | re.DOTALL):
            if isinstance(error, zipfile.BadZipFile) and "CRC" in str(error):
                return "damaged: a checksum inside it does not match"
            return kind
    return "damaged, or no file of tensors"


class _Stored(NamedTuple):
    """A tensor as ``data.pkl`` describes it."""

    key: str
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Scripted:
    """An object of a TorchScript archive; its class is code there, which is not run."""

    attributes: Mapping[Any, Any] = {}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            msg = "its modules restore themselves with code of their own"
            raise _NotReadableError(msg)
        self.attributes = state


class _Whole(_Scripted):
    """A module that was saved whole. Its class is not imported; what counts are its tensors."""

    weights: frozenset[str] = frozenset()

    def __setstate__(self, state: object) -> None:
        own = state if isinstance(state, dict) else {}
        parameters, buffers, modules = (own.get(key) for key in ("_parameters", "_buffers", "_modules"))
        if not (isinstance(parameters, dict) and isinstance(buffers, dict) and isinstance(modules, dict)):
            msg = "it holds a module without parameters"
            raise _NotReadableError(msg)
        kept = own.get("_non_persistent_buffers_set")
        left_out = kept if isinstance(kept, frozenset) else frozenset()
        self.attributes = {**parameters, **buffers, **modules}
        self.weights = frozenset((*parameters, *buffers)) - left_out


class _Unpickler(pickle.Unpickler):
    """Reads ``data.pkl``. What it makes are plain values and descriptions of tensors."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as in the base class
        """Return the stand-in of a known name.

        New stand-ins are made for each call, because a pickle can set attributes of what it gets.
        """
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module.partition(".")[0] == "__torch__":
            return type(f"{module}.{name}", (_Scripted,), {})
        if _OF_WHOLE_MODULES.fullmatch(module):
            return type(name, (_Whole,), {})

        def rebuilt(
            storage: tuple[str, torch.dtype], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
        ) -> _Stored:
            return _Stored(*storage, offset, tuple(size), tuple(stride))

        known: dict[tuple[str, str], Callable[..., Any] | type] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): rebuilt,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("__builtin__", "set"): lambda names=(), *_: frozenset(names),
            ("torch", "Size"): lambda sizes=(): tuple(sizes),
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
            **{
                ("torch.jit._pickle", f"build_{kind}list"): lambda values: values
                for kind in ("int", "double", "bool", "tensor")
            },
        }
        if (module, name) not in known:
            msg = f"it refers to {shown(module)}.{shown(name)}, which is neither a tensor nor a plain value"
            raise _NotReadableError(msg)
        return known[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, torch.dtype]:  # noqa: ANN401 - as in the base class
        """Return the key of a storage and what its bytes are."""
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            msg = "it names its storages in an unknown way"
            raise _NotReadableError(msg)
        return key, dtype


class _Archive:
    """A zip archive of ``torch.save`` or TorchScript."""

    def __init__(self, file: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(file)
        entries = self._zip.infolist()
        pickles = [entry.filename for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            kind = "it is a zip archive of something else" if not pickles else "it holds several files in one"
            raise _NotReadableError(kind)
        self._root = pickles[0].removesuffix("data.pkl")
        self._storages: dict[str, Tensor] = {}
        storages = [entry for entry in entries if entry.filename.startswith(f"{self._root}data/")]
        file.seek(0, 2)
        if sum(entry.file_size for entry in storages) > file.tell():
            msg = "it claims to hold more than its own size"
            raise _NotReadableError(msg)

    def content(self) -> Any:  # noqa: ANN401 - a file holds what it likes
        """Return what was saved, with descriptions in place of tensors."""
        if f"{self._root}byteorder" in self._zip.namelist() and self._bytes("byteorder") != b"little":
            msg = "its numbers are in the byte order of another machine"
            raise _NotReadableError(msg)
        pickled = self._bytes("data.pkl")
        for opcode, argument, _ in pickletools.genops(pickled):  # fails where bytes are missing
            if "PUT" in opcode.name and argument is not None and int(argument) > MAX_VALUES:
                msg = "its values take more places than they can need"  # the unpickler would make room for all of them
                raise _NotReadableError(msg)
        content = _Unpickler(io.BytesIO(pickled)).load()
        return self._state_dict(content) if isinstance(content, _Scripted) else content

    def _bytes(self, name: str) -> bytes:
        if self._zip.getinfo(self._root + name).file_size > MAX_PICKLE:
            msg = f"its {name} is too large"
            raise _NotReadableError(msg)
        return self._zip.read(self._root + name)

    def _state_dict(self, module: _Scripted) -> dict[str, object]:
        """Collect parameters and buffers under the names that the state dict of the running module would have."""
        tensors: dict[str, set[str] | frozenset[str]] = {}
        for path in self._zip.namelist():
            if path.startswith(f"{self._root}code/") and path.endswith(".py"):
                package = path.removeprefix(f"{self._root}code/").removesuffix(".py").replace("/", ".")
                for found in _TENSORS_OF_CLASS.finditer(self._bytes(path.removeprefix(self._root)).decode()):
                    listed = (found["parameters"] or "") + (found["buffers"] or "")
                    tensors[f"{package}.{found['name']}"] = set(re.findall(r'"([^"]+)"', listed))
        state: dict[str, object] = {}
        left, num_modules = [("", module, 0)], 0
        while left:
            prefix, owner, depth = left.pop()
            num_modules += 1
            if depth > MAX_DEPTH or max(num_modules, len(state)) > MAX_VALUES:
                msg = "its modules contain each other"
                raise _NotReadableError(msg)
            weights = owner.weights if isinstance(owner, _Whole) else tensors.get(type(owner).__name__)
            if weights is None:
                msg = "its code does not say which of its tensors are weights"
                raise _NotReadableError(msg)
            for name, value in owner.attributes.items():
                if isinstance(value, _Scripted):
                    left.append((f"{prefix}{name}.", value, depth + 1))
                elif isinstance(value, _Stored) and name in weights:
                    state[f"{prefix}{name}"] = value
        return state

    def tensor(self, stored: _Stored) -> Tensor:
        """Read a tensor, or take it from a storage that was read before."""
        key, dtype, offset, size, stride = stored
        storage = self._storages.get(key)
        if storage is None:
            storage = self._storages[key] = self._storage(key)
        numbers = (offset, *size, *stride)
        if not all(isinstance(number, int) and number >= 0 for number in numbers) or len(size) != len(stride):
            msg = "the shape of a tensor is not made of numbers"
            raise _NotReadableError(msg)
        held = storage.numel() // dtype.itemsize
        last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        if math.prod(size) > held or (0 not in size and last >= held) or max(size, default=0) > MAX_SIDE:
            msg = f"a tensor is said to have the shape {size}, but its storage holds {held} numbers"
            raise _NotReadableError(msg)
        return storage[: held * dtype.itemsize].view(dtype).as_strided(size, stride, 0 if 0 in size else offset)

    def _storage(self, key: str) -> Tensor:
        entry = self._zip.getinfo(f"{self._root}data/{key}")
        if entry.compress_type != zipfile.ZIP_STORED:
            msg = "its storages are compressed"
            raise _NotReadableError(msg)
        content = bytearray(self._zip.read(entry))  # compares the checksum
        return torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


class _Plain:
    """Turns content into tensors and plain values, which it counts.

    Args:
        tensor: Reads a described tensor.
    """

    def __init__(self, tensor: Callable[[_Stored], Tensor] | None = None) -> None:
        self._tensor = tensor
        self._num_values = 0
        self._done: dict[int, tuple[Any, int]] = {}

    def of(self, value: object, depth: int = 0) -> Any:  # noqa: ANN401 - a file holds what it likes
        self._num_values += 1
        if self._num_values > MAX_VALUES or depth > MAX_DEPTH:
            msg = "its values contain each other"
            raise _NotReadableError(msg)
        if isinstance(value, _Stored):
            assert self._tensor is not None, "only archives describe tensors"
            return self._tensor(value)
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
                msg = "it holds tensors of a special kind"
                raise _NotReadableError(msg)
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                msg = f"a tensor is said to have the shape {tuple(value.shape)}, but its storage is smaller"
                raise _NotReadableError(msg)
            return value.detach()
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        if not isinstance(value, dict | list | tuple):
            msg = f"it holds a {type(value).__name__}, which is neither a tensor nor a plain value"
            raise _NotReadableError(msg)
        if id(value) not in self._done:  # a repeated value is counted again, but not walked again
            before, inside = self._num_values, depth + 1
            made: Any
            if isinstance(value, dict):
                made = {self._key(key): self.of(entry, inside) for key, entry in value.items()}
            else:
                made = [self.of(entry, inside) for entry in value]
            self._done[id(value)] = (tuple(made) if isinstance(value, tuple) else made, self._num_values - before)
        else:
            self._num_values += self._done[id(value)][1]
        return self._done[id(value)][0]

    def _key(self, key: object) -> str | int | float | bool | None:
        if not (key is None or isinstance(key, str | int | float)):
            msg = "its names are not text"
            raise _NotReadableError(msg)
        return key
