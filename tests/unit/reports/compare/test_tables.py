import math
import statistics

import pytest

from afr_clip.reports.compare.paper import OVER_DATASETS
from afr_clip.reports.compare.tables import CategoryTables, ResultsTable, aggregate, as_dicts, run_grid
from afr_clip.reports.compare.values import read_runs
from afr_clip.reports.layout.grid import COLUMNS
from helpers.results import CONFIG, OF_WINCLIP, TINY, measured_in, source, write_run

VISA, MVTEC = source("VisA"), source("MVTec AD")


def table(tmp_path, number=1):
    return ResultsTable(OVER_DATASETS[number - 1], measured_in(tmp_path))


def paper_alone(number):
    return ResultsTable(OVER_DATASETS[number - 1], aggregate([]))


def shown(grid, label, trained_on=None):
    """What a row shows, by group and heading; nothing where it shows nothing."""
    rows = [row for row in (*grid.body, *grid.foot) if row[0].shown == label and trained_on in {None, row[1].shown}]
    assert len(rows) == 1, [row[0].shown for row in (*grid.body, *grid.foot)]
    cells = {(heading.group, heading.label): cell.shown for heading, cell in zip(grid.headings, rows[0], strict=True)}
    return {key: value for key, value in cells.items() if value}


def labels(grid):
    return [row[0].shown for row in grid.body], [row[0].shown for row in grid.foot]


def records(table):
    return as_dicts(table.records[list(table.header)].rename(columns=table.renamed))


def test_without_runs_the_table_is_the_papers(tmp_path):
    industrial, medical = paper_alone(1).grids()
    assert labels(industrial) == (["VisA", "BTAD", "MPDD", "MVTec AD"], ["Mean of all 4 industrial datasets"])
    assert labels(medical) == (["Head CT", "Brain MRI", "Br35H"], ["Mean of all 3 medical datasets"])
    assert shown(industrial, "VisA")["AFR-CLIP, paper", "AUROC"] == "87.0"
    assert ("APRIL-GAN, paper", "max-F1") not in shown(medical, "Head CT")
    assert all(record["measured"] is record["difference"] is None for record in records(paper_alone(1)))
    assert len(records(paper_alone(1))) == (7 + 2) * 5 * 2


def test_a_measured_number_stands_beside_the_papers_with_the_difference(tmp_path):
    write_run(tmp_path, {"MPDD": {"image_auroc": 0.80, "image_f1_max": 0.84}}, auxiliary=VISA)
    row = shown(table(tmp_path).grids()[0], "MPDD")
    measured = {label: value for (group, label), value in row.items() if group == "AFR-CLIP, measured"}
    assert measured == {
        "AUROC": "80.0",
        "AUROC \N{GREEK CAPITAL LETTER DELTA}": "+2.1",
        "max-F1": "84.0",
        "max-F1 \N{GREEK CAPITAL LETTER DELTA}": "-0.5",
    }
    assert row["AFR-CLIP, paper", "AUROC"] == "77.9"


def test_seeds_are_shown_as_mean_deviation_and_number(tmp_path):
    values = (0.80, 0.82, 0.87)
    for seed, value in enumerate(values):
        write_run(tmp_path / str(seed), {"MPDD": value}, auxiliary=VISA, seed=seed)
    paper = table(tmp_path)
    assert shown(paper.grids()[0], "MPDD")["AFR-CLIP, measured", "AUROC"] == "83.0 \N{PLUS-MINUS SIGN} 3.6 (3)"
    (record,) = [
        r for r in records(paper) if (r["dataset"], r["metric"], r["setting"]) == ("MPDD", "image_auroc", "AFR-CLIP")
    ]
    assert (record["measured"], record["num_seeds"]) == (pytest.approx(83.0), 3)
    assert record["deviation"] == pytest.approx(100 * statistics.stdev(values))
    assert record["difference"] == pytest.approx(83.0 - 77.9)


