"""Results as an Excel file, for people."""

from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path

from afr_clip.files import shown, written_whole
from afr_clip.inspection.record import Inspected

COLUMNS = {
    "Photograph": (50, False),
    "Category": (16, False),
    "Decision": (12, False),
    "Image score (0 to 1)": (20, True),
    "Threshold (0 to 1)": (18, True),
    "Calibrated score (threshold at 0.5)": (33, True),
    "Number of regions": (18, True),
    "Area of regions (px)": (20, True),
    "Area of regions (mm\N{SUPERSCRIPT TWO})": (22, True),
    "Highest score in a region (0 to 1)": (32, True),
}
"""Headings; the width of each column in letters, and whether it holds numbers."""

EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)
"""When every file says it was made, so that the same content gives the same bytes."""


class SpreadsheetError(ValueError):
    """An Excel file cannot be written."""


def require_spreadsheets() -> None:
    """Check that Excel files can be written, before anything is scored.

    Raises:
        SpreadsheetError: If the package for it is missing.
    """
    if find_spec("xlsxwriter") is None:
        msg = "Excel files need the package xlsxwriter, which is not installed. Run pip install 'afr-clip[xlsx]'."
        raise SpreadsheetError(msg)


def write_spreadsheet(path: Path, inspected: Iterable[Inspected]) -> None:
    """Write one row per photograph, in constant memory. The same photographs give the same bytes."""
    from xlsxwriter import Workbook  # noqa: PLC0415 - optional

    with written_whole(path) as unfinished, Workbook(unfinished, {"constant_memory": True}) as book:
        book.set_properties({"created": EPOCH})
        sheet = book.add_worksheet("Photographs")
        sheet.freeze_panes(1, 1)
        bold, right = book.add_format({"bold": True}), book.add_format({"bold": True, "align": "right"})
        for place, (heading, (width, is_number)) in enumerate(COLUMNS.items()):
            sheet.set_column(place, place, width)
            sheet.write_string(0, place, heading, right if is_number else bold)
        last = 0
        for last, one in enumerate(inspected, 1):
            for place, value in enumerate(_cells(one)):
                if isinstance(value, str):
                    sheet.write_string(last, place, value)  # never as a formula or a link
                elif value is not None:
                    sheet.write_number(last, place, value)
        sheet.autofilter(0, 0, last, len(COLUMNS) - 1)


def _cells(one: Inspected) -> list[str | float | int | None]:
    return [
        *(one.image, shown(one.category), None if one.decision is None else one.decision.value),
        *(one.image_score, one.threshold, one.calibrated),
        *(len(one.regions), one.area_px, one.area_mm2),
        one.regions[0].peak if one.regions else None,
    ]
