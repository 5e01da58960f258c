from pathlib import Path

import pytest

from afr_clip.data.disk.templates import match_files
from afr_clip.data.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def found(root: Path, template: str) -> list[str]:
    return [path.relative_to(root).as_posix() for path in match_files(root, template, {}).values()]


def test_stray_files_are_passed_over(tmp_path):
    touch(tmp_path, "a/1.png", "a/Thumbs.db", "a/.DS_Store", "a/._1.png", "a/notes.txt", "__MACOSX/1.png", ".git/1.png")
    (tmp_path / "a" / "folder.png").mkdir()
    assert list(match_files(tmp_path, "{category}/{stem}", {}).values()) == [tmp_path / "a/1.png"]


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "Jpeg", "BMP", "tif", "TIFF", "webp"])
def test_suffixes_in_any_case_are_images(tmp_path, suffix):
    touch(tmp_path, f"a/1.{suffix}")
    assert match_files(tmp_path, "{category}/{stem}", {}) == {
        (("category", "a"), ("stem", "1")): tmp_path / f"a/1.{suffix}"
    }


def test_names_may_hold_spaces_dots_and_glob_characters(tmp_path):
    touch(tmp_path, "my [set]/te*st/v1.2 final.tar.png")
    found = match_files(tmp_path, "{category}/{split}/{stem}", {"category": "my [set]", "split": "te*st"})
    assert [dict(key)["stem"] for key in found] == ["v1.2 final.tar"]


def test_one_name_with_two_suffixes_is_refused(tmp_path):
    touch(tmp_path, "a/001.jpg", "a/001.png")
    with pytest.raises(DataError, match=r"must not share a name, got .*001\.jpg and 001\.png"):
        match_files(tmp_path, "{category}/{stem}", {})


def test_a_suffix_in_a_template_is_demanded_in_any_case(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/1.png", "a/2.JPG", "a/3.jpeg")
    assert found(tmp_path, "a/{stem}.jpg") == ["a/1.jpg", "a/2.JPG"]


def test_a_field_may_have_a_form(tmp_path):
    touch(tmp_path, "kos01/Part1.jpg", "kos01/Part1_label.bmp", "kos1x/Part1.jpg", "readme/Part1.jpg")
    assert found(tmp_path, "{item:kos[0-9]+}/{stem:Part[0-9]+}") == ["kos01/Part1.jpg"]
