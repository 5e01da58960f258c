import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from afr_clip.reports.compare.ablation import read_folder
from afr_clip.reports.compare.paper import ABLATIONS, TableSpec
from afr_clip.reports.compare.report import (
    Ablations,
    Comparison,
    collect,
    compare,
    paper_alone,
    report_on,
)
from afr_clip.reports.compare.sweeps import read_sweep
from afr_clip.reports.compare.values import ComparisonError
from helpers.results import source, write_run
from helpers.sweeps import VISA, cell, config_with, write_ablations, write_cell, write_loss, write_record, write_search

REPOSITORY = Path(__file__).parents[4]
FILES = {"report.html", "categories.csv", "categories.md", "pairwise.csv"} | {
    f"table{number}.{ending}" for number in (1, 2) for ending in ("csv", "md", "tex")
}


def test_a_report_is_every_table_in_every_form_and_a_page(tmp_path):
    write_run(tmp_path / "run", {"MPDD": 0.5, "kvasir": 0.25}, auxiliary=source("VisA"))
    out = tmp_path / "new" / "report"
    assert compare([tmp_path / "run"]).write(out).path == out / "report.html"
    assert {path.name for path in out.iterdir()} == FILES
    with (out / "table2.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (row,) = [r for r in rows if (r["dataset"], r["method"], r["metric"]) == ("MPDD", "AFR-CLIP", "pixel_auroc")]
    assert (row["paper"], row["measured"], row["deviation"], row["state"]) == ("97.1", "50.0", "", "measured")
    categories = (out / "categories.md").read_text()
    assert categories.index("## Datasets outside the paper") < categories.index("## MPDD: AFR-CLIP trained on VisA")


def test_runs_that_scored_nothing_are_answered_with_a_sentence(tmp_path):
    write_run(tmp_path / "run", {}, absent={"visa": {"title": "VisA", "reason": "no such folder"}})
    with pytest.raises(ComparisonError) as refused:
        report_on([tmp_path / "run"])
    assert str(refused.value) == (
        f"Nothing was scored in {tmp_path}/run: VisA (no such folder). Score a dataset with afr-clip evaluate "
        f"checkpoint={tmp_path}/run dataset=NAME."
    )


def test_a_report_below_the_runs_it_reads_can_be_written_again(tmp_path):
    write_run(tmp_path / "run", {"MPDD": 0.5}, auxiliary=source("VisA"))
    out = tmp_path / "report"
    compare([tmp_path]).write(out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    compare([tmp_path]).write(out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_text_and_latex_carry_the_notices_of_the_page(tmp_path):
    part = {"MPDD": source("MPDD", ["tubes"])}
    write_run(tmp_path / "run", {"MPDD": 0.5}, auxiliary=source("VisA"), sources=part)
    compare([tmp_path / "run"]).write(tmp_path)
    for name in ("table1.md", "table1.tex"):
        assert "Not the published test splits." in (tmp_path / name).read_text()
    latex = (tmp_path / "table1.tex").read_text()
    (caption,) = [line for line in latex.splitlines() if line.startswith(r"\caption")]
    assert caption.endswith(r"as measured. \dag{} Not the published test split.}")
    comments = [line for line in latex.splitlines() if line.startswith("% ")]
    assert {"% Setting: AFR-CLIP", "% Seed: 0"} <= set(comments)
    assert any(line.startswith("% Scored: mpdd (tubes): ") and "SHA-256 aaaaaaaaaaaa" in line for line in comments)
    assert any(line.startswith("% Commit: unknown") for line in comments)


@pytest.mark.parametrize("number", [1, 2])
def test_the_record_of_a_table_without_measurements_is_what_the_report_writes(tmp_path, number):
    compare([]).write(tmp_path)
    name = f"table{number}.csv"
    assert (REPOSITORY / "experiments" / f"table{number}" / name).read_text() == (tmp_path / name).read_text()


def test_a_terminal_gets_the_datasets_outside_the_paper_only_where_there_are_some(tmp_path):
    write_run(tmp_path / "a", {"MPDD": 0.5}, auxiliary=source("VisA"))
    assert len(compare([tmp_path / "a"]).printed()) == 2
    write_run(tmp_path / "b", {"kvasir": 0.5}, auxiliary=source("VisA"))
    assert len(compare([tmp_path]).printed()) == 3


def test_a_report_is_made_without_torch():
    source = (
        "import sys, afr_clip.report\nprint({'torch', 'pandas', 'numpy'} & sys.modules.keys())\n"
        "import afr_clip.reports.compare.report\nprint({'torch', 'lightning'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["set()", "set()"]


def test_without_folders_there_are_all_tables_of_the_paper():
    ablations, comparison = report_on([])
    assert [table.spec.name for table in ablations.tables] == ["table3", "table4", "table5", "table6"]
    assert [table.spec.name for table in comparison.tables] == ["table1", "table2"]


def test_runs_alone_have_tables_1_and_2_and_a_sweep_alone_its_own(tmp_path):
    write_run(tmp_path / "run", {"MPDD": 0.5}, auxiliary=VISA)
    write_cell(tmp_path / "sweep/cells/table3_full_0", [0.5])
    write_record(tmp_path / "sweep", [cell("table3_full", 0)])
    assert [type(report) for report in report_on([tmp_path / "run"])] == [Comparison]
    assert [type(report) for report in report_on([tmp_path / "sweep"])] == [Ablations]
    ablations, comparison = report_on([tmp_path])
    assert [table.spec.name for table in ablations.tables] == ["table3"]
    assert list(comparison.measured.datasets.target) == ["MPDD"]


def write_shared(sweep):
    """Tables 3 and 6, whose references are one run folder."""
    write_loss(write_cell(sweep / "cells/full", [0.8, 0.9]), [2.0, 1.0])
    config = config_with(module__network__mpfa_window=1)
    write_loss(write_cell(sweep / "cells/other", [0.7, 0.9], config=config), [2.0, 1.5])
    for table, reference in (("table3", "table3_full"), ("table6", "table6_3")):
        own = {"table3": "table3_cmfr_sp", "table6": "table6_1"}[table]
        cells = [cell(reference, 0, folder="cells/full"), cell(own, 0, folder="cells/other")]
        write_record(sweep, cells, table)
    return sweep


def test_a_report_of_a_sweep_is_data_tables_pictures_and_a_page(tmp_path):
    write_search(write_shared(tmp_path / "sweep"), [0.1, 0.2])
    out = tmp_path / "new" / "report"
    assert write_ablations(tmp_path / "sweep", out) == out / "ablations.html"
    of_table = {"csv", "md", "tex"}
    expected = {f"{name}.{ending}" for name in ("table3", "table6") for ending in of_table}
    expected |= {f"{name}_{kind}.png" for name in ("table3", "table6") for kind in ("bars", "losses")}
    expected |= {"search.csv", "search_parallel.png", "search_best.png", "ablations.html", "ablations.json"}
    assert {path.name for path in out.iterdir()} == expected


def test_cells_that_experiments_share_are_read_once_and_stand_in_both(tmp_path):
    read = []

    def counted(folder):
        read.append(folder.name)
        return read_folder(folder)

    report = collect([read_sweep(write_shared(tmp_path))], read=counted)
    assert sorted(read) == ["full", "other"]
    for table in report.tables:
        of_reference = table.records[table.records.setting == table.experiment.reference]
        assert of_reference.measured.iloc[0] == pytest.approx(85.0)


def test_the_data_has_cells_numbers_and_the_keys_that_differ(tmp_path):
    write_ablations(write_shared(tmp_path / "sweep"), tmp_path / "out")
    content = json.loads((tmp_path / "out" / "ablations.json").read_text())
    assert content["bootstrap"] == {"level": 0.95, "resamples": 10000, "seed": 0}
    table3, _ = content["experiments"]
    key = "module.network.mpfa_window"
    assert table3["differs_in"]["table3_cmfr_sp"] == {key: {"setting": 1, "reference": 3}}
    (number,) = [n for n in table3["numbers"] if (n["setting"], n["metric"]) == ("table3_cmfr_sp", "image_auroc")]
    with (tmp_path / "out" / "table3.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if (r["setting"], r["metric"]) == ("table3_cmfr_sp", "image_auroc")]
    assert float(rows[0]["difference"]) == number["difference"] == pytest.approx(-5.0)


def test_a_report_inside_the_sweep_can_be_written_again(tmp_path):
    sweep = write_shared(tmp_path)
    write_ablations(sweep, sweep / "report")
    before = {path.name: path.read_bytes() for path in (sweep / "report").iterdir()}
    write_ablations(sweep, sweep / "report")
    assert {path.name: path.read_bytes() for path in (sweep / "report").iterdir()} == before


def test_experiments_of_the_same_name_are_refused(tmp_path):
    sweeps = [read_sweep(write_shared(tmp_path / name)) for name in ("a", "b")]
    with pytest.raises(ComparisonError, match="must have different names, got table3, table6 twice"):
        collect(sweeps)


def test_the_latex_is_as_narrow_as_its_columns_and_escaped(tmp_path):
    write_ablations(write_shared(tmp_path / "sweep"), tmp_path)
    text = (tmp_path / "table3.tex").read_text()
    assert "mpfa_window" not in text
    assert r"$-$5.0" in text
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    row = next(line for line in text.splitlines() if line.startswith("CMFR + SP &"))
    assert row.count("&") == len(columns) - 1


@pytest.mark.parametrize("name", [name for name, spec in ABLATIONS.items() if spec.settings])
def test_the_record_of_an_ablation_without_measurements_is_what_the_report_writes(tmp_path, name):
    paper_alone().write(tmp_path)
    folder = REPOSITORY / "experiments" / name
    assert (folder / f"{name}.csv").read_text() == (tmp_path / f"{name}.csv").read_text()
    lines = [line for line in (tmp_path / f"{name}.md").read_text().splitlines() if line.startswith("|")]
    assert "\n".join(lines) in (folder / "README.md").read_text()


def test_a_table_of_ones_own_is_one_spec(tmp_path, monkeypatch):
    settings = {"table7_a": ("A", "a"), "table7_b": ("B", "b")}
    spec = TableSpec("table7", "Table 7: mine", {"image_ap": "Image AP"}, 0, settings, "table7_a")
    monkeypatch.setitem(ABLATIONS, "table7", spec)
    write_cell(tmp_path / "cells/table7_a_0", [0.5, 0.7])
    write_record(tmp_path, [cell("table7_a", 0)], "table7")
    write_ablations(tmp_path, tmp_path / "out")
    assert {"table7.csv", "table7.md", "table7.tex"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert "| table7 a | 60.0\N{DAGGER} | reference |" in (tmp_path / "out" / "table7.md").read_text()
