import gzip
import os
import shutil
import stat
import struct
import tarfile
from collections import namedtuple

import pytest

from afr_clip.data.tools import archive_members, archives
from helpers.archives import GOOD, PACKERS, WITHOUT_SET, Bench, special, tar_of, tree_below, zip_entry, zip_of


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.mark.parametrize("kind", ["zip", *PACKERS])
def test_every_kind_of_archive_unpacks_to_the_same_tree(bench, kind):
    content = zip_of(*GOOD.items()) if kind == "zip" else PACKERS[kind](tar_of(*GOOD.items()))
    assert bench.unpack(bench.put(content)) == bench.target  # the name of the file says nothing
    assert tree_below(bench.target) == WITHOUT_SET
    assert [path.name for path in bench.target.parent.iterdir()] == ["BrainMRI"]


def test_files_get_plain_modes_whatever_the_archive_says(bench):
    root = bench.unpack(bench.put(tar_of(*GOOD.items())))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*.png")}
    assert all(not mode & (stat.S_ISUID | stat.S_ISGID | 0o111) for mode in modes)


@pytest.mark.parametrize(
    "hostile",
    [
        [special("set/link", tarfile.SYMTYPE, "../../../outside")],
        [special("set/link", tarfile.SYMTYPE, "yes")],
        [special("set/link", tarfile.SYMTYPE, "../../../outside"), ("set/link/precious", b"hostile")],
        [special("set/link", tarfile.LNKTYPE, "../../outside/precious")],
        [special("set/link", tarfile.LNKTYPE, "set/yes/1.png")],
        [special("set/device", tarfile.CHRTYPE)],
        [special("set/device", tarfile.BLKTYPE)],
        [special("set/pipe", tarfile.FIFOTYPE)],
        [special("set/holes", tarfile.GNUTYPE_SPARSE)],
    ],
    ids=["link out", "link in", "write through", "hard out", "hard in", "character", "block", "pipe", "sparse"],
)
def test_anything_but_files_and_folders_is_refused_in_a_tar(bench, hostile):
    bench.refuse(
        bench.put(tar_of(*GOOD.items(), *hostile)), match=r"'set/\w+' is a link, a device or a file with holes"
    )


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_anything_but_files_and_folders_is_refused_in_a_zip(bench, mode):
    content = zip_of(*GOOD.items(), (zip_entry("set/x", mode), b"../../outside"), ("set/x/precious", b"hostile"))
    bench.refuse(bench.put(content), match="'set/x' is a link or a device")


def test_an_encrypted_member_is_refused(bench):
    content = bytearray(zip_of(*GOOD.items()))
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.index(signature) + offset] |= 1
    bench.refuse(bench.put(bytes(content)), match="'set/yes/1.png' is encrypted")


def test_a_declared_size_beyond_the_bound_is_refused_before_a_byte_is_read(bench):
    info = tarfile.TarInfo("set/huge.png")
    info.size = 1 << 60
    bench.refuse(bench.put(tar_of(*GOOD.items())[:2048] + info.tobuf(tarfile.GNU_FORMAT)), match="but holds more")
    content = bytearray(zip_of(*GOOD.items()))
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = struct.pack("<I", 0xFFFFFFF0)
    bench.refuse(bench.put(bytes(content)), match="must unpack to at most 268.4 MB, because datasets do not grow")


def test_a_zip_bomb_with_an_honest_header_is_refused(bench, monkeypatch):
    monkeypatch.setattr(archive_members, "FREE_RATIO_BYTES", 1 << 20)
    bench.refuse(bench.put(zip_of(*GOOD.items(), ("set/bomb.png", bytes(8 << 20)))), match="100 times their archive")


def test_a_zip_bomb_with_a_lying_header_writes_no_more_than_it_declared(bench, monkeypatch):
    content = bytearray(zip_of(*GOOD.items(), ("set/bomb.png", bytes(8 << 20))))
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = content.rindex(signature) + offset
        content[place : place + 4] = struct.pack("<I", 1000)
    written = []
    write = archives._write
    monkeypatch.setattr(archives, "_write", lambda member, path: (written.append(path), write(member, path)))
    bench.refuse(bench.put(bytes(content)), match="must be an intact zip or tar archive, but cannot be read")
    assert written[-1].name == "bomb.png"


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("place", ["member", "junk", "name", "after the end"])
def test_a_tar_bomb_is_refused_wherever_it_hides(bench, monkeypatch, kind, place):
    monkeypatch.setattr(archive_members, "FREE_RATIO_BYTES", 1 << 20)
    huge = bytes(32 << 20)
    if place == "after the end":
        content = tar_of(*GOOD.items()) + huge
    elif place == "name":
        info = special("././@LongLink", tarfile.GNUTYPE_LONGNAME)
        info.size = len(huge)
        content = info.tobuf(tarfile.GNU_FORMAT) + huge + tar_of(*GOOD.items())
    else:
        content = tar_of(*GOOD.items(), ("set/bomb.png" if place == "member" else "set/.DS_Store", huge))
    sentence = "a header wants 33554432 bytes" if place == "name" else "100 times their archive"
    bench.refuse(bench.put(PACKERS[kind](content)), match=sentence)


Usage = namedtuple("Usage", "total used free")


def test_the_disk_keeps_its_reserve(bench, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, archive_members.RESERVE + 100))
    bench.refuse(bench.put(zip_of(*GOOD.items())), match=r"at most 0\.0 MB, because the disk has no room")


@pytest.mark.parametrize("kind", ["zip", *PACKERS])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.98])
def test_a_truncated_archive_is_refused(bench, kind, share):
    members = [*GOOD.items(), ("set/yes/noise.png", os.urandom(20_000))]
    content = zip_of(*members) if kind == "zip" else PACKERS[kind](tar_of(*members))
    content = content.rstrip(b"\0")  # a plain tar is padded with zeros that nobody misses
    bench.refuse(bench.put(content[: int(len(content) * share)]), match="must be an intact zip or tar archive")


def test_a_tar_cut_between_two_members_is_not_taken_for_a_whole_one(bench):
    content = tar_of(*GOOD.items())
    bench.refuse(bench.put(content[: 512 * 2]), match="it ends too early")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_flipped_byte_is_noticed(bench, kind):
    members = [*GOOD.items(), ("set/yes/noise.png", os.urandom(20_000))]
    content = bytearray(zip_of(*members) if kind == "zip" else PACKERS[kind](tar_of(*members)))
    content[len(content) // 2] ^= 0x10
    bench.refuse(bench.put(bytes(content)), match="must be an intact zip or tar archive")


def test_a_zip_whose_table_lies_before_its_beginning_is_called_damaged(bench):
    content = bytearray(zip_of(*GOOD.items()))
    place = content.rindex(b"PK\x05\x06") + 16
    content[place : place + 4] = struct.pack("<I", 0x00FFFFFF)
    bench.refuse(bench.put(bytes(content)), match="must be an intact zip or tar archive")


def test_a_damaged_header_in_a_tar_is_not_taken_for_its_end(bench):
    content = bytearray(tar_of(*GOOD.items()))
    content[1024 + 148] ^= 0x01  # the checksum of the second header
    bench.refuse(bench.put(bytes(content)), match="it ends too early")


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>Please log in</html>", b"\x89PNG\r\n" * 200, gzip.compress(b"text" * 999)],
    ids=["empty", "page", "picture", "text"],  # not the bytes: a gzip holds the second in which it was made
)
def test_what_is_no_archive_is_refused(bench, content):
    bench.refuse(bench.put(content), match="must be an intact zip or tar archive, but cannot be read")
