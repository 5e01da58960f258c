import pytest

from afr_clip.reports.compare.paper import (
    DATASETS,
    best_value,
    datasets_of,
    find_dataset,
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


def test_the_best_is_known_only_where_every_method_is():
    assert best_value(1, ["VisA"], "image_auroc") == 87.0
    assert best_value(1, ["Head CT"], "image_f1_max") is None
