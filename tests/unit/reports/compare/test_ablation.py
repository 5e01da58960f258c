import json
import math
import random

import pytest

from afr_clip.reports.compare.paper import ABLATED
from afr_clip.reports.compare.report import paper_alone
from afr_clip.reports.compare.tables import as_dicts
from afr_clip.reports.compare.values import ComparisonError
from helpers.results import TINY, source
from helpers.sweeps import cell, config_with, table_of, write_cell, write_record

BLOCK = ("MVTec AD", "VisA")
METRIC = "image_auroc"
NO_POOLING = config_with(module__network__mpfa_window=1)
WHOLE = source("MVTec AD")
CATEGORIES = WHOLE["categories"]


def paired_of(table, setting="table3_cmfr"):
    return table.paired.get((setting, BLOCK, METRIC))


def write_pair(sweep, own, reference, cells=None):
    """Write two settings: a list of category values for each seed."""
    for seed, values in enumerate(own):
        write_cell(sweep / f"cells/table3_cmfr_{seed}", values, seed=seed, config=NO_POOLING)
    for seed, values in enumerate(reference):
        write_cell(sweep / f"cells/table3_full_{seed}", values, seed=seed)
    done = [cell("table3_cmfr", seed) for seed in range(len(own))]
    write_record(sweep, cells or [*done, *(cell("table3_full", seed) for seed in range(len(reference)))])
    return table_of(sweep)


def test_a_difference_is_paired_by_seed_and_category(tmp_path):
    table = write_pair(tmp_path, [[0.5, 0.7], [0.6, 0.8]], [[0.4, 0.5], [0.5, 0.6]])
    paired = paired_of(table)
    assert paired.mean == pytest.approx(0.15)
    assert [paired.interval.low, paired.interval.high] == pytest.approx([0.1, 0.2])
    assert (paired.seeds, paired.categories, paired.num_left_out) == ((0, 1), ("MVTec AD 0", "MVTec AD 1"), 0)
    assert table.measured.spread([table.datasets["table3_cmfr", BLOCK]], METRIC).num == 2
    assert paired_of(table, "table3_full") is None


def test_the_order_of_the_cells_decides_nothing(tmp_path):
    generator = random.Random(0)
    numbers = [[[generator.random() for _ in range(4)] for _ in range(3)] for _ in range(2)]
    table = write_pair(tmp_path, *numbers)
    before = paired_of(table)
    path = tmp_path / "table3.json"
    content = json.loads(path.read_text())
    generator.shuffle(content["cells"])
    path.write_text(json.dumps(content))
    again = table_of(tmp_path)
    assert paired_of(again) == before
    assert [one.name for one in again.measured.series] == [one.name for one in table.measured.series]


def test_a_missing_seed_and_an_undefined_category_are_left_out_and_counted(tmp_path):
    cells = [cell("table3_cmfr", 0), cell("table3_cmfr", 1, "failed", "It broke.")]
    cells += [cell("table3_full", seed) for seed in (0, 1)]
    table = write_pair(tmp_path, [[0.5, math.nan, 0.9]], [[0.4, 0.5, 0.6], [0.1, 0.2, 0.3]], cells)
    paired = paired_of(table)
    assert (paired.mean, paired.seeds) == (pytest.approx(0.2), (0,))
    assert (paired.categories, paired.num_left_out) == (("MVTec AD 0", "MVTec AD 2"), 2 * 3 - 2)
    assert paired.interval.over == ("categories",)
    assert {(c.setting, c.seed): reason for c, reason in table.missing.items()} == {
        ("table3_cmfr", 1): "failed: It broke."
    }


def test_a_cell_that_is_done_and_holds_nothing_is_named(tmp_path):
    write_record(tmp_path, [cell("table3_full", 0), cell("table3_cmfr", 0, "waiting")])
    table = table_of(tmp_path)
    missing = {cell.setting: reason for cell, reason in table.missing.items()}
    assert "holds no results.json" in missing["table3_full"]
    assert missing["table3_cmfr"] == "waiting"
    assert table.datasets == {}
    assert len(table.measured.series) == 6


def test_the_keys_in_which_a_setting_differs_come_from_what_was_recorded(tmp_path):
    table = write_pair(tmp_path, [[0.5]], [[0.4]])
    series = {one.name: one for one in table.measured.series}
    assert table.differing(series["table3_cmfr"]) == {"module.network.mpfa_window": (1, 3)}
    assert table.differing(series["table3_full"]) == {}