def test_a_domain_mean_is_over_what_is_present_and_so_is_the_papers_beside_it(tmp_path):
    write_run(tmp_path / "visa", {"BTAD": 0.6, "MPDD": 0.9}, auxiliary=VISA)
    write_run(tmp_path / "mvtec", {"VisA": 0.3}, auxiliary=MVTEC)
    grid = table(tmp_path).grids()[0]
    assert shown(grid, "MVTec AD")["AFR-CLIP, measured", "AUROC"] == "absent"
    partly = shown(grid, "Mean of 3 of 4 industrial datasets")
    assert partly["AFR-CLIP, measured", "AUROC"] == "60.0"
    assert partly["AFR-CLIP, paper", "AUROC"] == f"{(87.0 + 95.8 + 77.9) / 3:.1f}"
    assert partly["WinCLIP, paper", "max-F1"] == f"{(79.0 + 67.6 + 77.5) / 3:.1f}"
    everything = shown(grid, "Mean of all 4 industrial datasets")
    assert everything["AFR-CLIP, paper", "AUROC"] == "88.5"
    assert not [key for key in everything if key[0] == "AFR-CLIP, measured"]


def test_a_full_domain_has_one_mean(tmp_path):
    write_run(tmp_path, {"Head CT": 0.6, "Brain MRI": 0.7, "Br35H": 0.8}, auxiliary=VISA)
    medical = table(tmp_path).grids()[1]
    assert labels(medical)[1] == ["Mean of all 3 medical datasets"]
    assert shown(medical, "Mean of all 3 medical datasets")["AFR-CLIP, measured", "AUROC"] == "70.0"


def test_settings_with_other_datasets_are_averaged_over_the_same_ones(tmp_path):
    write_run(tmp_path / "a", {"BTAD": 0.6, "MPDD": 0.8}, auxiliary=VISA)
    write_run(tmp_path / "b", {"MPDD": 0.5}, config=CONFIG | {"module": {"name": "winclip"}}, backbone=OF_WINCLIP)
    grid = table(tmp_path).grids()[0]
    assert labels(grid)[1][1:] == [
        "Mean of 2 of 4 industrial datasets (BTAD, MPDD)",
        "Mean of 1 of 4 industrial datasets (MPDD)",
    ]
    both, one = (shown(grid, label) for label in labels(grid)[1][1:])
    assert both["AFR-CLIP, measured", "AUROC"] == "70.0"
    assert ("WinCLIP, measured", "AUROC") not in both
    assert (one["AFR-CLIP, measured", "AUROC"], one["WinCLIP, measured", "AUROC"]) == ("80.0", "50.0")


def test_an_undefined_value_is_a_dash_and_in_no_mean(tmp_path):
    write_run(tmp_path, {"MPDD": {"image_auroc": math.nan, "image_f1_max": 0.7}, "BTAD": 0.5}, auxiliary=VISA)
    paper = table(tmp_path)
    grid = paper.grids()[0]
    assert shown(grid, "MPDD")["AFR-CLIP, measured", "AUROC"] == "-"
    assert shown(grid, "Mean of 1 of 4 industrial datasets (BTAD)")["AFR-CLIP, measured", "AUROC"] == "50.0"
    assert shown(grid, "Mean of 2 of 4 industrial datasets (BTAD, MPDD)")["AFR-CLIP, measured", "max-F1"] == "60.0"
    states = {r["metric"]: r["state"] for r in records(paper) if (r["dataset"], r["method"]) == ("MPDD", "AFR-CLIP")}
    assert states == {"image_auroc": "undefined", "image_f1_max": "measured"}


def test_another_training_than_the_papers_has_a_row_of_its_own_and_no_part_in_means(tmp_path):
    write_run(tmp_path, {"MPDD": 0.9}, auxiliary=source("demo"))
    grid = table(tmp_path).grids()[0]
    assert ("AFR-CLIP, measured", "AUROC") not in shown(grid, "MPDD", "VisA")
    assert shown(grid, "BTAD", "VisA")["AFR-CLIP, measured", "AUROC"] == "absent"
    assert shown(grid, "MPDD", "demo") == {
        ("", "Dataset"): "MPDD",
        ("", "Trained on"): "demo",
        ("AFR-CLIP, measured", "AUROC"): "90.0",
        ("AFR-CLIP, measured", "max-F1"): "90.0",
    }
    assert labels(grid)[1] == ["Mean of all 4 industrial datasets"]


def test_two_parts_of_a_dataset_are_told_apart(tmp_path):
    for digest, categories in (("b", ["tubes"]), ("c", ["tubes", "connector"])):
        sources = {"MPDD": source("MPDD", categories, digest)}
        write_run(tmp_path / digest, {"MPDD": 0.5}, auxiliary=source("demo"), sources=sources)
    assert labels(table(tmp_path).grids()[0])[0][2:5] == [
        "MPDD",
        "MPDD (1 categories, bbbbbb)",
        "MPDD (2 categories, cccccc)",
    ]


