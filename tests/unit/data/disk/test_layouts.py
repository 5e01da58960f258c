from pathlib import Path

import pytest

from afr_clip.data.disk.layouts import DATASETS, dataset_row, prompt_name, title_of
from afr_clip.data.disk.listing import Truth
from afr_clip.data.errors import DataError


def test_every_row_stands_under_its_name_and_can_be_told_from_others():
    for name, row in DATASETS.items():
        assert row.name == name
        assert row.layouts
        assert len(set(row.folders)) == len(row.folders)


def test_every_row_can_be_chosen_on_the_command_line():
    files = (Path(__file__).parents[4] / "conf" / "dataset").glob("*.yaml")
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


PUBLISHED = {
    "mvtec_ad": (467, 1258), "visa": (962, 1200), "btad": (451, 290), "mpdd": (176, 282), "head_ct": (100, 100),
    "brain_mri": (98, 155), "br35h": (1500, 1500), "isic": (0, 379), "colon_db": (0, 380), "clinic_db": (0, 612),
    "tn3k": (0, 614), "kvasir": (0, 1000), "ksdd": (347, 52), "dagm": (6996, 1054), "dtd_synthetic": (357, 947),
    "magnetic_tile": (952, 392), "ksdd2": (894, 110), "rsdd": (387, 387), "mvtec_ad_2": (379, 705),
    "mvtec_loco": (575, 993), "goods_ad": (1328, 1660), "endotect": (0, 200), "cvc_300": (0, 60),
    "bmad_brain": (640, 3075), "bmad_liver": (833, 660), "bmad_retina": (1041, 764),
}  # fmt: skip
"""Normal and anomalous test images of every public dataset whose numbers are known."""

UNCOUNTED = ("real_iad", "real_iad_variety", "kaputt")
"""Public datasets whose numbers of test images are not known."""


def test_counts_by_category_add_up_to_the_published_totals():
    assert {name: row.total for name, row in DATASETS.items() if row.total is not None} == PUBLISHED


def test_every_public_dataset_says_where_it_comes_from_and_how_to_get_it():
    for name in (*PUBLISHED, *UNCOUNTED):
        row = DATASETS[name]
        assert row.title
        assert row.folders
        assert row.provenance.source.startswith("http")
        assert row.provenance.licence
        assert row.provenance.citation
        assert len(row.provenance.steps) >= 2
        assert all(len(sha256) == 64 for sha256 in row.provenance.archives.values())


def test_levels_follow_from_what_is_there():
    assert {name: DATASETS[name].levels for name in ("mvtec_ad", "head_ct", "isic", "folder", *UNCOUNTED)} == {
        "mvtec_ad": ("image", "pixel"),
        "head_ct": ("image",),
        "isic": ("pixel",),
        "folder": (),
        "real_iad": ("image", "pixel"),
        "real_iad_variety": ("image", "pixel"),
        "kaputt": ("image",),
    }


def test_what_is_known_of_the_numbers_is_said_where_they_are_not():
    assert {name for name, row in DATASETS.items() if row.provenance and row.total is None} == set(UNCOUNTED)
    assert all(any("not known" in note for note in DATASETS[name].provenance.notes) for name in UNCOUNTED)


def test_truth_in_mask_pixels_is_read_without_a_threshold():
    for row in DATASETS.values():
        if any(getattr(layout, "truth", None) is Truth.MASK_PIXELS for layout in row.layouts):
            assert row.mask_threshold is None  # the layout takes any value but 0


@pytest.mark.parametrize(
    ("layout", "category", "said"),
    [
        ("mvtec_ad", "metal_nut", "metal nut"),
        ("btad", "01", "object"),
        ("dagm", "Class10", "texture"),
        ("dtd_synthetic", "Woven_001", "woven texture"),
        ("ksdd", "electrical commutators", "electrical commutators"),
        ("rsdd", "Metal15", "rail surface"),
        ("real_iad", "transistor1", "transistor"),
        ("real_iad_variety", "2pin_block_plug", "two-pin block plug"),
        ("mvtec_ad_2", "wallplugs", "wall plugs"),
    ],
)
def test_categories_that_are_no_words_get_some(layout, category, said):
    assert prompt_name(layout, category) == said


@pytest.mark.parametrize(
    ("name", "category"),
    [("brain_mri", "brain"), ("isic", "skin"), ("colon_db", "colon"), ("tn3k", "thyroid"), ("kvasir", "colon")],
)
def test_medical_sets_are_of_one_organ(name, category):
    assert list(DATASETS[name].counts) == [category]


@pytest.mark.parametrize(
    ("name", "layout", "title"),
    [
        ("visa", "visa", "VisA"),
        ("my_visa", "visa", "my_visa"),
        ("demo", "mvtec_ad", "demo"),
        ("folder", "folder", "folder"),
    ],
)
def test_a_dataset_has_its_published_title_only_under_its_own_name(name, layout, title):
    assert title_of(name, layout) == title
