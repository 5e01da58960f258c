import pytest

from afr_clip.metrics.average import METRICS
from afr_clip.reports.compare.paper import (
    ABLATED,
    ABLATIONS,
    DATASETS,
    TABLES,
    datasets_of,
    experiment_of,
    find_dataset,
    in_order,
    label_of,
    paper_ablation,
    paper_mean,
    paper_values,
)
from afr_clip.reports.record.provenance import METHODS

INDUSTRIAL = ["VisA", "BTAD", "MPDD", "MVTec AD"]
MEDICAL = ["ISIC", "ColonDB", "ClinicDB", "TN3K"]
PRINTED = {  # the averages of table 2 as the paper prints them
    ("WinCLIP", "auroc"): (77.1, 68.9),
    ("WinCLIP", "f1_max"): (20.1, 30.6),
    ("APRIL-GAN", "auroc"): (90.9, 80.5),
    ("APRIL-GAN", "f1_max"): (35.3, 45.6),
    ("AnomalyCLIP", "auroc"): (94.3, 84.0),
    ("AnomalyCLIP", "f1_max"): (37.8, 49.5),  # it prints 37.5, which its own cells contradict
    ("AdaCLIP", "auroc"): (93.1, 83.1),
    ("AdaCLIP", "f1_max"): (41.9, 47.6),
    ("AFR-CLIP", "auroc"): (95.1, 84.9),
    ("AFR-CLIP", "f1_max"): (43.4, 51.0),
}


@pytest.mark.parametrize(("method", "metric"), PRINTED)
def test_means_of_the_papers_cells_are_the_averages_it_prints(method, metric):
    means = [paper_mean(2, method, titles, f"pixel_{metric}") for titles in (INDUSTRIAL, MEDICAL)]
    assert means == pytest.approx(PRINTED[method, metric], abs=0.0501)


def test_cells_the_source_leaves_unreadable_are_missing_and_so_is_every_mean_over_them():
    unreadable = [
        (dataset.title, method, metric)
        for dataset in datasets_of(1)
        for method in METHODS.values()
        for metric in ("image_auroc", "image_f1_max")
        if paper_mean(1, method, [dataset.title], metric) is None
    ]
    assert unreadable == [(title, "APRIL-GAN", "image_f1_max") for title in ("Head CT", "Brain MRI", "Br35H")]
    assert paper_mean(1, "APRIL-GAN", ["VisA", "Head CT"], "image_f1_max") is None
    assert paper_mean(1, "APRIL-GAN", ["Head CT", "Brain MRI", "Br35H"], "image_auroc") == pytest.approx(89.0)
    assert paper_mean(1, "APRIL-GAN", [], "image_auroc") is None


def test_every_cell_of_tables_1_and_2_belongs_to_a_method_and_a_dataset_that_are_known():
    cells = [key for key in paper_values() if key[0] in {1, 2}]
    assert {method for _, method, _, _ in cells} == set(METHODS.values())
    assert {title for _, _, title, _ in cells} == {dataset.title for dataset in DATASETS}
    assert len(cells) == 7 * 5 * 2 - 3 + 8 * 5 * 2


def test_the_tables_have_the_papers_rows_in_its_order():
    assert [dataset.title for dataset in datasets_of(1)] == [*INDUSTRIAL, "Head CT", "Brain MRI", "Br35H"]
    assert [dataset.title for dataset in datasets_of(2)] == [*INDUSTRIAL, *MEDICAL]


def test_visa_is_scored_after_mvtec_ad_and_everything_else_after_visa():
    assert {dataset.title: dataset.auxiliary for dataset in DATASETS} == {
        dataset.title: "MVTec AD" if dataset.title == "VisA" else "VisA" for dataset in DATASETS
    }


def test_a_dataset_goes_by_its_title_or_its_name():
    assert find_dataset("MVTec AD") == find_dataset("mvtec_ad") != find_dataset("VisA")
    assert find_dataset("kvasir") is None


def test_every_number_of_tables_3_to_6_is_that_of_one_setting():
    settings = [name for spec in ABLATIONS.values() for name in spec.settings]
    reached = sorted(paper_ablation(name, m) for name in settings for m in ("image_auroc", "pixel_auroc"))
    assert reached == sorted(value for (table, *_), value in paper_values().items() if table >= 3)
    assert len(settings) == 6 + 4 + 4 + 3


def test_the_references_are_the_papers_full_model():
    references = [spec.reference for spec in ABLATIONS.values()]
    full = {(paper_ablation(name, "image_auroc"), paper_ablation(name, "pixel_auroc")) for name in references}
    assert full == {(93.4, 92.3)}
    assert ("MVTec AD", find_dataset("MVTec AD").auxiliary) == ABLATED


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
    assert paper_ablation("reading_ln_post", "image_auroc") is None
    assert paper_ablation("table3_cmfr", "image_f1_max") is None
    assert label_of("reading_ln_post") == "ln post"


def test_the_heading_of_every_metric_shown_is_that_of_a_metric():
    assert {metric for spec in TABLES for metric in spec.metrics} <= set(METRICS)
    assert len({spec.name for spec in TABLES}) == len(TABLES)
