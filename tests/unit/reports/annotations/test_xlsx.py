from pathlib import Path

import numpy as np
import pytest

from afr_clip.inspection.calibration import Decision
from afr_clip.inspection.record import Inspected
from afr_clip.inspection.regions import find_regions
from afr_clip.reports.annotations import write as annotations
from afr_clip.reports.annotations.shared import Photographs
from afr_clip.reports.annotations.xlsx import COLUMNS
from afr_clip.settings import ExportFormat

SCORES = np.float32([[0.9, 0.9, 0.1, 0.6], [0.1, 0.1, 0.1, 0.1]])
REGIONS = find_regions(SCORES, 0.5, 0.5, mm_per_pixel=0.5)
INSPECTED = [
    Inspected("=cmd|' /C calc'!A0.png", 4, 2, "nut", 0.75, 0.5, Decision.anomalous, 0.875, REGIONS),
    Inspected("Größe, 2.png", 4, 2, "-1+1", 0.25, 0.5, Decision.normal, 0.25, ()),
    Inspected("http://x.png", 4, 2, "nut", 0.125, None, None, None, find_regions(SCORES, 0.5, 0.5)),
]


def write(folder, inspected):
    photographs = Photographs(Path("photographs"), {}, "afr-clip pocket")
    annotations.write_annotations(folder, [ExportFormat.xlsx], iter(inspected), photographs)
    return folder / "xlsx" / "scores.xlsx"


def test_a_spreadsheet_holds_text_as_text_and_numbers_as_numbers(tmp_path):
    pytest.importorskip("xlsxwriter", reason="xlsxwriter is not installed")
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    path = write(tmp_path / "first", INSPECTED)
    assert path.read_bytes() == write(tmp_path / "second", INSPECTED).read_bytes()
    heading, *rows = openpyxl.load_workbook(path).active.iter_rows()
    assert [cell.value for cell in heading] == list(COLUMNS)
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
    assert openpyxl.load_workbook(write(tmp_path, [])).active.max_row == 1


def test_a_missing_package_is_named_before_anything_is_scored(monkeypatch):
    monkeypatch.setattr(annotations, "find_spec", lambda name: None)
    annotations.check_formats([ExportFormat.coco])
    with pytest.raises(annotations.MissingPackageError, match=r"xlsxwriter, which is not installed\. Run pip install"):
        annotations.check_formats([ExportFormat.coco, ExportFormat.xlsx])
