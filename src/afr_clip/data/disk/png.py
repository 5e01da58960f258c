"""The chunks of a PNG file: check that they are complete, and leave out those that decoding does not need."""

import struct
import zlib
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel of each colour type: grey, RGB, palette, grey with alpha, RGB with alpha."""

NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
"""The chunks with the picture. Others, such as text, are left out, so that their size does not matter."""

END = b"\0\0\0\0IEND\xaeB`\x82"

PIECE = 1 << 20
"""Bytes that are decompressed at a time."""


class Png:
    """A PNG file's chunks.

    Args:
        content: The file.

    Raises:
        ValueError: If it ends early or a checksum is wrong.
    """

    def __init__(self, content: bytes) -> None:
        self.exif = b""
        self.num_frames = 1
        self._chunks: list[tuple[bytes, memoryview]] = []
        for kind, data, whole in self._read(memoryview(content)):
            if kind == b"acTL" and len(data) >= 4:
                self.num_frames = int.from_bytes(data[:4], "big")
            elif kind == b"eXIf":
                self.exif = bytes(data)
            if kind in NEEDED:
                self._chunks.append((kind, whole))
        header = self._chunks[0][1][8:-4] if self._chunks and self._chunks[0][0] == b"IHDR" else b""
        if len(header) != 13:
            msg = "it does not start with a header"
            raise ValueError(msg)
        self.width, self.height, self.depth, self._colour, _, _, interlacing = struct.unpack(">IIBBBBB", header)
        self.is_interlaced = interlacing == 1
        if not (self.width and self.height and any(kind == b"IDAT" for kind, _ in self._chunks)):
            msg = "it holds no pixels"
            raise ValueError(msg)

    @property
    def has_colour_or_alpha(self) -> bool:
        """Whether there are several samples per pixel."""
        return SAMPLES.get(self._colour, 1) > 1

    def plain(self, *, with_transparency: bool = True) -> bytes:
        """Return the file without chunks that are not needed."""
        left_out = () if with_transparency else (b"tRNS",)
        return b"".join((PNG_SIGNATURE, *(whole for kind, whole in self._chunks if kind not in left_out), END))

    def require_every_row(self) -> None:
        """Raise a ``ValueError`` unless the data hold every row; decoders fill missing ones with black."""
        num_bits = SAMPLES.get(self._colour, 1) * self.depth
        missing = 0
        for width, height in self._passes():
            missing += height * (1 + (width * num_bits + 7) // 8)
        reader = zlib.decompressobj()
        for data in (whole[8:-4] for kind, whole in self._chunks if kind == b"IDAT"):
            waiting: bytes | memoryview = data
            while waiting and missing > 0 and not reader.eof:
                missing -= len(reader.decompress(waiting, PIECE))
                waiting = reader.unconsumed_tail
        while missing > 0 and not reader.eof and (more := reader.decompress(b"", PIECE)):
            missing -= len(more)
        if missing > 0:
            msg = "rows are missing at its end"
            raise ValueError(msg)

    def _passes(self) -> Iterator[tuple[int, int]]:
        """Yield width and height of each pass."""
        if not self.is_interlaced:
            yield self.width, self.height
            return
        for x, y, across, down in (
            *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
            *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
        ):
            width, height = (self.width - x + across - 1) // across, (self.height - y + down - 1) // down
            if width > 0 and height > 0:
                yield width, height

    @staticmethod
    def _read(content: memoryview) -> Iterator[tuple[bytes, memoryview, memoryview]]:
        """Yield kind, data and the whole of each chunk up to the last."""
        at, kind = len(PNG_SIGNATURE), b""
        while at < len(content) and kind != b"IEND":
            length, kind = int.from_bytes(content[at : at + 4], "big"), bytes(content[at + 4 : at + 8])
            whole = content[at : at + 12 + length]
            if len(whole) < 12 + length:
                msg = "it ends too early"
                raise ValueError(msg)
            if kind in NEEDED and zlib.crc32(whole[4:-4]) != int.from_bytes(whole[-4:], "big"):
                msg = f"the checksum of its {kind.decode()} chunk is wrong"
                raise ValueError(msg)
            yield kind, whole[8:-4], whole
            at += len(whole)
