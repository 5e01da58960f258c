from pathlib import Path

import pytest

from afr_clip.data.errors import DataError
from afr_clip.data.layouts import DATASETS, dataset_row, prompt_name


def test_every_row_stands_under_its_name_and_can_be_told_from_others():
    for name, row in DATASETS.items():
        assert row.name == name
        assert row.layouts
        assert len(set(row.folders)) == len(row.folders)


def test_every_row_can_be_chosen_on_the_command_line():
    files = (Path(__file__).parents[3] / "conf" / "dataset").glob("*.yaml")
    assert {file.stem for file in files if f"\nlayout: {file.stem}\n" in file.read_text()} == set(DATASETS)


def test_no_folder_may_hold_two_datasets():
    folders = [folder for row in DATASETS.values() for folder in row.folders]
    assert len(set(folders)) == len(folders)


def test_an_unknown_layout_lists_the_known_ones():
    with pytest.raises(DataError, match=r"must be one of \[.*'folder', .*'mvtec_ad'.*, got 'mvtek'"):
        dataset_row("mvtek")


@pytest.mark.parametrize(
    ("category", "said"), [("metal_nut", "metal nut"), ("macaroni1", "macaroni1"), ("pipe_fryum", "pipe fryum")]
)
def test_prompts_say_spaces_for_underscores(category, said):
    assert prompt_name("visa", category) == said
