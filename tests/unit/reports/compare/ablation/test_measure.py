import json
import math
import random

import pytest

from afr_clip.reports.compare.ablation.measure import measure, read_folder
from afr_clip.reports.compare.ablation.record import read_sweep
from afr_clip.reports.compare.gather import ComparisonError
from helpers.results import source
from helpers.sweeps import cell, config_with, write_cell, write_record

BLOCK = ("MVTec AD", "VisA")
METRIC = "image_auroc"
NO_POOLING = config_with(module__network__mpfa_window=1)


def measured(sweep):
    (experiment,) = read_sweep(sweep).experiments
    ablation = measure(experiment, read_folder)
    return ablation, {row.name: row for row in ablation.rows}


def write_pair(sweep, own, reference, cells=None):
    """Write two settings: a list of category values for each seed."""
    for seed, values in enumerate(own):
        write_cell(sweep / f"cells/table3_cmfr_{seed}", values, seed=seed, config=NO_POOLING)
    for seed, values in enumerate(reference):
        write_cell(sweep / f"cells/table3_full_{seed}", values, seed=seed)
    done = [cell("table3_cmfr", seed) for seed in range(len(own))]
    write_record(sweep, cells or [*done, *(cell("table3_full", seed) for seed in range(len(reference)))])
    return measured(sweep)


def test_a_difference_is_paired_by_seed_and_category(tmp_path):
    ablation, rows = write_pair(tmp_path, [[0.5, 0.7], [0.6, 0.8]], [[0.4, 0.5], [0.5, 0.6]])
    paired = ablation.paired(rows["table3_cmfr"], BLOCK, METRIC)
    assert paired.mean == pytest.approx(0.15)
    assert [paired.interval.low, paired.interval.high] == pytest.approx([0.1, 0.2])
    assert (paired.seeds, paired.categories, paired.num_left_out) == ((0, 1), ("MVTec AD 0", "MVTec AD 1"), 0)
    assert rows["table3_cmfr"].datasets[BLOCK].spread(METRIC).num == 2
    assert ablation.paired(rows["table3_full"], BLOCK, METRIC) is None


def test_the_order_of_the_cells_decides_nothing(tmp_path):
    generator = random.Random(0)
    numbers = [[[generator.random() for _ in range(4)] for _ in range(3)] for _ in range(2)]
    ablation, rows = write_pair(tmp_path, *numbers)
    before = ablation.paired(rows["table3_cmfr"], BLOCK, METRIC)
    path = tmp_path / "table3.json"
    content = json.loads(path.read_text())
    generator.shuffle(content["cells"])
    path.write_text(json.dumps(content))
    again, rows = measured(tmp_path)
    assert again.paired(rows["table3_cmfr"], BLOCK, METRIC) == before
    assert [row.name for row in again.rows] == [row.name for row in ablation.rows]


def test_a_missing_seed_and_an_undefined_category_are_left_out_and_counted(tmp_path):
    cells = [cell("table3_cmfr", 0), cell("table3_cmfr", 1, "failed", "It broke.")]
    cells += [cell("table3_full", seed) for seed in (0, 1)]
    ablation, rows = write_pair(tmp_path, [[0.5, math.nan, 0.9]], [[0.4, 0.5, 0.6], [0.1, 0.2, 0.3]], cells)
    row = rows["table3_cmfr"]
    paired = ablation.paired(row, BLOCK, METRIC)
    assert (paired.mean, paired.seeds) == (pytest.approx(0.2), (0,))
    assert (paired.categories, paired.num_left_out) == (("MVTec AD 0", "MVTec AD 2"), 2 * 3 - 2)
    assert paired.interval.over == ("categories",)
    assert row.undefined(BLOCK, METRIC) == ["MVTec AD 1"]
    assert {c.seed: reason for c, reason in row.missing.items()} == {1: "failed: It broke."}


def test_a_cell_that_is_done_and_holds_nothing_is_named(tmp_path):
    write_record(tmp_path, [cell("table3_full", 0), cell("table3_cmfr", 0, "waiting")])
    ablation, rows = measured(tmp_path)
    assert "holds no results.json" in next(iter(rows["table3_full"].missing.values()))
    assert list(rows["table3_cmfr"].missing.values()) == ["waiting"]
    assert ablation.blocks == []
    assert len(ablation.rows) == 6


def test_the_keys_in_which_a_setting_differs_come_from_what_was_recorded(tmp_path):
    ablation, rows = write_pair(tmp_path, [[0.5]], [[0.4]])
    assert ablation.differing(rows["table3_cmfr"]) == {"module.network.mpfa_window": (1, 3)}
    assert ablation.differing(rows["table3_full"]) == {}


def test_cells_of_a_setting_that_differ_in_more_than_the_seed_are_refused(tmp_path):
    write_cell(tmp_path / "cells/table3_full_0", [0.5], seed=0)
    write_cell(tmp_path / "cells/table3_full_1", [0.5], seed=1, config=NO_POOLING)
    write_record(tmp_path, [cell("table3_full", 0), cell("table3_full", 1)])
    with pytest.raises(ComparisonError, match=r"table3_full must agree .* got another module\.network\.mpfa_window"):
        measured(tmp_path)


def test_a_cell_that_ran_with_another_seed_is_refused(tmp_path):
    write_cell(tmp_path / "cells/table3_full_0", [0.5], seed=7)
    write_record(tmp_path, [cell("table3_full", 0)])
    with pytest.raises(ComparisonError, match="with seed 0 must have run with this seed, got seed 7"):
        measured(tmp_path)


def test_seeds_on_other_images_are_refused(tmp_path):
    for seed, digest in enumerate("ab"):
        target = source("MVTec AD", ["x"], digest)
        write_cell(tmp_path / f"cells/table3_full_{seed}", {"x": 0.5}, seed=seed, target=target)
    write_record(tmp_path, [cell("table3_full", 0), cell("table3_full", 1)])
    with pytest.raises(ComparisonError, match="must score MVTec AD on the same images"):
        measured(tmp_path)


def test_a_setting_on_other_images_than_the_reference_has_no_difference(tmp_path):
    for setting, digest in (("table3_full", "a"), ("table3_cmfr", "b")):
        write_cell(tmp_path / f"cells/{setting}_0", {"x": 0.5}, target=source("MVTec AD", ["x"], digest))
    write_record(tmp_path, [cell("table3_full", 0), cell("table3_cmfr", 0)])
    ablation, rows = measured(tmp_path)
    assert ablation.paired(rows["table3_cmfr"], BLOCK, METRIC) is None


def test_settings_without_a_common_seed_have_no_difference(tmp_path):
    write_cell(tmp_path / "a", [0.5], seed=0)
    write_cell(tmp_path / "b", [0.5], seed=1, config=NO_POOLING)
    write_record(tmp_path, [cell("table3_full", 0, folder="a"), cell("table3_cmfr", 1, folder="b")])
    ablation, rows = measured(tmp_path)
    assert ablation.paired(rows["table3_cmfr"], BLOCK, METRIC) is None