def test_cells_of_a_setting_that_differ_in_more_than_the_seed_are_refused(tmp_path):
    write_cell(tmp_path / "cells/table3_full_0", [0.5], seed=0)
    write_cell(tmp_path / "cells/table3_full_1", [0.5], seed=1, config=NO_POOLING)
    write_record(tmp_path, [cell("table3_full", 0), cell("table3_full", 1)])
    with pytest.raises(ComparisonError, match=r"table3_full must agree .* but module\.network\.mpfa_window differs"):
        table_of(tmp_path)


def test_a_cell_that_ran_with_another_seed_is_refused(tmp_path):
    write_cell(tmp_path / "cells/table3_full_0", [0.5], seed=7)
    write_record(tmp_path, [cell("table3_full", 0)])
    with pytest.raises(ComparisonError, match="with seed 0 was run with another seed, 7 in"):
        table_of(tmp_path)


def test_seeds_on_other_images_are_refused(tmp_path):
    for seed, digest in enumerate("ab"):
        target = source("MVTec AD", ["x"], digest)
        write_cell(tmp_path / f"cells/table3_full_{seed}", {"x": 0.5}, seed=seed, target=target)
    write_record(tmp_path, [cell("table3_full", 0), cell("table3_full", 1)])
    with pytest.raises(ComparisonError, match="score the same images of MVTec AD"):
        table_of(tmp_path)


def test_a_setting_on_other_images_than_the_reference_has_no_difference(tmp_path):
    for setting, digest in (("table3_full", "a"), ("table3_cmfr", "b")):
        write_cell(tmp_path / f"cells/{setting}_0", {"x": 0.5}, target=source("MVTec AD", ["x"], digest))
    write_record(tmp_path, [cell("table3_full", 0), cell("table3_cmfr", 0)])
    assert paired_of(table_of(tmp_path)) is None


def test_settings_without_a_common_seed_have_no_difference(tmp_path):
    write_cell(tmp_path / "a", [0.5], seed=0)
    write_cell(tmp_path / "b", [0.5], seed=1, config=NO_POOLING)
    write_record(tmp_path, [cell("table3_full", 0, folder="a"), cell("table3_cmfr", 1, folder="b")])
    assert paired_of(table_of(tmp_path)) is None


def write_table(sweep, **facts):
    """Two seeds of the reference and of CMFR alone, on the whole test split unless facts say otherwise."""
    facts = {"target": WHOLE} | facts
    names = facts["target"]["categories"]
    for seed in (0, 1):
        write_cell(sweep / f"cells/table3_full_{seed}", dict.fromkeys(names, 0.9 + seed / 50), seed=seed, **facts)
        own = dict.fromkeys(names, 0.88 + seed / 50)
        write_cell(sweep / f"cells/table3_cmfr_{seed}", own, seed=seed, **{"config": NO_POOLING} | facts)
    write_record(sweep, [cell(name, seed) for name in ("table3_full", "table3_cmfr") for seed in (0, 1)])
    return table_of(sweep)


def shown(table, setting):
    (grid,) = table.grids()
    (row,) = [row for row in grid.body if row[0].shown == setting]
    return {(h.group, h.label): c.shown for h, c in zip(grid.headings, row, strict=True)}


def test_a_row_has_paper_measured_and_both_differences(tmp_path):
    row = shown(write_table(tmp_path), "CMFR")
    assert row["Image AUROC", "paper"] == "92.1"
    assert row["Image AUROC", "measured"] == "89.0 ± 1.4 (2)"
    assert row["Image AUROC", "Δ reference"] == "-2.0 [-2.0, -2.0]"
    assert row["Image AUROC", "Δ paper"] == "-3.1"
    assert row["", "Differs in"] == "network.mpfa_window=1"


def test_the_reference_is_named_and_settings_without_a_cell_have_a_row(tmp_path):
    table = write_table(tmp_path)
    assert shown(table, "CMFR + SP + MPFA")["Image AUROC", "Δ reference"] == "reference"
    row = shown(table, "CMFR + SP")
    assert (row["Image AUROC", "paper"], row["Image AUROC", "measured"]) == ("92.5", "not run")


