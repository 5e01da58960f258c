import csv
import json
from pathlib import Path

import pytest

from afr_clip.reports.compare.ablation.measure import read_folder
from afr_clip.reports.compare.ablation.paper import REFERENCES
from afr_clip.reports.compare.ablation.record import read_sweep
from afr_clip.reports.compare.ablation.write import collect, paper_alone, write_ablations
from afr_clip.reports.compare.gather import ComparisonError
from helpers.sweeps import cell, config_with, write_cell, write_loss, write_record, write_search

REPOSITORY = Path(__file__).parents[5]


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


def test_a_report_is_data_tables_pictures_and_a_page(tmp_path):
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
    spreads = [table.ablation.reference.datasets["MVTec AD", "VisA"].spread("image_auroc") for table in report.tables]
    assert spreads[0] == spreads[1]


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
    with pytest.raises(ComparisonError, match="one experiment of a name, got several called table3, table6"):
        collect(sweeps)


def test_the_latex_is_as_narrow_as_its_columns_and_escaped(tmp_path):
    write_ablations(write_shared(tmp_path / "sweep"), tmp_path)
    text = (tmp_path / "table3.tex").read_text()
    assert "mpfa_window" not in text
    assert r"$-$5.0" in text
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    row = next(line for line in text.splitlines() if line.startswith("CMFR + SP &"))
    assert row.count("&") == len(columns) - 1


@pytest.mark.parametrize("name", [name for name in REFERENCES if name != "readings"])
def test_the_record_of_a_table_without_measurements_is_what_the_report_writes(tmp_path, name):
    paper_alone().write(tmp_path)
    folder = REPOSITORY / "experiments" / name
    assert (folder / f"{name}.csv").read_text() == (tmp_path / f"{name}.csv").read_text()
    lines = [line for line in (tmp_path / f"{name}.md").read_text().splitlines() if line.startswith("|")]
    assert "\n".join(lines) in (folder / "README.md").read_text()
