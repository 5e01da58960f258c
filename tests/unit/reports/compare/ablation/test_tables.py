import csv
import io
import math

import pytest

from afr_clip.reports.compare.ablation.measure import measure, read_folder
from afr_clip.reports.compare.ablation.record import read_sweep
from afr_clip.reports.compare.ablation.tables import CSV_HEADER, PAPER_BLOCK, AblationTable
from afr_clip.reports.compare.ablation.write import paper_alone
from helpers.results import TINY, source
from helpers.sweeps import cell, config_with, write_cell, write_record

WHOLE = source("MVTec AD")
CATEGORIES = WHOLE["categories"]
NO_POOLING = config_with(module__network__mpfa_window=1)


def table_of(sweep):
    (experiment,) = read_sweep(sweep).experiments
    return AblationTable(measure(experiment, read_folder))


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
    assert table.heading(PAPER_BLOCK) == "MVTec AD, trained on VisA: AFR-CLIP (tiny, random weights)"
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
    assert table_of(tmp_path).blocks == [PAPER_BLOCK, ("MPDD", "VisA")]


def test_the_csv_has_every_metric_with_all_digits(tmp_path):
    records = [dict(zip(CSV_HEADER, record, strict=True)) for record in write_table(tmp_path).records()]
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
    buffer = io.StringIO()
    csv.writer(buffer).writerow(next(iter(records)).values())


def test_without_measurements_a_table_has_the_papers_numbers_alone():
    tables = {table.name: table for table in paper_alone().tables}
    assert list(tables) == ["table3", "table4", "table5", "table6"]
    (grid,) = tables["table6"].grids()
    assert [[c.shown for c in row] for row in grid.body] == [
        ["m = 1", "92.5", "91.6"],
        ["m = 3", "93.4", "92.3"],
        ["m = 5", "93.2", "92.1"],
    ]
