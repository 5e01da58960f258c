import shutil
import tarfile
import warnings
import zipfile

from hypothesis import given
from hypothesis import strategies as st

from afr_clip.data.errors import DataError
from afr_clip.data.tools.archives import unpack_archives
from helpers.archives import GOOD, PACKERS, tar_of, tree_below, zip_of
from helpers.fuzzing import fuzzed, outcome
from helpers.mutations import HOSTILE_TEXTS, damaged

WHOLE = tuple(GOOD.items())
names = st.one_of(
    st.sampled_from(HOSTILE_TEXTS),
    st.sampled_from(tuple(GOOD)),
    st.sampled_from(
        ("set\\yes\\2.png", "C:\\x.png", "/abs.png", "set/../../x.png", "SET/YES/1.PNG", "set/yes", "u\u0308/\xfc")
    ),
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12),
)


@st.composite
def members(draw: st.DrawFn) -> bytes:
    """An archive of the good files and some of any name, as tar with any kind of member or as zip."""
    extra = [(name, draw(st.binary(max_size=20))) for name in draw(st.lists(names, max_size=4))]
    extra = [(name.replace("\0", "_").encode(errors="replace").decode() or "_", content) for name, content in extra]
    if draw(st.booleans()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a name twice
            return zip_of(*WHOLE, *extra)
    kinds = st.sampled_from((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE))
    infos = []
    for name in draw(st.lists(names, max_size=2)):
        info = tarfile.TarInfo(name.replace("\0", "_").encode(errors="replace").decode() or "_")
        info.type, info.linkname = (
            draw(kinds),
            draw(st.sampled_from(("/etc/passwd", "../../x", "set/yes/1.png", "set"))),
        )
        infos.append(info)
    return draw(st.sampled_from(tuple(PACKERS.values())))(tar_of(*WHOLE, *extra, *infos))


def is_dataset(folder) -> bool:
    return (folder / "yes").is_dir()


def unpacked(folder, content: bytes) -> bool:
    """Whether an archive was accepted; nothing else may be left in the folder."""
    for old in folder.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    archive, target = folder / "download", folder / "dataset"
    archive.write_bytes(content)
    outcome(folder, lambda: unpack_archives([archive], target, is_dataset=is_dataset, sha256={}), DataError)
    assert {path.name for path in folder.iterdir()} <= {"download", "dataset"}
    assert not any(path.is_symlink() for path in target.rglob("*"))
    return target.exists()


@fuzzed(500)
@given(content=members())
def test_members_of_any_name_and_kind_stay_inside(tmp_path, content):
    if unpacked(tmp_path, content):
        found = tree_below(tmp_path / "dataset")
        assert {name.removeprefix("set/") for name in GOOD} <= set(found)


@fuzzed(500)
@given(data=st.data(), packer=st.sampled_from(("zip", *PACKERS)))
def test_a_damaged_archive_is_refused_or_still_whole(tmp_path, data, packer):
    whole = zip_of(*WHOLE, method=zipfile.ZIP_DEFLATED) if packer == "zip" else PACKERS[packer](tar_of(*WHOLE))
    if unpacked(tmp_path, data.draw(damaged(whole))) and packer not in {
        "tar"
    }:  # a plain tar has no checksum of contents
        assert (tmp_path / "dataset" / "yes" / "1.png").read_bytes() == GOOD["set/yes/1.png"]
