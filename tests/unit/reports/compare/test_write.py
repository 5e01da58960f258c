import csv
import subprocess
import sys
from pathlib import Path

import pytest

from afr_clip.reports.compare import write_comparison
from afr_clip.reports.compare.write import compare
from helpers.results import source, write_run

REPOSITORY = Path(__file__).parents[4]
FILES = {"report.html", "categories.csv", "categories.md"} | {
    f"table{number}.{ending}" for number in (1, 2) for ending in ("csv", "md", "tex")
}


def test_a_report_is_every_table_in_every_form_and_a_page(tmp_path):
    write_run(tmp_path / "run", {"MPDD": 0.5, "kvasir": 0.25}, auxiliary=source("VisA"))
    out = tmp_path / "new" / "report"
    assert write_comparison([tmp_path / "run"], out) == out / "report.html"
    assert {path.name for path in out.iterdir()} == FILES
    with (out / "table2.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (row,) = [r for r in rows if (r["dataset"], r["method"], r["metric"]) == ("MPDD", "AFR-CLIP", "pixel_auroc")]
    assert (row["paper"], row["measured"], row["deviation"], row["state"]) == ("97.1", "50.0", "", "measured")
    categories = (out / "categories.md").read_text()
    assert categories.index("## Datasets outside the paper") < categories.index("## MPDD: AFR-CLIP trained on VisA")


def test_a_report_below_the_runs_it_reads_can_be_written_again(tmp_path):
    write_run(tmp_path / "run", {"MPDD": 0.5}, auxiliary=source("VisA"))
    out = tmp_path / "report"
    write_comparison([tmp_path], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_comparison([tmp_path], out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_text_and_latex_carry_the_notices_of_the_page(tmp_path):
    part = {"MPDD": source("MPDD", ["tubes"])}
    write_run(tmp_path / "run", {"MPDD": 0.5}, auxiliary=source("VisA"), sources=part)
    write_comparison([tmp_path / "run"], tmp_path)
    for name in ("table1.md", "table1.tex"):
        assert "Not the published test splits." in (tmp_path / name).read_text()


@pytest.mark.parametrize("number", [1, 2])
def test_the_record_of_a_table_without_measurements_is_what_the_report_writes(tmp_path, number):
    write_comparison([], tmp_path)
    name = f"table{number}.csv"
    assert (REPOSITORY / "experiments" / f"table{number}" / name).read_text() == (tmp_path / name).read_text()


def test_a_terminal_gets_the_datasets_outside_the_paper_only_where_there_are_some(tmp_path):
    write_run(tmp_path / "a", {"MPDD": 0.5}, auxiliary=source("VisA"))
    assert len(compare([tmp_path / "a"]).printed()) == 2
    write_run(tmp_path / "b", {"kvasir": 0.5}, auxiliary=source("VisA"))
    assert len(compare([tmp_path]).printed()) == 3


def test_a_report_is_made_without_torch():
    source = "import sys, afr_clip.report, afr_clip.reports.compare\nprint({'torch', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
