from afr_clip.reports.compare.ablation.record import read_sweep
from afr_clip.reports.compare.ablation.search_table import search_grid, search_header, search_note, search_records
from helpers.sweeps import write_search


def search_of(tmp_path, values):
    write_search(tmp_path, values)
    return read_sweep(tmp_path).search


def test_the_best_trial_stands_out_and_one_without_a_value_has_none(tmp_path):
    grid = search_grid(search_of(tmp_path, [0.25, None, 0.5]))
    assert [heading.label for heading in grid.headings[:4]] == ["Trial", "State", "Value", "optimizer.lr"]
    assert [(row[2].shown, row[2].is_strong) for row in grid.body] == [
        ("0.2500", False),
        ("-", False),
        ("0.5000", True),
    ]


def test_only_parameters_that_are_numbers_are_sorted_as_such(tmp_path):
    headings = search_grid(search_of(tmp_path, [0.25, 0.5])).headings
    assert [heading.is_text for heading in headings[3:]] == [False, False, True]


def test_the_note_names_aim_and_best(tmp_path):
    said = search_note(search_of(tmp_path, [0.25, None, 0.5]))
    assert said.startswith("Objective: metric image_auroc; direction maximize. Best of 2 trials with a value: trial 2")
    assert "module.network.mpfa_window=5" in said
    write_search(tmp_path, [0.5], objective={"metric": "pixel_ap", "targets": ["mpdd", "btad"]})
    assert "targets mpdd, btad" in search_note(read_sweep(tmp_path).search)
    assert search_note(search_of(tmp_path, [None])).endswith("No trial has a value yet.")


def test_records_have_all_digits(tmp_path):
    search = search_of(tmp_path, [0.1234567890123])
    (record,) = search_records(search)
    assert dict(zip(search_header(search), record, strict=True)) == {
        "number": 0,
        "state": "COMPLETE",
        "value": 0.1234567890123,
        "folder": "trials/0",
        "optimizer.lr": 1e-4,
        "module.network.mpfa_window": 1,
        "module.network.prompts.style": "single",
    }
