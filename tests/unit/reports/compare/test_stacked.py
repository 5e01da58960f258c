from afr_clip.reports.compare.aggregate import aggregate
from afr_clip.reports.compare.gather import read_runs
from afr_clip.reports.compare.paper_tables import PaperTable
from afr_clip.reports.compare.stacked import stacked_grids
from helpers.results import CONFIG, source, write_run

VISA = source("VisA")


def lines(tmp_path, label):
    """The lines of a row: what each says, and its numbers that are not empty."""
    grid = stacked_grids(PaperTable(1, aggregate(read_runs([tmp_path]))))[0]
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
        "AFR-CLIP: loss.image_weight=1.0",
        "difference",
        "AFR-CLIP: loss.image_weight=0.0",
        "difference",
    ]


def test_absent_has_no_difference_and_another_training_no_paper(tmp_path):
    write_run(tmp_path, {"MPDD": 0.8}, auxiliary=source("demo"))
    assert lines(tmp_path, "BTAD")[1:] == [("measured", ["absent", "absent"])]
    assert lines(tmp_path, "MPDD, trained on demo") == [("measured", ["80.0", "80.0"])]


def test_the_papers_table_alone_has_one_line_per_dataset():
    grid = stacked_grids(PaperTable(2, []))[1]
    assert [row[0].shown for row in grid.body] == ["ISIC", "ColonDB", "ClinicDB", "TN3K"]
    assert {row[1].shown for row in grid.body} == {""}
