import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from afr_clip.inspection.calibration import Decision
from afr_clip.inspection.record import Inspected
from afr_clip.inspection.regions import find_regions
from afr_clip.reports import spreadsheet
from afr_clip.reports.record.results import GrowingScores, ImageRow, Verdict, read_scores, write_scores

SCORES = np.float32([[0.9, 0.9, 0.1, 0.6], [0.1, 0.1, 0.1, 0.1]])
REGIONS = find_regions(SCORES, 0.5, 0.5, mm_per_pixel=0.5)
INSPECTED = [
    Inspected("=cmd|' /C calc'!A0.png", 4, 2, "nut", 0.75, 0.5, Decision.anomalous, 0.875, REGIONS),
    Inspected("Größe, 2.png", 4, 2, "-1+1", 0.25, 0.5, Decision.normal, 0.25, ()),
    Inspected("http://x.png", 4, 2, "nut", 0.125, None, None, None, find_regions(SCORES, 0.5, 0.5)),
]


def test_a_spreadsheet_holds_text_as_text_and_numbers_as_numbers(tmp_path):
    pytest.importorskip("xlsxwriter", reason="xlsxwriter is not installed")
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    spreadsheet.write_spreadsheet(tmp_path / "a.xlsx", iter(INSPECTED))
    spreadsheet.write_spreadsheet(tmp_path / "b.xlsx", iter(INSPECTED))
    assert (tmp_path / "a.xlsx").read_bytes() == (tmp_path / "b.xlsx").read_bytes()
    heading, *rows = openpyxl.load_workbook(tmp_path / "a.xlsx").active.iter_rows()
    assert [cell.value for cell in heading] == list(spreadsheet.COLUMNS)
    assert [[cell.value for cell in row] for row in rows] == [
        ["=cmd|' /C calc'!A0.png", "nut", "anomalous", 0.75, 0.5, 0.875, 2, 3, 0.75, REGIONS[0].peak],
        ["Größe, 2.png", "-1+1", "normal", 0.25, 0.5, 0.25, 0, 0, None, None],
        ["http://x.png", "nut", None, 0.125, None, None, 2, 3, None, REGIONS[0].peak],
    ]
    assert [row[0].data_type for row in rows] == ["s", "s", "s"]  # "f" would be a formula
    assert all(row[0].hyperlink is None for row in rows)


def test_no_photographs_give_the_headings(tmp_path):
    pytest.importorskip("xlsxwriter", reason="xlsxwriter is not installed")
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    spreadsheet.write_spreadsheet(tmp_path / "a.xlsx", [])
    assert openpyxl.load_workbook(tmp_path / "a.xlsx").active.max_row == 1


def test_a_missing_package_is_named_before_anything_is_scored(monkeypatch):
    monkeypatch.setattr(spreadsheet, "find_spec", lambda name: None)
    with pytest.raises(spreadsheet.SpreadsheetError, match=r"xlsxwriter, which is not installed\. Run pip install"):
        spreadsheet.require_spreadsheets()
    monkeypatch.setattr(spreadsheet, "find_spec", lambda name: importlib.util.find_spec("math"))
    spreadsheet.require_spreadsheets()


def test_scores_tell_the_verdict_where_there_is_a_calibration(tmp_path):
    undecided = replace(INSPECTED[1], decision=Decision.undecided)
    found = [*INSPECTED[:2], undecided]
    rows = [ImageRow("x", "nut", one.image, None, one.image_score, Verdict.of(one)) for one in found]
    growing = GrowingScores(tmp_path, rows[:1], with_verdict=True)
    growing.append(rows[1:])
    growing.close()
    header, first, second, third = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert header == "dataset,category,image,is_anomalous,image_score,decision,threshold,num_regions,area_px,area_mm2"
    assert first.endswith(",nut,'=cmd|' /C calc'!A0.png,1,0.75,anomalous,0.5,2,3,0.75")
    assert second.endswith(",0,0.25,normal,0.5,0,0,")
    assert third.endswith(",,0.25,undecided,0.5,0,0,")
    flags = (True, False, None)
    assert read_scores(tmp_path) == [
        replace(row, is_anomalous=flag, verdict=None) for row, flag in zip(rows, flags, strict=True)
    ]


def test_scores_without_a_calibration_are_as_they_were(tmp_path):
    row = ImageRow("x", "nut", "a.png", None, 0.125, Verdict.of(INSPECTED[2]))
    assert row.verdict is None
    write_scores(tmp_path, [row])
    assert (tmp_path / "scores.csv").read_text(encoding="utf-8") == (
        "dataset,category,image,is_anomalous,image_score\nx,nut,a.png,,0.125\n"
    )
