"""What others wrote into run folders and sweeps is shown as text, stays below ``--out``, and spoils no other run."""

import csv
import json

import pytest

from afr_clip.reports.compare.report import report_on
from afr_clip.reports.compare.values import ComparisonError, read_runs
from helpers.html import Tree
from helpers.results import source, write_run
from helpers.sweeps import cell, write_cell, write_record, write_search

VISA = source("VisA")

NAMES = (
    "../../ESCAPED",
    "/tmp/escaped",
    'x"><svg onload=document.title="PWNED">',
    r"x}\input{secret}{",
    "=cmd|' /C calc'!A0",
    "[red]a|b`c`_d_ $e$ [f](https://g)",
    "",
    "a\x00b\nc\u202e",
    "x" * 300,
    "search",
    "table1",
    "_hidden",
)


def written(folder, out):
    for report in report_on([folder]):
        report.write(out)
        report.printed()
    return {path.name for path in out.iterdir()}


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_an_experiment_may_be_called_anything(tmp_path, name):
    sweep, out = tmp_path / "sweep", tmp_path / "deep" / "a" / "out"
    write_cell(sweep / "cells/a", [0.5, 0.6])
    write_cell(sweep / "cells/b", [0.5, 0.7], choices={"ablation": name})
    path = write_record(sweep, [cell("table3_full", 0, folder="cells/a"), cell(name, 0, folder="cells/b")])
    write_search(sweep, [0.1, 0.2])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"experiment": name, "reference": "table3_full"}))
    path.rename(sweep / "own.json")
    files = written(sweep, out)
    assert {path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(sweep)} == {
        out / file for file in files
    }
    (stem,) = {file.removesuffix(".tex") for file in files if file.endswith(".tex")}
    assert {f"{stem}.csv", f"{stem}.md", f"{stem}_bars.png", "search.csv", "ablations.html"} <= files
    assert stem not in {"search", "table1"}
    latex = (out / f"{stem}.tex").read_text()
    assert f"\\label{{tab:{stem}}}" in latex
    assert r"\input" not in latex
    tree = Tree((out / "ablations.html").read_text(encoding="utf-8"))
    assert not [attributes for _, attributes in tree.elements if any(key.startswith("on") for key in attributes)]
    assert {attributes["href"] for attributes in tree.attributes("a")} <= {
        f"#{attributes['id']}" for _, attributes in tree.elements if "id" in attributes
    }
    with (out / f"{stem}.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert all(cell[:1] not in ("=", "+", "@") for row in table for cell in row.values())
    lines = (out / f"{stem}.md").read_text(encoding="utf-8").splitlines()
    assert len({line.count("|") - line.count(r"\|") for line in lines if line.startswith("|")}) == 1


def damage(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def remove_hash(content):
    content["manifest"]["commit"] = {}


def write_words(content):
    content["results"][0]["value"] = "x"


def lie(content):
    content["results"][0]["value"] = 1.5


def forget_a_metric(content):
    del content["results"][0]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (remove_hash, "manifest.commit.hash is missing"),
        (write_words, 'results[0].value must be a number, got "x"'),
        (lie, "results[0].value must lie in [0, 1], got 1.5"),
        (forget_a_metric, "lacks image_auroc"),
    ],
)
def test_a_damaged_run_is_named_and_the_others_are_reported(tmp_path, change, fault):
    write_run(tmp_path / "runs" / "good", {"MPDD": 0.5}, auxiliary=VISA)
    damage(write_run(tmp_path / "runs" / "bad", {"VisA": 0.5}) / "results.json", change)
    (report,) = report_on([tmp_path / "runs"])
    (said,) = report.faults
    assert said.startswith(f"{tmp_path / 'runs/bad/results.json'} cannot be read as the results of a run: ")
    assert fault in said
    text = report.write(tmp_path / "out").path.read_text()
    assert "Left out." in text
    assert "Runs: 1" in text
    with pytest.raises(ComparisonError, match="cannot be read as the results of a run"):
        report_on([tmp_path / "runs" / "bad"])


def test_a_damaged_cell_and_a_damaged_record_leave_the_rest_of_a_sweep(tmp_path):
    for name in ("a", "b"):
        write_cell(tmp_path / f"cells/{name}", [0.5, 0.6])
    (tmp_path / "cells/b/results.json").write_text("[" * 100_000)
    write_record(tmp_path, [cell("table3_full", 0, folder="cells/a"), cell("table3_cmfr", 0, folder="cells/b")])
    (tmp_path / "table6.json").write_text("\ufeff{")
    (report,) = report_on([tmp_path])
    assert [table.spec.name for table in report.tables] == ["table3"]
    (reason,) = report.tables[0].missing.values()
    assert "it nests more than 40 lists and objects" in reason
    (fault,) = report.faults
    assert fault.startswith(f"{tmp_path / 'table6.json'} cannot be read as a JSON file")


def test_what_loggers_copy_into_a_run_is_no_second_run(tmp_path, caplog):
    run = write_run(tmp_path / "0", {"MPDD": 0.5}, auxiliary=VISA)
    inside = write_run(run / "again", {"VisA": 0.5})  # a folder that a user chose inside a run is a run
    copies = [run / "mlflow/artifacts/1/results", run / "wandb/files", tmp_path / "mlruns/1/artifacts/results"]
    for copy in copies:
        copy.mkdir(parents=True)
        (copy / "results.json").write_text((run / "results.json").read_text())
    assert {found.folder for found in read_runs([tmp_path])} == {run, inside}
    assert [record.message for record in caplog.records] == [
        f"{copies[2] / 'results.json'} has no manifest.json next to it, so it is not a run's and is left out."
    ]