def test_a_part_of_a_test_split_is_marked_wherever_it_counts(tmp_path):
    write_run(tmp_path, {"MPDD": 0.8}, auxiliary=VISA, sources={"MPDD": source("MPDD", ["tubes"])})
    paper = table(tmp_path)
    for label in ("MPDD", "Mean of 1 of 4 industrial datasets"):
        row = shown(paper.grids()[0], label)
        assert row["AFR-CLIP, measured", "AUROC"] == "80.0\N{DAGGER}"
        assert row["AFR-CLIP, measured", "AUROC \N{GREEK CAPITAL LETTER DELTA}"] == "+2.1\N{DAGGER}"
    assert {r["state"] for r in records(paper) if r["measured"] is not None} == {"partly"}


def test_random_weights_are_never_held_against_the_paper(tmp_path):
    write_run(tmp_path, {"MPDD": 0.8}, auxiliary=VISA, backbone=TINY)
    paper = table(tmp_path)
    row = shown(paper.grids()[0], "MPDD")
    measured = {label: value for (group, label), value in row.items() if "measured" in group}
    assert measured == {"AUROC": "80.0", "max-F1": "80.0"}
    assert {r["difference"] for r in records(paper)} == {None}


def test_a_method_the_paper_does_not_have_stands_first_without_differences(tmp_path):
    write_run(tmp_path, {"MPDD": 0.8}, auxiliary=VISA, config=CONFIG | {"module": {"name": "mine"}})
    paper = table(tmp_path, 2)
    headings = [(heading.group, heading.label) for heading in paper.grids()[0].headings]
    assert headings[2:4] == [("mine, measured", "AUROC"), ("mine, measured", "max-F1")]
    (record,) = [
        r for r in records(paper) if r["method"] == "mine" and r["dataset"] == "MPDD" and r["metric"] == "pixel_auroc"
    ]
    assert (record["paper"], record["measured"], record["difference"]) == (None, pytest.approx(80.0), None)


def test_a_terminal_shows_the_measured_methods_alone(tmp_path):
    write_run(tmp_path, {"MPDD": 0.8}, auxiliary=VISA)
    groups = dict.fromkeys(heading.group for heading in table(tmp_path).grids(only_measured=True)[0].headings)
    assert list(groups) == ["", "AFR-CLIP, paper", "AFR-CLIP, measured"]
    assert len(paper_alone(1).grids(only_measured=True)[0].groups) == 1 + 5


def test_a_difference_that_rounds_to_nothing_has_no_minus(tmp_path):
    write_run(tmp_path, {"MPDD": 0.77899}, auxiliary=VISA)
    delta = shown(table(tmp_path).grids()[0], "MPDD")["AFR-CLIP, measured", "AUROC \N{GREEK CAPITAL LETTER DELTA}"]
    assert delta == "+0.0"


def test_the_papers_best_is_bold_where_all_methods_are_known():
    medical = paper_alone(1).grids()[1]
    strong = [cell.shown for cell in medical.body[0] if cell.is_strong]
    assert strong == ["94.5"]


def lines(tmp_path, label):
    """The lines of a row: what each says, and its numbers that are not empty."""
    grid = table(tmp_path).print_grids()[0]
    rows = [*grid.body, *grid.foot]
    start = [row[0].shown for row in rows].index(label)
    end = next((i for i in range(start + 1, len(rows)) if rows[i][0].shown), len(rows))
    return [(row[1].shown, [cell.shown for cell in row[2:] if cell.shown]) for row in rows[start:end]]


def test_measured_numbers_stand_below_the_papers_of_their_method(tmp_path):
    write_run(tmp_path / "a", {"MPDD": 0.8}, auxiliary=VISA)
    write_run(tmp_path / "b", {"MPDD": 0.7}, config=CONFIG | {"module": {"name": "winclip"}})
    paper, measured, difference = lines(tmp_path, "MPDD")
    assert (paper[0], len(paper[1])) == ("paper", 10)
    assert measured == ("measured", ["70.0", "70.0", "80.0", "80.0"])
    assert difference == ("difference", ["+8.6", "-7.5", "+2.1", "-4.5"])


def test_several_settings_of_a_method_have_lines_of_their_own(tmp_path):
    write_run(tmp_path / "a", {"MPDD": 0.8}, auxiliary=VISA)
    write_run(tmp_path / "b", {"MPDD": 0.7}, auxiliary=VISA, config=CONFIG | {"loss": {"image_weight": 0.0}})
    said = [line for line, _ in lines(tmp_path, "MPDD")]
    assert said == [
        "paper",
        "AFR-CLIP",
        "difference",
        "AFR-CLIP: no image loss",
        "difference",
    ]


