"""What a prediction found, photograph by photograph: a file that only grows, then ``regions.json``."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from afr_clip.files import append_whole, written_whole
from afr_clip.inspection.record import Inspected

REGIONS = "regions.json"
"""A JSON array with one photograph on each line, in natural order."""

_GROWING = "inspected.{}.jsonl"


class GrowingInspections:
    """What one process found so far: one photograph on each line of a file that survives a kill of the process."""

    def __init__(self, folder: Path, rank: int) -> None:
        path = folder / _GROWING.format(rank)
        self._file = path.open("ab", buffering=0)
        self._file.truncate(path.read_bytes().rfind(b"\n") + 1)  # half a line of a killed process

    def append(self, inspected: Inspected) -> None:
        """Add a photograph.

        Raises:
            OSError: If it cannot be written; then nothing of it is.
        """
        append_whole(self._file, f"{_line(inspected)}\n".encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _line(inspected: Inspected) -> str:
    return json.dumps(inspected.to_dict(), ensure_ascii=True, allow_nan=False)


class Inspections(Sequence[Inspected]):
    """The photographs of a run folder, read from disk one at a time: regions of thousands need no memory.

    Args:
        order: Names of the photographs that are wanted; the others are left out.
    """

    def __init__(self, folder: Path, order: Sequence[str] | None = None) -> None:
        self._places: dict[str, tuple[Path, int]] = {}
        growing = sorted(folder.glob(_GROWING.format("*")))
        for path in (folder / REGIONS, *growing):
            if path.exists():
                self._index(path)
        self.images = [name for name in order if name in self._places] if order is not None else [*self._places]

    def _index(self, path: Path) -> None:
        with path.open("rb") as file:
            while line := file.readline():
                if line.startswith(b"{") and line.endswith(b"\n"):
                    self._places[_parsed(line)["image"]] = (path, file.tell() - len(line))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204 - as of a Sequence
        """Read one photograph, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self._read(name) for name in self.images[index]]
        return self._read(self.images[index])

    def __iter__(self) -> Iterator[Inspected]:
        """Read the photographs one after the other."""
        return map(self._read, self.images)

    def _read(self, name: str) -> Inspected:
        path, start = self._places[name]
        with path.open("rb") as file:
            file.seek(start)
            return Inspected.from_dict(_parsed(file.readline()))

    def write(self, folder: Path) -> None:
        """Replace ``regions.json`` by these photographs, and remove the files that grew."""
        with written_whole(folder / REGIONS) as unfinished, unfinished.open("w", encoding="utf-8") as file:
            file.write("[\n")
            for number, inspected in enumerate(self, start=1):
                file.write(f"{_line(inspected)}{',' if number < len(self) else ''}\n")
            file.write("]\n")
        for path in folder.glob(_GROWING.format("*")):
            path.unlink()


def _parsed(line: bytes):  # type: ignore[no-untyped-def]  # noqa: ANN202 - plain values
    return json.loads(line.rstrip(b",\n"))
