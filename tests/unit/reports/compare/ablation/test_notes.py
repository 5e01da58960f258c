import math

from afr_clip.reports.compare.ablation.measure import measure, read_folder
from afr_clip.reports.compare.ablation.notes import ablation_notices, table_notes
from afr_clip.reports.compare.ablation.record import read_sweep
from afr_clip.reports.compare.ablation.tables import AblationTable
from afr_clip.reports.compare.ablation.write import paper_alone
from helpers.results import TINY, source
from helpers.sweeps import cell, config_with, write_cell, write_record

NO_POOLING = config_with(module__network__mpfa_window=1)


def ablation_of(sweep):
    (experiment,) = read_sweep(sweep).experiments
    return measure(experiment, read_folder)


def notes_of(sweep):
    return "\n".join(table_notes(AblationTable(ablation_of(sweep))))


def notices_of(sweep):
    return dict(ablation_notices([ablation_of(sweep)]))


def test_missing_cells_undefined_numbers_and_pairs_left_out_are_named(tmp_path):
    for seed in (0, 1):
        write_cell(tmp_path / f"cells/table3_full_{seed}", [0.5, 0.6, 0.7], seed=seed)
    write_cell(tmp_path / "cells/table3_cmfr_0", [0.5, math.nan, 0.6], config=NO_POOLING)
    cells = [cell("table3_full", 0), cell("table3_full", 1), cell("table3_cmfr", 0)]
    cells += [cell("table3_cmfr", 1, "failed", "The loss became NaN."), cell("table3_sp_mpfa", 0, "waiting")]
    write_record(tmp_path, cells)
    said = notes_of(tmp_path)
    assert "Without numbers: SP + MPFA, seed 0 (waiting); CMFR, seed 1 (failed: The loss became NaN)." in said
    assert "Not run: none; CMFR + SP; CMFR + MPFA." in said
    assert "Image AUROC and Pixel AUROC of CMFR 4 of 6, which leaves 2 categories with seed 0." in said
    assert "Image AUROC and Pixel AUROC of CMFR in MVTec AD 1." in said
    assert "Image AUROC and Pixel AUROC of CMFR with one common seed, over categories only" in said
    assert "brackets" not in said


def test_complete_pairs_need_no_notes(tmp_path):
    for seed in (0, 1):
        write_cell(tmp_path / f"cells/table6_3_{seed}", [0.5, 0.6], seed=seed)
        for window in (1, 5):
            config = config_with(module__network__mpfa_window=window)
            write_cell(tmp_path / f"cells/table6_{window}_{seed}", [0.5, 0.7], seed=seed, config=config)
    write_record(tmp_path, [cell(f"table6_{m}", seed) for m in (1, 3, 5) for seed in (0, 1)], "table6")
    assert notes_of(tmp_path) == ""


def test_a_reference_without_numbers_is_said_and_no_difference_made(tmp_path):
    write_cell(tmp_path / "a", [0.5])
    write_record(tmp_path, [cell("table3_cmfr", 0, folder="a")])
    assert "The reference, table3_full, has no numbers, so there is no difference to it." in notes_of(tmp_path)


def test_what_is_not_comparable_with_the_paper_is_said_plainly(tmp_path):
    write_cell(tmp_path / "a", [0.5], auxiliary=source("BTAD"))
    write_record(tmp_path, [cell("table3_full", 0, folder="a")])
    assert "MVTec AD after training on BTAD: the paper's numbers in brackets are not comparable" in notes_of(tmp_path)


def test_other_images_than_the_references_are_said(tmp_path):
    for setting, digest in (("table3_full", "a"), ("table3_cmfr", "b")):
        write_cell(tmp_path / f"cells/{setting}_0", {"x": 0.5}, target=source("MVTec AD", ["x"], digest))
    write_record(tmp_path, [cell("table3_full", 0), cell("table3_cmfr", 0)])
    assert "not on the images of the reference, so without a difference to it: CMFR." in notes_of(tmp_path)


def test_random_weights_and_parts_of_a_test_split_are_warned_of(tmp_path):
    write_cell(tmp_path / "a", [0.5], backbone=TINY)
    write_record(tmp_path, [cell("table3_full", 0, folder="a")])
    notices = notices_of(tmp_path)
    assert "The backbone tiny (afr-clip-tiny) was never trained." in notices["Random weights."]
    assert "1 of 15 categories" in notices["Not the published test splits."]


def test_a_setting_that_recorded_the_references_config_is_warned_of(tmp_path):
    for setting in ("table3_full", "table3_cmfr"):
        write_cell(tmp_path / f"cells/{setting}_0", [0.5])
    write_record(tmp_path, [cell("table3_full", 0), cell("table3_cmfr", 0)])
    assert "Table 3: CMFR." in notices_of(tmp_path)["Settings that differ in nothing."]


def test_a_table_without_measurements_says_so():
    assert all(
        table_notes(table)[0].startswith("Nothing has been measured yet") and len(table_notes(table)) == 1
        for table in paper_alone().tables
    )
    assert ablation_notices(paper_alone().ablations) == []