def test_random_weights_are_named_and_not_held_against_the_paper(tmp_path):
    table = write_table(tmp_path, backbone=TINY)
    row = shown(table, "CMFR")
    assert table.heading(ABLATED) == "MVTec AD, trained on VisA: AFR-CLIP (tiny, random weights)"
    assert row["Image AUROC", "paper"] == "(92.1)"
    assert ("Image AUROC", "Δ paper") not in row


def test_another_training_has_the_papers_number_in_brackets(tmp_path):
    table = write_table(tmp_path, auxiliary=source("BTAD"))
    row = shown(table, "CMFR")
    assert table.blocks == [("MVTec AD", "BTAD")]
    assert (row["Image AUROC", "paper"], row["Image AUROC", "measured"]) == ("(92.1)", "89.0 ± 1.4 (2)")
    assert ("Image AUROC", "Δ paper") not in row


def test_a_part_of_the_test_split_is_marked(tmp_path):
    row = shown(write_table(tmp_path, target=source("MVTec AD", ["bottle", "grid"])), "CMFR")
    assert row["Image AUROC", "measured"] == "89.0 ± 1.4 (2)†"
    assert row["Image AUROC", "Δ reference"] == "-2.0 [-2.0, -2.0]†"
    assert row["Image AUROC", "Δ paper"] == "-3.1†"


def test_a_setting_that_differs_in_nothing_says_so(tmp_path):
    facts = {"config": config_with()}
    assert shown(write_table(tmp_path, **facts), "CMFR")["", "Differs in"] == "nothing"


@pytest.mark.parametrize("state", ["failed", "waiting"])
def test_a_setting_without_numbers_says_why(tmp_path, state):
    write_cell(tmp_path / "a", dict.fromkeys(CATEGORIES, 0.5), target=WHOLE)
    write_record(tmp_path, [cell("table3_full", 0, folder="a"), cell("table3_cmfr", 0, state)])
    assert shown(table_of(tmp_path), "CMFR")["Pixel AUROC", "measured"] == state


def test_an_undefined_category_enters_neither_mean_nor_difference(tmp_path):
    write_cell(tmp_path / "a", [0.5, math.nan])
    write_cell(tmp_path / "b", [0.6, 0.1], config=NO_POOLING)
    write_record(tmp_path, [cell("table3_full", 0, folder="a"), cell("table3_cmfr", 0, folder="b")])
    table = table_of(tmp_path)
    assert shown(table, "CMFR + SP + MPFA")["Image AUROC", "measured"] == "50.0†"
    assert shown(table, "CMFR")["Image AUROC", "Δ reference"] == "+10.0†"


def test_several_targets_are_blocks_with_the_papers_first(tmp_path):
    for title in ("MPDD", "MVTec AD"):
        write_cell(tmp_path / title, [0.5, 0.6], title=title)
    write_record(tmp_path, [cell("table3_full", 0, folder="MPDD")])
    assert table_of(tmp_path).blocks == [("MPDD", "VisA")]
    write_record(tmp_path, [cell("table3_full", 0, folder="MPDD"), cell("table3_cmfr", 0, folder="MVTec AD")])
    assert table_of(tmp_path).blocks == [ABLATED, ("MPDD", "VisA")]


def test_the_csv_has_every_metric_with_all_digits(tmp_path):
    records = as_dicts(write_table(tmp_path).records)
    own = {record["metric"]: record for record in records if record["setting"] == "table3_cmfr"}
    assert len(own) == 7
    number = own["image_auroc"]
    assert (number["paper"], number["measured"]) == (92.1, pytest.approx(89.0))
    assert (number["difference"], number["low"], number["high"]) == pytest.approx((-2.0, -2.0, -2.0))
    assert (number["resampled"], number["num_paired_seeds"], number["num_paired_categories"]) == (
        "seeds and categories", 2, 15,
    )  # fmt: skip
    assert own["pixel_aupro"]["paper"] is None
    assert own["pixel_aupro"]["difference_to_paper"] is None


def test_without_measurements_a_table_has_the_papers_numbers_alone():
    tables = {table.spec.name: table for table in paper_alone().tables}
    assert list(tables) == ["table3", "table4", "table5", "table6"]
    (grid,) = tables["table6"].grids()
    assert [[c.shown for c in row] for row in grid.body] == [
        ["m = 1", "92.5", "91.6"],
        ["m = 3", "93.4", "92.3"],
        ["m = 5", "93.2", "92.1"],
    ]
