"""Excel: one row per photograph, for people."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from afr_clip.files import in_one_line, shown, written_whole
from afr_clip.inspection.record import Inspected
from afr_clip.reports.annotations.shared import Photographs

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


@contextmanager
def write_xlsx(folder: Path, photographs: Photographs) -> Iterator[Callable[[Inspected], None]]:
    """Write ``scores.xlsx``, in constant memory."""
    from xlsxwriter import Workbook  # noqa: PLC0415 - optional

    with written_whole(folder / "scores.xlsx") as path, Workbook(path, {"constant_memory": True}) as book:
        book.set_properties({"created": EPOCH, "comments": in_one_line(photographs.model_version)})
        sheet = book.add_worksheet("Photographs")
        sheet.freeze_panes(1, 1)
        bold, right = book.add_format({"bold": True}), book.add_format({"bold": True, "align": "right"})
        for column, (heading, (width, is_number)) in enumerate(COLUMNS.items()):
            sheet.set_column(column, column, width)
            sheet.write_string(0, column, heading, right if is_number else bold)
        row = 0

        def add(one: Inspected) -> None:
            nonlocal row
            row += 1
            for column, value in enumerate(_cells(one)):
                if isinstance(value, str):
                    sheet.write_string(row, column, value)  # never as a formula or a link
                elif value is not None:
                    sheet.write_number(row, column, value)

        yield add
        sheet.autofilter(0, 0, row, len(COLUMNS) - 1)


def _cells(one: Inspected) -> list[str | float | int | None]:
    areas = [region.area_mm2 for region in one.regions if region.area_mm2 is not None]
    return [
        *(one.image, shown(one.category), None if one.decision is None else one.decision.value),
        *(one.image_score, one.threshold, one.calibrated),
        *(len(one.regions), sum(region.area_px for region in one.regions), math.fsum(areas) if areas else None),
        one.regions[0].peak if one.regions else None,
    ]