def test_absent_has_no_difference_and_another_training_no_paper(tmp_path):
    write_run(tmp_path, {"MPDD": 0.8}, auxiliary=source("demo"))
    assert lines(tmp_path, "BTAD")[1:] == [("measured", ["absent", "absent"])]
    assert lines(tmp_path, "MPDD, trained on demo") == [("measured", ["80.0", "80.0"])]


def test_the_papers_table_alone_has_one_line_per_dataset():
    grid = paper_alone(2).print_grids()[1]
    assert [row[0].shown for row in grid.body] == ["ISIC", "ColonDB", "ClinicDB", "TN3K"]
    assert {row[1].shown for row in grid.body} == {""}


def test_every_category_has_every_metric_with_the_mean_in_the_foot(tmp_path):
    for seed, value in enumerate((0.2, 0.4)):
        values = {"BTAD": {"image_auroc": value, "pixel_aupro": math.nan}}
        write_run(tmp_path / str(seed), values, auxiliary=VISA, seed=seed)
    (grid,) = CategoryTables(measured_in(tmp_path)).grids()
    assert grid.name == "BTAD: AFR-CLIP trained on VisA"
    assert [heading.label for heading in grid.headings[1:8]] == [label for label, _ in COLUMNS.values()]
    assert [row[0].shown for row in grid.body] == ["BTAD 0", "BTAD 1", "BTAD 2"]
    assert [cell.shown for cell in grid.foot[0]] == [
        "mean", "30.0 \N{PLUS-MINUS SIGN} 14.1 (2)", *["50.0 \N{PLUS-MINUS SIGN} 0.0 (2)"] * 5, "-", "9", "12",
    ]  # fmt: skip


def test_datasets_outside_the_paper_have_a_table_of_their_own(tmp_path):
    write_run(tmp_path, {"kvasir": 0.25, "MPDD": 0.5}, auxiliary=VISA)
    grid = CategoryTables(measured_in(tmp_path)).outside()
    assert [[cell.shown for cell in row] for row in grid.body] == [
        ["kvasir", "VisA", "AFR-CLIP", *["25.0"] * 7, "3", "4"],
    ]


def test_the_records_hold_every_number_with_all_digits(tmp_path):
    third = 1 / 3
    for seed, value in ((3, third), (5, 2 * third)):
        write_run(tmp_path / str(seed), {"MPDD": {"image_ap": value, "pixel_ap": math.nan}}, auxiliary=VISA, seed=seed)
    rows = as_dicts(CategoryTables(measured_in(tmp_path)).records)
    assert len(rows) == (6 + 1) * 7
    mean = {row["metric"]: row for row in rows if row["category"] == "mean"}
    assert (mean["image_ap"]["mean"], mean["image_ap"]["seeds"], mean["image_ap"]["num_seeds"]) == (50.0, "3 5", 2)
    assert mean["image_ap"]["deviation"] == pytest.approx(100 * third / math.sqrt(2), rel=1e-14)
    assert math.isnan(mean["pixel_ap"]["mean"])
    assert math.isnan(mean["pixel_ap"]["deviation"])


def test_every_run_is_named_with_what_it_gave(tmp_path):
    commit = {"hash": "c0ffee" * 4, "dirty": True}
    write_run(tmp_path / "a", {"MPDD": 0.5}, auxiliary=VISA, seed=4, commit=commit, started="2025-01-02T03:04:05+0000")
    write_run(tmp_path / "b", {}, auxiliary=VISA)
    write_run(tmp_path / "c", {"MPDD": 0.5})
    runs = read_runs([tmp_path])
    measured = aggregate(runs)
    labels = {series.name: series.label for series in measured.series}
    rows = [[cell.shown for cell in row] for row in run_grid(runs, measured).body]
    said = "c0ffeec0ffee, with uncommitted changes"
    label = labels[runs[0].setting.key]
    assert rows[0] == [str(tmp_path / "a"), label, "train", "VisA", "4", "MPDD", "2025-01-02", said]
    assert rows[1] == [str(tmp_path / "b"), "", "train", "nothing", "", "", "2026-11-28", "unknown"]
    assert rows[2][3:6] == ["nothing", "", "MPDD"]
