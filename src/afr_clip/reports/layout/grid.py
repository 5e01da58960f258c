"""A table before it is laid out: the same one becomes HTML, Markdown, LaTeX or text in a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, field

COLUMNS = {
    "image_auroc": ("I-AUROC", "Image level: area under the ROC curve; 50 is chance"),
    "image_ap": ("I-AP", "Image level: average precision"),
    "image_f1_max": ("I-F1max", "Image level: F1 at the best threshold"),
    "pixel_auroc": ("P-AUROC", "Pixel level: area under the ROC curve; 50 is chance"),
    "pixel_ap": ("P-AP", "Pixel level: average precision"),
    "pixel_f1_max": ("P-F1max", "Pixel level: F1 at the best threshold"),
    "pixel_aupro": ("PRO", "Pixel level: per-region overlap up to a false positive rate of 0.3"),
}
"""Heading and explanation of each metric, in the order of the table."""

UNDEFINED = "-"


@dataclass(frozen=True)
class Heading:
    """The head of a column.

    Attributes:
        label: Its name.
        said: What it means.
        group: Stands once above all neighbouring columns that share it.
        is_text: Whether the column holds words, which are sorted as such.
    """

    label: str
    said: str = ""
    group: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class Cell:
    """One entry.

    Attributes:
        shown: What is read.
        value: The exact number behind it, by which it is sorted; ``None`` for words and where there is none.
        is_strong: Whether it stands out.
    """

    shown: str
    value: float | None = None
    is_strong: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        name: What it shows, in a few words.
        headings: One per column; the first column names the rows.
        body: Its rows.
        foot: Rows that stay below, however the body is sorted.
    """

    name: str
    headings: Sequence[Heading]
    body: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]] = field(default=())

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Neighbouring columns that share a group, as its name and their number."""
        spans: list[tuple[str, int]] = []
        for heading in self.headings:
            if spans and spans[-1][0] == heading.group:
                spans[-1] = (heading.group, spans[-1][1] + 1)
            else:
                spans.append((heading.group, 1))
        return spans


METRIC_HEADINGS = [Heading(label, said) for label, said in COLUMNS.values()]
COUNT_HEADINGS = [Heading("Normal", "Normal images"), Heading("Anomalous", "Anomalous images")]


def counts(*numbers: int) -> list[Cell]:
    """Show whole numbers."""
    return [Cell(str(number), float(number)) for number in numbers]


def percent(value: float | None) -> Cell:
    """Show a fraction in percent; a dash where it is undefined."""
    return Cell(UNDEFINED) if value is None else Cell(f"{100 * value:.1f}", value)
