import math

from afr_clip.reports.compare.notes import ablation_notes, ablation_notices, notes, notices
from afr_clip.reports.compare.report import paper_alone
from afr_clip.reports.compare.tables import aggregate
from afr_clip.reports.compare.values import read_runs
from helpers.results import CONFIG, TINY, measured_in, source, write_run
from helpers.sweeps import cell, config_with, table_of, write_cell, write_record

VISA = source("VisA")
NO_POOLING = config_with(module__network__mpfa_window=1)


def notes_of(tmp_path):
    return notes(measured_in(tmp_path), read_runs([tmp_path]))


def test_the_papers_backbone_on_published_data_needs_no_notice(tmp_path):
    write_run(tmp_path, {"MPDD": 0.5}, auxiliary=VISA)
    assert notices(measured_in(tmp_path)) == []


def test_a_backbone_is_warned_of_once_for_all_settings_it_concerns(tmp_path):
    for weight in (0.0, 1.0):
        config = CONFIG | {"loss": {"image_weight": weight}}
        write_run(tmp_path / str(weight), {"MPDD": 0.5}, auxiliary=VISA, backbone=TINY, config=config)
    (warning, random), (_, another) = notices(measured_in(tmp_path))
    assert warning == "Random weights."
    label = "AFR-CLIP (tiny, random weights)"
    assert random.endswith(f"Concerns {label}: no image loss; {label}.")
    assert "the published ones were measured with ViT-L-14-336" in another


def test_what_is_not_a_published_test_split_is_named_with_what_it_lacks(tmp_path):
    write_run(tmp_path, {"BTAD": 0.5}, auxiliary=VISA, sources={"BTAD": source("BTAD", ["01"])})
    ((warning, said),) = notices(measured_in(tmp_path))
    assert warning == "Not the published test splits."
    assert said.endswith("BTAD 1 of 3 categories.")


def test_absent_datasets_are_named_with_their_reason_unless_another_run_has_them(tmp_path):
    absent = {"btad": {"title": "BTAD", "reason": "no such folder"}, "mpdd": {"title": "MPDD", "reason": "none"}}
    write_run(tmp_path / "a", {"ISIC": 0.5}, auxiliary=VISA, absent=absent)
    write_run(tmp_path / "b", {"MPDD": 0.5}, auxiliary=VISA)
    assert "Absent from AFR-CLIP: BTAD (no such folder)." in notes_of(tmp_path)


def test_settings_that_lack_the_same_datasets_are_named_together(tmp_path):
    absent = {"btad": {"title": "BTAD", "reason": "no such folder"}}
    for name, changes in (("a", {}), ("b", {"config": CONFIG | {"module": {"name": "anomaly_clip"}}})):
        write_run(tmp_path / name, {"ISIC": 0.5}, auxiliary=VISA, absent=absent, **changes)
    notes = [note for note in notes_of(tmp_path) if note.startswith("Absent")]
    assert notes == ["Absent from AFR-CLIP; AnomalyCLIP: BTAD (no such folder)."]


def test_settings_that_scored_other_files_of_a_dataset_are_said_to(tmp_path):
    write_run(tmp_path / "a", {"MPDD": 0.5}, auxiliary=VISA)
    winclip = CONFIG | {"module": {"name": "winclip"}}
    write_run(tmp_path / "b", {"MPDD": 0.5}, config=winclip, sources={"MPDD": source("MPDD", digest="b")})
    assert any("numbers of MPDD stand on different image files" in note for note in notes_of(tmp_path))


def test_without_runs_it_is_said_that_nothing_was_measured():
    assert notices(aggregate([])) == []
    assert any("Nothing has been measured yet" in note for note in notes(aggregate([]), []))


def test_where_nothing_was_measured_the_runs_say_what_was_absent(tmp_path):
    write_run(tmp_path, {}, absent={"visa": {"title": "VisA", "reason": "Dataset 'visa' needs a folder."}})
    assert notes_of(tmp_path)[1:] == [
        "Nothing has been measured yet: these are the paper's numbers.",
        "Absent: VisA (Dataset 'visa' needs a folder).",
    ]


def notes_below(sweep):
    return "\n".join(ablation_notes(table_of(sweep)))


def notices_of(sweep):
    return dict(ablation_notices([table_of(sweep)]))


def test_missing_cells_undefined_numbers_and_pairs_left_out_are_named(tmp_path):
    for seed in (0, 1):
        write_cell(tmp_path / f"cells/table3_full_{seed}", [0.5, 0.6, 0.7], seed=seed)
    write_cell(tmp_path / "cells/table3_cmfr_0", [0.5, math.nan, 0.6], config=NO_POOLING)
    cells = [cell("table3_full", 0), cell("table3_full", 1), cell("table3_cmfr", 0)]
    cells += [cell("table3_cmfr", 1, "failed", "The loss became NaN."), cell("table3_sp_mpfa", 0, "waiting")]
    write_record(tmp_path, cells)
    said = notes_below(tmp_path)
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
    assert notes_below(tmp_path) == ""


def test_a_reference_without_numbers_is_said_and_no_difference_made(tmp_path):
    write_cell(tmp_path / "a", [0.5])
    write_record(tmp_path, [cell("table3_cmfr", 0, folder="a")])
    assert "The reference, table3_full, has no numbers, so there is no difference to it." in notes_below(tmp_path)


def test_what_is_not_comparable_with_the_paper_is_said_plainly(tmp_path):
    write_cell(tmp_path / "a", [0.5], auxiliary=source("BTAD"))
    write_record(tmp_path, [cell("table3_full", 0, folder="a")])
    assert "MVTec AD after training on BTAD: the paper's numbers in brackets are not comparable" in notes_below(
        tmp_path
    )


def test_other_images_than_the_references_are_said(tmp_path):
    for setting, digest in (("table3_full", "a"), ("table3_cmfr", "b")):
        write_cell(tmp_path / f"cells/{setting}_0", {"x": 0.5}, target=source("MVTec AD", ["x"], digest))
    write_record(tmp_path, [cell("table3_full", 0), cell("table3_cmfr", 0)])
    assert "not on the images of the reference, so without a difference to it: CMFR." in notes_below(tmp_path)


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
        ablation_notes(table)[0].startswith("Nothing has been measured yet") and len(ablation_notes(table)) == 1
        for table in paper_alone().tables
    )
    assert ablation_notices(paper_alone().tables) == []
