import pytest

from afr_clip.reports.compare.ablation.paper import (
    REFERENCES,
    experiment_of,
    in_order,
    label_of,
    paper_value,
    settings_of,
    target_of_the_paper,
)
from afr_clip.reports.compare.paper import paper_values


def test_every_number_of_tables_3_to_6_is_that_of_one_setting():
    settings = [name for table in REFERENCES for name in settings_of(table)]
    reached = sorted(paper_value(name, m) for name in settings for m in ("image_auroc", "pixel_auroc"))
    assert reached == sorted(value for (table, *_), value in paper_values().items() if table >= 3)
    assert len(settings) == 6 + 4 + 4 + 3


def test_the_references_are_the_papers_full_model():
    full = {(paper_value(name, "image_auroc"), paper_value(name, "pixel_auroc")) for name in REFERENCES.values()}
    assert full == {(93.4, 92.3)}
    assert (target_of_the_paper().title, target_of_the_paper().auxiliary) == ("MVTec AD", "VisA")


def test_settings_stand_as_in_the_paper_and_others_by_name_after_their_reference():
    assert in_order(["table3_full", "table3_cmfr", "table3_baseline"], "table3_full") == [
        "table3_baseline",
        "table3_cmfr",
        "table3_full",
    ]
    assert in_order(["b", "a", "c"], "c") == ["c", "a", "b"]
    assert in_order(["reading_b", "full", "reading_a"], "full") == ["full", "reading_a", "reading_b"]


@pytest.mark.parametrize(
    ("ablation", "experiment"),
    [
        ("table4_stages_1_2", "table4"),
        ("reading_append", "readings"),
        ("full", None),
        ("no_cmfr", None),
        ("", None),
        ("table9_x", None),
    ],
)
def test_an_ablation_names_its_experiment(ablation, experiment):
    assert experiment_of(ablation) == experiment


def test_a_setting_that_the_paper_does_not_have_has_no_number_and_its_own_name():
    assert paper_value("reading_ln_post", "image_auroc") is None
    assert paper_value("table3_cmfr", "image_f1_max") is None
    assert label_of("reading_ln_post") == "ln post"
