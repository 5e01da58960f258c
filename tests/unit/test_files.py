import pytest

from afr_clip.files import written_whole


def test_a_file_is_whole_or_the_one_before(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with written_whole(path) as unfinished:
        unfinished.write_text("first")
        assert not path.exists()

    def fail() -> None:
        with written_whole(path) as unfinished:
            unfinished.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]
