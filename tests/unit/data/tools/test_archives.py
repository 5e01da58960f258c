import gzip
import hashlib
import os
import shutil
import stat
import struct
import tarfile
from collections import namedtuple

import pytest

from afr_clip.data.errors import MissingDataError
from afr_clip.data.tools import archives
from helpers.archives import GOOD, PACKERS, WITHOUT_SET, Bench, special, tar_of, tree_below, zip_entry, zip_of


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.mark.parametrize("above", ["", "a/", "a/b/", "a/b/c/"])
def test_the_dataset_is_found_up_to_three_folders_deep(bench, above):
    members = {f"{above}{name}": content for name, content in WITHOUT_SET.items()}
    assert tree_below(bench.unpack(bench.put(zip_of(*members.items())))) == WITHOUT_SET


def test_the_shallowest_dataset_is_taken_and_of_several_the_first_by_name(bench):
    members = {"z/yes/1.png": b"1", "b/yes/1.png": b"2", "a/a/yes/1.png": b"3"}
    assert tree_below(bench.unpack(bench.put(zip_of(*members.items())))) == {"yes/1.png": b"2"}


def test_several_archives_go_into_one_folder(bench):
    images = bench.put(zip_of(("images/1.jpg", b"image")), "images.zip")
    masks = bench.put(tar_of(("masks/1.png", b"mask")), "masks.tar")
    root = bench.unpack(
        images, masks, is_dataset=lambda folder: {"images", "masks"} <= {p.name for p in folder.iterdir()}
    )
    assert tree_below(root) == {"images/1.jpg": b"image", "masks/1.png": b"mask"}


def test_what_operating_systems_add_is_left_out(bench):
    junk = ["__MACOSX/set/yes/._1.png", "set/.DS_Store", "set/yes/Thumbs.db", "set/yes/._1.png"]
    assert tree_below(bench.unpack(bench.put(zip_of(*GOOD.items(), *((name, b"x") for name in junk))))) == WITHOUT_SET


def test_a_zip_from_windows_may_have_backslashes_between_its_folders(bench):
    members = [("set\\", b""), *((name.replace("/", "\\"), content) for name, content in GOOD.items())]
    assert tree_below(bench.unpack(bench.put(zip_of(*members)))) == WITHOUT_SET


def test_letters_in_parts_stay_as_they_are(bench):
    members = {f"set/yes/{name}.png": b"1" for name in ("nu\u0308sse", "\xe4")}
    assert set(tree_below(bench.unpack(bench.put(zip_of(*members.items()))))) == {
        f"yes/{name}.png" for name in ("nu\u0308sse", "\xe4")
    }


def test_folders_may_be_named_before_and_after_their_files(bench):
    folders = [special(f"./{name}", tarfile.DIRTYPE) for name in ("", "set", "set/yes", "set/empty")]
    root = bench.unpack(bench.put(tar_of(*folders, *GOOD.items(), *folders)))
    assert tree_below(root) == WITHOUT_SET
    assert (root / "empty").is_dir()


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("/tmp/out.png", "absolute path"),
        ("C:/out.png", "absolute path"),
        ("c:out.png", "absolute path"),
        ("set\\..\\..\\out.png", "backslash"),
        ("\\\\server\\share\\out.png", "backslash"),
        ("../outside/precious", "leads out of its folder"),
        ("set/../../../outside/precious", "leads out of its folder"),
        ("set/yes/..", "leads out of its folder"),
        ("a/" * 40 + "x", "folders deep"),
        ("set/\x1b[2Jx", "control characters"),
        (".", "has no name"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(bench, kind, name, sentence):
    pack = zip_of if kind == "zip" else tar_of
    bench.refuse(bench.put(pack(*GOOD.items(), (name, b"hostile"))), match=sentence)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("set/a.png", "set/A.png"),
        ("set/a.png", "set/a.png"),
        ("set/a.png", "set/./a.png"),
        ("set/caf\u00e9.png", "set/cafe\u0301.png"),
        ("set/a", "set/a/b.png"),
        ("set/a/b.png", "set/a"),
        ("set/Test/1.png", "set/test/2.png"),
    ],
)
@pytest.mark.parametrize("pack", [tar_of, zip_of])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_mean_the_same_place_are_refused(bench, pack, first, second):
    bench.refuse(bench.put(pack(*GOOD.items(), (first, b"1"), (second, b"2"))), match="means the same place as")


def test_a_second_archive_writes_nothing_over_the_first(bench):
    content = bench.put(zip_of(*GOOD.items()))
    bench.refuse(content, content, match="means the same place as 'set/yes/1.png'")


def test_more_members_than_any_dataset_has_are_refused(bench, monkeypatch):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    assert bench.unpack(bench.put(tar_of(*GOOD.items()))).is_dir()
    shutil.rmtree(bench.target)
    for pack in (tar_of, zip_of):
        bench.refuse(bench.put(pack(*GOOD.items(), ("set/4.png", b""))), match="must have at most 3 members")


def test_a_full_disk_is_said_in_a_sentence(bench, monkeypatch):
    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", fail)
    bench.refuse(bench.put(zip_of(*GOOD.items())), match="Cannot unpack to .*data: .*No space left")


