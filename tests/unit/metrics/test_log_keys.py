from afr_clip.metrics.average import METRICS
from afr_clip.metrics.log_keys import mean_key, short_name, table_columns, target_key


def test_names_are_short_and_all_different():
    names = [short_name(metric) for metric in METRICS]
    assert names == ["i_auroc", "i_f1_max", "i_ap", "p_auroc", "p_f1_max", "p_ap", "p_aupro"]


def test_a_mean_is_never_taken_for_a_category_of_that_name():
    assert target_key("visa", "mean", "image_ap") == "target/visa/mean/i_ap"
    assert mean_key("visa", "image_ap") == "mean/visa/i_ap"


def test_the_table_names_what_a_row_holds():
    assert table_columns() == (
        *("dataset", "category", "i_auroc", "i_f1_max", "i_ap", "p_auroc", "p_f1_max", "p_ap", "p_aupro"),
        *("num_normal", "num_anomalous"),
    )
