import pytest

from afr_clip.data.disk.photographs import list_photographs
from afr_clip.data.errors import MissingDataError
from helpers.trees import write_mvtec_tree


def test_a_folder_is_searched_to_its_depths_and_junk_is_passed_over(tmp_path):
    write_mvtec_tree(tmp_path, categories=("bolt",), num_normal=2, num_anomalous=0)
    (tmp_path / "bolt/._000.png").write_bytes(b"junk")
    (tmp_path / "notes.txt").write_text("junk")
    loaded = list_photographs(tmp_path, "hex bolt")
    paths = [sample.image_path.relative_to(tmp_path).as_posix() for sample in loaded.samples]
    assert paths == ["bolt/test/good/000.png", "bolt/test/good/001.png", "bolt/train/good/000.png"]
    assert {sample.prompt_name for sample in loaded.samples} == {"hex bolt"}


def test_one_file_is_one_photograph(tmp_path):
    path = write_mvtec_tree(tmp_path, categories=("bolt",)) / "bolt/train/good/000.png"
    assert [sample.image_path for sample in list_photographs(path, "bolt").samples] == [path]


def test_no_photograph_at_all_is_an_error(tmp_path):
    with pytest.raises(MissingDataError, match="holds none"):
        list_photographs(tmp_path, "bolt")
    with pytest.raises(MissingDataError, match="does not exist"):
        list_photographs(tmp_path / "absent", "bolt")
