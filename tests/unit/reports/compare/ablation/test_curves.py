import pytest

from afr_clip.reports.compare.ablation.curves import curves_of, read_curve
from afr_clip.reports.compare.ablation.measure import measure, read_folder
from afr_clip.reports.compare.ablation.record import read_sweep
from helpers.sweeps import cell, write_cell, write_loss, write_record


def test_a_curve_is_the_loss_of_each_epoch_and_the_last_where_it_came_twice(tmp_path):
    rows = ["epoch,step,metric,value", "0,0,train/loss_step,9", "0,1,train/loss_epoch,2.5", "1,3,train/lr,1"]
    text = "\n".join([*rows, "1,3,train/loss_epoch,2", "1,3,train/loss_epoch,1", ""])
    (tmp_path / "metrics.csv").write_text(text)
    assert read_curve(tmp_path) == {0: 2.5, 1: 1.0}
    assert read_curve(tmp_path / "nowhere") == {}


def test_a_setting_has_one_curve_per_seed_by_what_it_trained_on(tmp_path):
    for seed in (0, 1):
        write_loss(write_cell(tmp_path / str(seed), [0.5], seed=seed), [3.0 + seed, 2.0])
    write_record(tmp_path, [cell("table3_full", seed, folder=str(seed)) for seed in (0, 1)])
    ablation = measure(read_sweep(tmp_path).experiments[0], read_folder)
    assert curves_of(ablation.reference) == {"VisA": [{0: 3.0, 1: 2.0}, {0: pytest.approx(4.0), 1: 2.0}]}
    assert curves_of(ablation.rows[0]) == {}
