"""Archives good and bad, and a folder in which nothing but the target may change."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from afr_clip.data.errors import DataError
from afr_clip.data.tools.archives import unpack_archives

GOOD = {"set/yes/1.png": b"tumour" * 50, "set/no/a b.png": b"none", "set/no/2.png": b""}
"""What a small dataset holds."""

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}


def tar_of(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    """A plain tar of files, given by name and content, and of whatever else a ``TarInfo`` describes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size, info.mode = len(member[1]), 0o6777
                archive.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def special(name: str, kind: bytes, leads_to: str = "") -> tarfile.TarInfo:
    """A link or a device."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, leads_to
    return info


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content, compress_type=method)
    return buffer.getvalue()


def zip_entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def has_yes(folder: Path) -> bool:
    return (folder / "yes").is_dir()


class Bench:
    """A folder with archives in it, and beside it everything that must not change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target = folder / "data" / "BrainMRI"
        self.target.parent.mkdir()
        (folder / "outside").mkdir()
        (folder / "outside" / "precious").write_text("as it was")

    def put(self, content: bytes, name: str = "archive.bin") -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def unpack(self, *paths: Path, **known: object) -> Path:
        return unpack_archives(paths, self.target, **{"is_dataset": has_yes, "sha256": {}, **known})

    def state(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes() if path.is_file() else b""
            for path in self.folder.rglob("*")
        }

    def refuse(self, *paths: Path, match: str, **known: object) -> None:
        """Unpacking must fail with one sentence and change nothing."""
        before = self.state()
        with pytest.raises(DataError, match=match) as caught:
            self.unpack(*paths, **known)
        assert "\n" not in str(caught.value)
        assert self.state() == before


def tree_below(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


WITHOUT_SET = {name.removeprefix("set/"): content for name, content in GOOD.items()}
"""The same as it lies below its target."""
