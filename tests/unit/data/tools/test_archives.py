import hashlib
import shutil
import tarfile

import pytest

from afr_clip.data.errors import MissingDataError
from afr_clip.data.tools import archives
from helpers.archives import GOOD, WITHOUT_SET, Bench, special, tar_of, tree_below, zip_of


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
    def fail(member, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "_write", fail)
    bench.refuse(bench.put(zip_of(*GOOD.items())), match="must write below .*data, but failed: .*No space left")


def test_a_digest_is_asked_for_before_anything_is_unpacked(bench, monkeypatch):
    good, other = bench.put(zip_of(*GOOD.items()), "good.zip"), bench.put(zip_of(("x", b"1")), "other.zip")
    digest = hashlib.sha256(good.read_bytes()).hexdigest()
    assert bench.unpack(good, sha256={"good.zip": digest.upper(), "absent.zip": "0"}).is_dir()
    shutil.rmtree(bench.target)
    monkeypatch.setattr(archives, "_unpack", None)
    found = hashlib.sha256(other.read_bytes()).hexdigest()[:16]
    sentence = rf"other\.zip must have the SHA-256 {digest[:16]}\.\.\., but has {found}\.\.\.\."
    bench.refuse(good, other, sha256={"good.zip": digest, "other.zip": digest}, match=sentence)


def test_an_archive_without_the_dataset_says_what_was_expected(bench):
    archive = bench.put(zip_of(("readme.txt", b"x"), ("maybe/1.png", b"x")), "wrong.zip")
    bench.refuse(
        archive, expected="yes/ and no/", match=r"wrong\.zip must hold yes/ and no/, .* 'maybe', 'readme\.txt'\."
    )
    deep = bench.put(zip_of(("a/b/c/d/yes/1.png", b"x")), "deep.zip")
    bench.refuse(deep, match="at the top there is 'a'")


def test_an_existing_folder_is_never_touched(bench):
    archive = bench.put(zip_of(*GOOD.items()))
    bench.target.mkdir()
    bench.refuse(archive, match="unpacked into a new folder, but .*BrainMRI exists")
    bench.target.rmdir()
    bench.target.symlink_to("nowhere")
    bench.refuse(archive, match="BrainMRI exists")


def test_a_missing_archive_is_named(bench):
    with pytest.raises(MissingDataError, match=r"absent\.zip must be a readable archive"):
        bench.unpack(bench.folder / "absent.zip")


def test_an_interrupt_leaves_nothing_behind(bench, monkeypatch):
    archive = bench.put(zip_of(*GOOD.items()))
    before = bench.state()
    write = archives._write

    def interrupted(member, path):
        write(member, path)
        assert len(list(bench.target.parent.glob(".BrainMRI.unpacking-*/content/set/yes/1.png"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.unpack(archive)
    assert bench.state() == before