def test_a_digest_is_asked_for_before_anything_is_unpacked(bench, monkeypatch):
    good, other = bench.put(zip_of(*GOOD.items()), "good.zip"), bench.put(zip_of(("x", b"1")), "other.zip")
    digest = hashlib.sha256(good.read_bytes()).hexdigest()
    assert bench.unpack(good, sha256={"good.zip": digest.upper(), "absent.zip": "0"}).is_dir()
    shutil.rmtree(bench.target)
    monkeypatch.setattr(archives, "_unpack", None)
    found = hashlib.sha256(other.read_bytes()).hexdigest()[:16]
    sentence = rf"other\.zip must have the SHA-256 {digest[:16]}\.\.\., got {found}\.\.\.\."
    bench.refuse(good, other, sha256={"good.zip": digest, "other.zip": digest}, match=sentence)


def test_an_archive_without_the_dataset_says_what_was_expected(bench):
    archive = bench.put(zip_of(("readme.txt", b"x"), ("maybe/1.png", b"x")), "wrong.zip")
    bench.refuse(
        archive, expected="yes/ and no/", match=r"wrong\.zip must hold yes/ and no/, .* 'maybe', 'readme\.txt'\."
    )
    deep = bench.put(zip_of(("a/b/c/d/yes/1.png", b"x")), "deep.zip")
    bench.refuse(deep, match="the top level holds 'a'")


def test_an_existing_folder_is_never_touched(bench):
    archive = bench.put(zip_of(*GOOD.items()))
    bench.target.mkdir()
    bench.refuse(archive, match="BrainMRI already exists")
    bench.target.rmdir()
    bench.target.symlink_to("nowhere")
    bench.refuse(archive, match="BrainMRI already exists")


def test_a_missing_archive_is_named(bench):
    with pytest.raises(MissingDataError, match=r"Cannot open the archive .*absent\.zip"):
        bench.unpack(bench.folder / "absent.zip")


def test_an_interrupt_leaves_nothing_behind(bench, monkeypatch):
    archive = bench.put(zip_of(*GOOD.items()))
    before = bench.state()
    copy = shutil.copyfileobj

    def interrupted(source, target):
        copy(source, target)
        assert len(list(bench.target.parent.glob(".BrainMRI.unfinished-*/content/set/yes/1.png"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.unpack(archive)
    assert bench.state() == before


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
    bench.refuse(bench.put(tar_of(*GOOD.items(), *hostile)), match=r"'set/\w+' is a link, a device or a sparse file")


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
    bench.refuse(bench.put(bytes(content)), match="may unpack to at most 268.4 MB, because datasets do not grow")


def test_a_zip_bomb_with_an_honest_header_is_refused(bench, monkeypatch):
    monkeypatch.setattr(archives, "FREE_RATIO_BYTES", 1 << 20)
    bench.refuse(bench.put(zip_of(*GOOD.items(), ("set/bomb.png", bytes(8 << 20)))), match="100 times their archive")


def test_a_zip_bomb_with_a_lying_header_writes_no_more_than_it_declared(bench, monkeypatch):
    content = bytearray(zip_of(*GOOD.items(), ("set/bomb.png", bytes(8 << 20))))
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = content.rindex(signature) + offset
        content[place : place + 4] = struct.pack("<I", 1000)
    written = []
    copy = shutil.copyfileobj
    monkeypatch.setattr(shutil, "copyfileobj", lambda source, to: (written.append(to.name), copy(source, to)))
    bench.refuse(bench.put(bytes(content)), match="is not a valid zip or tar archive")
    assert written[-1].endswith("bomb.png")


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("place", ["member", "junk", "name", "after the end"])
def test_a_tar_bomb_is_refused_wherever_it_hides(bench, monkeypatch, kind, place):
    monkeypatch.setattr(archives, "FREE_RATIO_BYTES", 1 << 20)
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
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, archives.RESERVE + 100))
    bench.refuse(bench.put(zip_of(*GOOD.items())), match=r"at most 0\.0 MB, because the disk has no room")


@pytest.mark.parametrize("kind", ["zip", *PACKERS])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.98])
def test_a_truncated_archive_is_refused(bench, kind, share):
    members = [*GOOD.items(), ("set/yes/noise.png", os.urandom(20_000))]
    content = zip_of(*members) if kind == "zip" else PACKERS[kind](tar_of(*members))
    content = content.rstrip(b"\0")  # a plain tar is padded with zeros that nobody misses
    bench.refuse(bench.put(content[: int(len(content) * share)]), match="is not a valid zip or tar archive")


def test_a_tar_cut_between_two_members_is_not_taken_for_a_whole_one(bench):
    content = tar_of(*GOOD.items())
    bench.refuse(bench.put(content[: 512 * 2]), match="it ends too early")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_flipped_byte_is_noticed(bench, kind):
    members = [*GOOD.items(), ("set/yes/noise.png", os.urandom(20_000))]
    content = bytearray(zip_of(*members) if kind == "zip" else PACKERS[kind](tar_of(*members)))
    content[len(content) // 2] ^= 0x10
    bench.refuse(bench.put(bytes(content)), match="is not a valid zip or tar archive")


def test_a_zip_whose_table_lies_before_its_beginning_is_called_damaged(bench):
    content = bytearray(zip_of(*GOOD.items()))
    place = content.rindex(b"PK\x05\x06") + 16
    content[place : place + 4] = struct.pack("<I", 0x00FFFFFF)
    bench.refuse(bench.put(bytes(content)), match="is not a valid zip or tar archive")


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
    bench.refuse(bench.put(content), match="is not a valid zip or tar archive")
