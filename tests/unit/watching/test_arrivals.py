import errno
import os

import pytest
from PIL import Image

from afr_clip.data.errors import DataError
from afr_clip.inspection.detector import Decoded
from afr_clip.watching.arrivals import Arrivals


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def arrivals(camera, clock):
    return Arrivals(camera.folder, settle=1.0, give_up=10.0, max_pixels=1000, known={}, clock=clock)


def names(arrivals: Arrivals, clock: Clock, now: float) -> list[str]:
    clock.now = now
    found = list(arrivals.ready())
    arrivals.note(found)
    return [one.name for one in found]


def test_a_file_counts_once_it_has_not_changed_for_a_while_and_then_never_again(arrivals, clock, camera):
    camera("a.png")
    assert names(arrivals, clock, 0.0) == []
    assert names(arrivals, clock, 0.9) == []
    camera("a.png", date=2)  # it is written to again
    assert names(arrivals, clock, 1.0) == []
    assert names(arrivals, clock, 1.9) == []
    assert names(arrivals, clock, 2.0) == ["a.png"]
    assert names(arrivals, clock, 9.0) == []


def test_the_oldest_comes_first_and_folders_are_searched(arrivals, clock, camera):
    for name, date in (("b.png", 1), ("deep/er/c.png", 3), ("a.png", 2)):
        camera(name, date=date)
    for name in (".hidden.png", "notes.txt", "a.png.part", ".cache/x.png"):
        camera(name)
    (camera.folder / "loop").symlink_to(camera.folder)
    assert names(arrivals, clock, 0.0) == []
    assert names(arrivals, clock, 1.0) == ["b.png", "a.png", "deep/er/c.png"]


def test_half_a_file_is_tried_again_until_it_is_whole(arrivals, clock, camera):
    path = camera("a.png")
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    os.utime(path, (1, 1))
    assert names(arrivals, clock, 0.0) == names(arrivals, clock, 1.0) == names(arrivals, clock, 1.9) == []
    path.write_bytes(whole)
    os.utime(path, (2, 2))
    assert names(arrivals, clock, 2.0) == []
    assert names(arrivals, clock, 3.0) == ["a.png"]


def test_what_stays_unreadable_is_given_up_and_then_reported(arrivals, clock, camera):
    (camera.folder / "a.png").write_bytes(b"")
    (camera.folder / "b.png").write_bytes(b"text")
    clock.now = 0.0
    assert list(arrivals.ready()) == []
    tried = 0
    for clock.now in range(1, 10):
        tried += len(list(arrivals.ready()))
    assert (tried, arrivals.num_waiting) == (0, 2)
    clock.now = 10.0
    found = list(arrivals.ready())
    assert [type(one.photograph) for one in found] == [DataError, DataError]
    assert {str(one.photograph)[:20] for one in found} == {"a.png is empty. Copy", "b.png is not a valid"}


def test_a_file_that_is_larger_than_any_image_is_not_read(arrivals, clock, camera):
    with (camera.folder / "a.png").open("wb") as file:
        file.truncate(10**12)
    clock.now = 0.0
    list(arrivals.ready())
    clock.now = 11.0
    (found,) = arrivals.ready()
    assert str(found.photograph) == "a.png is too large for an image."


def test_a_file_of_too_many_pixels_is_recorded_with_the_option_of_the_command(arrivals, clock, camera):
    Image.new("RGB", (40, 30)).save(camera.folder / "a.png")
    clock.now = 0.0
    list(arrivals.ready())
    clock.now = 11.0
    (found,) = arrivals.ready()
    assert str(found.photograph) == (
        "a.png cannot be read: it has 40 x 30 pixels, more than 1000. Raise --max-pixels, or scale it down."
    )


def test_the_key_is_that_of_place_and_content(arrivals, clock, camera):
    def keys(now: float) -> list[str]:
        clock.now = now
        list(arrivals.ready())
        clock.now = now + 1
        return [one.key for one in arrivals.ready()]

    camera("a.png", 1)
    (first,) = keys(0.0)
    camera("a.png", 1, date=5)
    assert keys(10.0) == [first]
    camera("a.png", 2, date=6)
    assert keys(20.0) != [first]
    (camera.folder / "a.png").unlink()
    camera("b.png", 1)
    assert keys(30.0) != [first]
    assert len(first) == 32


def test_what_cannot_be_looked_at_is_left_out_with_one_warning(arrivals, clock, camera, monkeypatch, caplog):
    camera("a.png")
    camera("locked/b.png")
    (camera.folder / "loop.png").symlink_to("loop.png")
    (camera.folder / "broken.png").symlink_to("nothing.png")
    scandir, locked = os.scandir, os.fsencode(camera.folder / "locked")

    def guarded(place: bytes):
        if place == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", guarded)  # permissions do not stop root
        assert names(arrivals, clock, 0.0) == []
        assert names(arrivals, clock, 1.0) == ["a.png"]
    assert sorted(caplog.messages) == [
        "locked is left out: Permission denied.",
        f"loop.png is left out: {os.strerror(errno.ELOOP)}.",
    ]
    names(arrivals, clock, 2.0)
    assert names(arrivals, clock, 3.0) == ["locked/b.png"]
    assert len(caplog.messages) == 2


def test_names_need_not_be_text(arrivals, clock, camera):
    camera("a.png").rename(camera.folder / os.fsdecode(b"\xff\n.png"))
    names(arrivals, clock, 0.0)
    assert names(arrivals, clock, 1.0) == [r"\xff\n.png"]


def test_what_was_removed_is_forgotten(arrivals, clock, camera):
    path = camera("a.png")
    names(arrivals, clock, 0.0)
    names(arrivals, clock, 1.0)
    path.unlink()
    names(arrivals, clock, 2.0)
    assert arrivals.gone() == [b"a.png"]
    assert arrivals.gone() == []


def test_pixels_are_those_of_the_file(arrivals, clock, camera):
    camera("a.png", 77)
    list(arrivals.ready())
    clock.now = 1.0
    (found,) = arrivals.ready()
    assert isinstance(found.photograph, Decoded)
    assert found.photograph.pixels.shape == (3, 7, 9)
    assert (found.photograph.pixels == 77).all()


def test_a_folder_that_is_gone_is_a_sentence(arrivals, camera):
    camera.folder.rmdir()
    with pytest.raises(DataError, match=r"cannot be listed: No such file or directory\. Check its permissions\."):
        list(arrivals.ready())
